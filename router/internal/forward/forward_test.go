package forward_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

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
		Dial: func(string) (*grpc.ClientConn, error) { return nil, errors.New("nobody is there") },
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
