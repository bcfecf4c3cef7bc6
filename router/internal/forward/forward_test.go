package forward_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router/internal/forward"
)

// leads is a cluster of which this router says that it leads it.
type leads struct{}

func (leads) Leads() bool                  { return true }
func (leads) Leader() (id, address string) { return "", "" }

func newForwarder(t *testing.T) *forward.Forwarder {
	t.Helper()
	f := forward.New(forward.Config{
		Cluster: leads{}, Own: func(string) bool { return false }, Patience: time.Minute, Logger: slog.New(slog.DiscardHandler),
		Dial: func(string, string) (*grpc.ClientConn, error) { return nil, errors.New("nobody is there") },
	})
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// once refuses a call as a router that has lost the lead, and answers the next.
func once(t *testing.T, calls *int) grpc.UnaryHandler {
	t.Helper()
	st, err := status.New(codes.Unavailable, "this router does not lead").WithDetails(&errdetails.ErrorInfo{Reason: "NOT_LEADER"})
	if err != nil {
		t.Fatal(err)
	}
	return func(context.Context, any) (any, error) {
		if *calls++; *calls == 1 {
			return nil, st.Err()
		}
		return "answer", nil
	}
}

func TestUnary_AskedOfARouterThatLosesTheLeadMeanwhileIsAskedAgain(t *testing.T) {
	f, calls := newForwarder(t), 0
	resp, err := f.Unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/a/b"}, once(t, &calls))
	if err != nil || resp != "answer" || calls != 2 {
		t.Fatalf("after %d calls: %v, %v", calls, resp, err)
	}
}

func TestUnary_PassedOnByARouterIsNotAskedAgain(t *testing.T) {
	f, calls := newForwarder(t), 0
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("conveyor-forwarded", "1"))
	_, err := f.Unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/a/b"}, once(t, &calls))
	if status.Code(err) != codes.Unavailable || calls != 1 {
		t.Fatalf("the router that passed it on finds the leader itself; after %d calls: %v", calls, err)
	}
}

// follows is a cluster that another router leads.
type follows struct{}

func (follows) Leads() bool                  { return false }
func (follows) Leader() (id, address string) { return "2", "192.0.2.2:50051" }

// stream is one of a caller.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

var (
	errRefused    = errors.New("nothing is sent there in the clear")
	errNotReached = errors.New("not reached")
	errLost       = errors.New("may or may not have been made")
)

func TestForward_WhatIsNotSentIsSaidNotToBeMadeAtOnceAndWithTheCause(t *testing.T) {
	for name, stopping := range map[string]bool{"the leader may not be dialled": false, "this router is stopping": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := forward.New(forward.Config{
					Cluster: follows{}, Own: func(string) bool { return false }, Patience: time.Minute, Logger: slog.New(slog.DiscardHandler),
					Dial: func(string, string) (*grpc.ClientConn, error) { return nil, errRefused },
					NotReached: func(_, _ string, cause error) error {
						if cause == nil || !stopping && !errors.Is(cause, errRefused) {
							t.Errorf("the cause is %v", cause)
						}
						return errNotReached
					},
					Lost: func(string, error) error { return errLost },
				})
				stop := sync.OnceFunc(func() {
					if err := f.Close(); err != nil {
						t.Error(err)
					}
				})
				defer stop()
				if stopping {
					stop()
				}
				begun := time.Now()
				_, err := f.Unary(t.Context(), &controlv1.ApplyRequest{}, &grpc.UnaryServerInfo{FullMethod: controlv1.AdminService_Apply_FullMethodName}, nil)
				if !errors.Is(err, errNotReached) {
					t.Errorf("of a call it is said: %v", err)
				}
				err = f.Stream(nil, stream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: controlv1.AdminService_WatchResources_FullMethodName, IsServerStream: true}, nil)
				if !errors.Is(err, errNotReached) {
					t.Errorf("of a stream it is said: %v", err)
				}
				if took := time.Since(begun); took > 0 {
					t.Errorf("another router could have been asked %v earlier", took)
				}
			})
		})
	}
}
