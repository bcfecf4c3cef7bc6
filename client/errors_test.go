package client_test

import (
	"errors"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// refusal is an error as routers send it.
func refusal(code codes.Code, reason client.Reason, message string, more ...protoadapt.MessageV1) error {
	details := append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(reason), Domain: client.Domain, Metadata: map[string]string{"name": "p"}}}, more...)
	st, err := status.New(code, message).WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return st.Err()
}

// reasons are all that routers give, with their sentinels.
var reasons = map[client.Reason]error{
	client.ReasonSessionEnded:           client.ErrSessionEnded,
	client.ReasonFenced:                 client.ErrFenced,
	client.ReasonStaleEpoch:             client.ErrStaleEpoch,
	client.ReasonNotFound:               client.ErrNotFound,
	client.ReasonConflict:               client.ErrConflict,
	client.ReasonInvalidManifest:        client.ErrInvalid,
	client.ReasonOwnedByOther:           client.ErrOwnedByOther,
	client.ReasonDeadLettersUnavailable: client.ErrDeadLettersUnavailable,
	client.ReasonNotLeader:              client.ErrNotLeader,
	client.ReasonNoQuorum:               client.ErrNoQuorum,
	client.ReasonRevisionCompacted:      client.ErrRevisionCompacted,
	client.ReasonNotAvailable:           client.ErrNotAvailable,
	client.ReasonClientSessionEnded:     client.ErrClientSessionEnded,
	client.ReasonDenied:                 client.ErrDenied,
	client.ReasonLagging:                client.ErrLagging,
	client.ReasonRouterUnreachable:      client.ErrRouterUnreachable,
	client.ReasonLowDisk:                client.ErrLowDisk,
	client.ReasonDuplicateID:            client.ErrDuplicateID,
	client.ReasonBusy:                   client.ErrBusy,
	client.ReasonNothingKnown:           client.ErrNothingKnown,
	client.ReasonRemoved:                client.ErrRemoved,
}

func TestErrors_EveryReasonComesBackAsItsOwnError(t *testing.T) {
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	if declared := regexp.MustCompile(`(?m)^\tReason\w+ +Reason = "`).FindAll(source, -1); len(declared) != len(reasons) {
		t.Fatalf("%d reasons are declared and %d are tested", len(declared), len(reasons))
	}
	var answer error
	r := &router{list: func(int64) (*controlv1.ListResourcesResponse, error) { return nil, answer }}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")}, client.WithRetryFor(0))
	for reason, want := range reasons {
		// The code must not matter where there is a reason.
		for _, code := range []codes.Code{codes.FailedPrecondition, codes.NotFound, codes.Unavailable} {
			answer = refusal(code, reason, "what happened")
			_, _, err := c.List(t.Context(), "Pipeline", "")
			for other, sentinel := range reasons {
				if is := errors.Is(err, sentinel); is != (other == reason) {
					t.Errorf("%s with %s: errors.Is(err, %v) = %t", reason, code, sentinel, is)
				}
			}
			var e *client.Error
			if !errors.As(err, &e) {
				t.Fatalf("%s: %T is no *client.Error; want %v", reason, err, want)
			}
			if diff := cmp.Diff(&client.Error{Code: code, Reason: reason, Message: "what happened", Metadata: map[string]string{"name": "p"}}, e); diff != "" {
				t.Error(diff)
			}
		}
	}
}

func TestErrors_ViolationsAreKept(t *testing.T) {
	r := &router{list: func(int64) (*controlv1.ListResourcesResponse, error) {
		return nil, refusal(codes.InvalidArgument, client.ReasonInvalidManifest, "1 fault", &errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "spec.steps[1]", Reason: "CV0107", Description: "unknown"}},
		})
	}}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
	_, _, err := c.List(t.Context(), "Pipeline", "")
	var e *client.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *client.Error", err)
	}
	if diff := cmp.Diff([]client.Violation{{Code: "CV0107", Path: "spec.steps[1]", Message: "unknown"}}, e.Violations); diff != "" {
		t.Error(diff)
	}
	if got, want := e.Error(), "1 fault\n  [CV0107] spec.steps[1]: unknown"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

func TestErrors_SayWhenToComeAgain(t *testing.T) {
	var delay time.Duration
	r := &router{list: func(int64) (*controlv1.ListResourcesResponse, error) {
		return nil, refusal(codes.ResourceExhausted, client.ReasonBusy, "busy", &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	}}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
	for _, tt := range []struct{ says, want time.Duration }{{0, 0}, {2 * time.Second, 2 * time.Second}, {time.Hour, time.Minute}} {
		delay = tt.says
		_, _, err := c.List(t.Context(), "Pipeline", "")
		if got := client.RetryAfter(err); got != tt.want {
			t.Errorf("a router that says %v: come again after %v, want %v (%v)", tt.says, got, tt.want, err)
		}
	}
	if got := client.RetryAfter(client.ErrUnreachable); got != 0 {
		t.Errorf("where nobody said anything: %v", got)
	}
}

func TestErrors_CodesServeWhereThereIsNoReason(t *testing.T) {
	for code, want := range map[codes.Code]error{
		codes.NotFound:         client.ErrNotFound,
		codes.InvalidArgument:  client.ErrInvalid,
		codes.PermissionDenied: client.ErrDenied,
		codes.Unauthenticated:  client.ErrDenied,
		codes.Unimplemented:    client.ErrNotAvailable,
		codes.Unavailable:      client.ErrUnreachable,
	} {
		r := &router{list: func(int64) (*controlv1.ListResourcesResponse, error) { return nil, status.Error(code, "so it is") }}
		c := dial(t, []string{r.serve(t, "127.0.0.1:0")}, client.WithRetryFor(0))
		if _, _, err := c.List(t.Context(), "Pipeline", ""); !errors.Is(err, want) {
			t.Errorf("%s: %v does not match %v", code, err, want)
		}
	}
}
