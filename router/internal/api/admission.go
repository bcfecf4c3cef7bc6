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
	// registering is how many registrations are carried out at a time, and registrationsWaiting how many bytes more may wait for that: thousands of ordinary ones.
	registering          = 64
	registrationsWaiting = 32 << 20
	// registrationPatience is how long one waits: not as long as its sidecar.
	registrationPatience = 2 * time.Second
	// storing is how many reports of checkpoints are carried out at a time: enough that they share the syncs of the disk. checkpointsWaiting is how many bytes of them more may
	// wait for that: the reports of a thousand sidecars with some hundred lanes each.
	storing            = 32
	checkpointsWaiting = 32 << 20
	checkpointPatience = 2 * time.Second
)

// admission lets so many calls in at a time, and some more wait. Others are told to come again at different moments.
type admission struct {
	what     string
	slots    chan struct{}
	waiting  atomic.Int64 // bytes
	queue    int64        // bytes that may wait
	patience time.Duration
}

func newAdmission(what string, slots, queue int, patience time.Duration) *admission {
	return &admission{what: what, slots: make(chan struct{}, slots), queue: int64(queue), patience: patience}
}

// enter waits for a place for a request of so many bytes; leave gives it back.
func (a *admission) enter(ctx context.Context, bytes int) (leave func(), err error) {
	leave = func() { <-a.slots }
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	select {
	case a.slots <- struct{}{}:
		return leave, nil
	default:
	}
	defer a.waiting.Add(-int64(bytes))
	if a.waiting.Add(int64(bytes)) > a.queue {
		return nil, a.busy()
	}
	patience := time.NewTimer(a.patience)
	defer patience.Stop()
	select {
	case a.slots <- struct{}{}:
		// Who asked may have gone meanwhile, and comes again with something newer.
		if ctx.Err() == nil {
			return leave, nil
		}
		leave()
		return nil, status.FromContextError(ctx.Err()).Err()
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
