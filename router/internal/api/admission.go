package api

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// registering is how many registrations are carried out at a time, and registrationsWaiting how many more may wait for that: each holds up to 384 KiB.
	registering          = 64
	registrationsWaiting = 1024
	// registrationPatience is how long one waits: not as long as its sidecar.
	registrationPatience = 2 * time.Second
)

// admission lets so many calls in at a time, and some more wait. Others are told to come again at different moments.
type admission struct {
	what     string
	slots    chan struct{}
	waiting  atomic.Int64
	queue    int64
	patience time.Duration
}

func newAdmission(what string, slots, queue int, patience time.Duration) *admission {
	return &admission{what: what, slots: make(chan struct{}, slots), queue: int64(queue), patience: patience}
}

// enter waits for a place, which leave gives back.
func (a *admission) enter(ctx context.Context) (leave func(), err error) {
	leave = func() { <-a.slots }
	select {
	case a.slots <- struct{}{}:
		return leave, nil
	default:
	}
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > a.queue {
		return nil, a.busy()
	}
	patience := time.NewTimer(a.patience)
	defer patience.Stop()
	select {
	case a.slots <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-patience.C:
		return nil, a.busy()
	}
}

func (a *admission) busy() error {
	again := a.patience/2 + rand.N(a.patience)
	return withDetails(status.New(codes.ResourceExhausted, fmt.Sprintf("the cluster has too many %s to carry out at this moment: try again in %v", a.what, again.Round(time.Millisecond))),
		&errdetails.ErrorInfo{Reason: reasonBusy, Domain: domain}, &errdetails.RetryInfo{RetryDelay: durationpb.New(again)})
}
