package api_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/api"
	"github.com/conveyor-etl/conveyor/router/internal/state"
)

// Programs decide on code and reason, so the table is a promise.
func TestToWire_EveryErrorHasItsCodeAndReason(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("doing something: %w", err) }
	for _, c := range []struct {
		err    error
		code   codes.Code
		reason string
	}{
		{&state.RejectedError{Reason: state.NotFound}, codes.NotFound, "NOT_FOUND"},
		{&state.RejectedError{Reason: state.Conflict}, codes.Aborted, "CONFLICT"},
		{&state.RejectedError{Reason: state.SessionEnded}, codes.NotFound, "SESSION_ENDED"},
		{&state.RejectedError{Reason: state.Malformed}, codes.InvalidArgument, "INVALID_REQUEST"},
		{raftstore.ErrNotLeader, codes.Unavailable, "NOT_LEADER"},
		{raftstore.ErrClosed, codes.Unavailable, "NOT_LEADER"},
		{raftstore.ErrUnknownOutcome, codes.Unavailable, "NO_QUORUM"},
		{raftstore.ErrDiskFailed, codes.Unavailable, "NOT_LEADER"},
		{errors.Join(raftstore.ErrUnknownOutcome, raftstore.ErrDiskFailed), codes.Unavailable, "NO_QUORUM"}, // a failed flush may have written
		{errors.Join(raftstore.ErrNotLeader, raftstore.ErrUnknownOutcome), codes.Unavailable, "NOT_LEADER"}, // a read that was not made
		{raftstore.ErrTooLarge, codes.ResourceExhausted, "LIMIT_EXCEEDED"},
		{&raftstore.HaltedError{}, codes.Unavailable, "HALTED"},
		{dlq.ErrNotFound, codes.NotFound, "NOT_FOUND"},
		{dlq.ErrFull, codes.ResourceExhausted, "DEAD_LETTERS_UNAVAILABLE"},
		{dlq.ErrUnavailable, codes.Unavailable, "DEAD_LETTERS_UNAVAILABLE"},
		{dlq.ErrClosed, codes.Unavailable, "DEAD_LETTERS_UNAVAILABLE"},
		{dlq.ErrTooLarge, codes.InvalidArgument, "LIMIT_EXCEEDED"},
		{&dlq.CorruptError{ID: 1}, codes.DataLoss, "DEAD_LETTERS_UNAVAILABLE"},
		{state.ErrCompacted, codes.OutOfRange, "REVISION_COMPACTED"},
		{context.Canceled, codes.Canceled, ""},
		{context.DeadlineExceeded, codes.DeadlineExceeded, ""},
		{errors.New("a surprise"), codes.Internal, ""},
	} {
		st := status.Convert(api.ToWire(wrap(c.err)))
		reason := ""
		for _, d := range st.Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == "conveyor.etl" {
				reason = info.GetReason()
			}
		}
		if st.Code() != c.code || reason != c.reason {
			t.Errorf("%v: %v %q, want %v %q", c.err, st.Code(), reason, c.code, c.reason)
		}
	}
	if api.ToWire(nil) != nil {
		t.Error("no error became one")
	}
}
