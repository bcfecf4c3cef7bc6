package client_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// pausedAddress is that of a router whose process stands still: its connections are taken, and nothing is answered.
func pausedAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	return lis.Addr().String()
}

// healthy does what is not to be done twice.
type healthy struct {
	controlv1.UnimplementedAdminServiceServer
	controlv1.UnimplementedDeadLetterServiceServer
}

func (healthy) GetResource(context.Context, *controlv1.GetResourceRequest) (*controlv1.GetResourceResponse, error) {
	return nil, status.Error(codes.NotFound, "there is none")
}

func (healthy) TransferLeadership(context.Context, *controlv1.TransferLeadershipRequest) (*controlv1.TransferLeadershipResponse, error) {
	return &controlv1.TransferLeadershipResponse{LeaderId: "b"}, nil
}

func (healthy) DiscardLetters(context.Context, *controlv1.DiscardLettersRequest) (*controlv1.DiscardLettersResponse, error) {
	return &controlv1.DiscardLettersResponse{Discarded: 1}, nil
}

func (healthy) ListLetters(_ *controlv1.ListLettersRequest, s grpc.ServerStreamingServer[controlv1.ListLettersResponse]) error {
	return s.Send(&controlv1.ListLettersResponse{Letter: &controlv1.Letter{Id: 1}})
}

func (healthy) ReplayLetters(_ *controlv1.ReplayLettersRequest, s grpc.ServerStreamingServer[controlv1.ReplayLettersResponse]) error {
	return s.Send(&controlv1.ReplayLettersResponse{Done: true})
}

func TestClient_WhatIsNotRepeatedIsAskedOfARouterThatAnswers(t *testing.T) {
	for name, do := range map[string]func(context.Context, *client.Client) error{
		"transfer": func(ctx context.Context, c *client.Client) error { _, err := c.TransferLeadership(ctx, ""); return err },
		"discard":  func(ctx context.Context, c *client.Client) error { _, err := c.DiscardLetters(ctx, nil); return err },
		"list": func(ctx context.Context, c *client.Client) error {
			for _, err := range c.Letters(ctx, nil, 0) {
				return err
			}
			return errors.New("no letter")
		},
		"replay": func(ctx context.Context, c *client.Client) error {
			for _, err := range c.ReplayLetters(ctx, nil) {
				return err
			}
			return errors.New("no progress")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, []string{pausedAddress(t), serveAt(t, "127.0.0.1:0", healthy{}, healthy{}, &router{})})
			ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second) // a connection to a silent one is given up after 10
			defer cancel()
			if err := do(ctx, c); err != nil {
				t.Error(err)
			}
		})
	}
}

// silent takes calls and answers none until it is over.
type silent struct {
	healthy
	over chan struct{}
}

func (s silent) GetResource(context.Context, *controlv1.GetResourceRequest) (*controlv1.GetResourceResponse, error) {
	<-s.over
	return nil, status.Error(codes.Unavailable, "it is over")
}

// A session of a sidecar outlives one try at a router that is silent, and not many of them.
func TestClient_OfSeveralCallsThatARouterDoesNotAnswerEachAsksTheNextOne(t *testing.T) {
	const within = 7 * time.Second // a router that is silent is asked for 4
	over := make(chan struct{})
	paused := serveAt(t, "127.0.0.1:0", silent{over: over}, healthy{}, &router{})
	t.Cleanup(func() { close(over) })
	c := dial(t, []string{paused, serveAt(t, "127.0.0.1:0", healthy{}, healthy{}, &router{})})
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			if _, err := c.Get(ctx, "Pipeline", "default", "p"); !errors.Is(err, client.ErrNotFound) {
				t.Errorf("within %v: %v", within, err)
			}
		})
	}
	calls.Wait()
}

// early gives up calls a moment before their time is over, as a router whose clock is a little ahead.
type early struct{ healthy }

func (early) GetResource(ctx context.Context, _ *controlv1.GetResourceRequest) (*controlv1.GetResourceResponse, error) {
	deadline, _ := ctx.Deadline()
	before, cancel := context.WithDeadline(ctx, deadline.Add(-20*time.Millisecond))
	defer cancel()
	<-before.Done()
	return nil, status.Error(codes.DeadlineExceeded, "the time is over")
}

func TestClient_ARouterThatGivesUpAMomentBeforeTheTimeIsOverIsTakenForSilent(t *testing.T) {
	c := dial(t, []string{serveAt(t, "127.0.0.1:0", early{}, healthy{}, &router{}), serveAt(t, "127.0.0.1:0", healthy{}, healthy{}, &router{})})
	if _, err := c.Get(t.Context(), "Pipeline", "default", "p"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("the next router was not asked: %v", err)
	}
}

// Whoever looks at a cluster without a majority is told so, whichever router is asked last.
func TestClient_ARouterThatSaysThatThereIsNoMajorityIsBelievedBeforeThoseThatDoNotAnswer(t *testing.T) {
	st, err := status.New(codes.Unavailable, "no majority").WithDetails(&errdetails.ErrorInfo{Reason: string(client.ReasonNoQuorum), Domain: client.Domain})
	if err != nil {
		t.Fatal(err)
	}
	alive := (&router{list: func(int64) (*controlv1.ListResourcesResponse, error) { return nil, st.Err() }}).serve(t, "127.0.0.1:0")
	dead := deadAddress(t)
	for _, targets := range [][]string{{alive, dead}, {dead, alive}, {dead, alive, dead}} {
		c := dial(t, targets, client.WithRetryFor(200*time.Millisecond))
		if _, _, err := c.List(t.Context(), "Pipeline", ""); !errors.Is(err, client.ErrNoQuorum) {
			t.Errorf("%v: %v", targets, err)
		}
	}
}
