package api

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/control"
	"github.com/conveyor-etl/conveyor/router/internal/state"
)

// domain of the reasons on the wire.
const domain = "conveyor.etl"

// The reasons on the wire. Programs decide on them, so their spelling is a promise.
const (
	reasonSessionEnded           = "SESSION_ENDED"
	reasonFenced                 = "FENCED"
	reasonNotFound               = "NOT_FOUND"
	reasonConflict               = "CONFLICT"
	reasonInvalidManifest        = "INVALID_MANIFEST"
	reasonOwnedByOther           = "OWNED_BY_OTHER"
	reasonDeadLettersUnavailable = "DEAD_LETTERS_UNAVAILABLE"
	reasonNotLeader              = "NOT_LEADER"
	reasonNoQuorum               = "NO_QUORUM"
	reasonRevisionCompacted      = "REVISION_COMPACTED"
	reasonNotAvailable           = "NOT_AVAILABLE"
	reasonLimitExceeded          = "LIMIT_EXCEEDED"
	reasonDuplicateID            = "DUPLICATE_ID"
	reasonInvalidRequest         = "INVALID_REQUEST"
	reasonHalted                 = "HALTED"
	reasonClientSessionEnded     = "CLIENT_SESSION_ENDED"
	reasonAnswered               = "ANSWERED"
	reasonDenied                 = "DENIED"
	reasonLagging                = "LAGGING"
	reasonRouterUnreachable      = "ROUTER_UNREACHABLE"
	reasonLowDisk                = "LOW_DISK"
	reasonBusy                   = "BUSY"
	reasonNothingKnown           = "NOTHING_KNOWN"
	reasonRemoved                = "REMOVED"
)

// What the metadata of a reason says of a change that was perhaps made. Without it, none was.
const (
	outcomeKey     = "outcome"
	outcomeUnknown = "unknown"
)

// fail makes an error for the wire.
func fail(code codes.Code, reason, format string, args ...any) error {
	return withDetails(status.New(code, fmt.Sprintf(format, args...)), &errdetails.ErrorInfo{Reason: reason, Domain: domain})
}

// unknown makes an error of a call that may or may not have been carried out.
func unknown(format string, args ...any) error {
	info := &errdetails.ErrorInfo{Reason: reasonNoQuorum, Domain: domain, Metadata: map[string]string{outcomeKey: outcomeUnknown}}
	return withDetails(status.New(codes.Unavailable, fmt.Sprintf(format, args...)), info)
}

func withDetails(st *status.Status, details ...protoadapt.MessageV1) error {
	if full, err := st.WithDetails(details...); err == nil {
		st = full
	}
	return st.Err()
}

func invalid(format string, args ...any) error {
	return fail(codes.InvalidArgument, reasonInvalidRequest, format, args...)
}

func notAvailable(what string) error {
	return fail(codes.Unimplemented, reasonNotAvailable, "%s is not available in this version", what)
}

// NoQuorum is what callers are told when nobody leads, for a reason.
func NoQuorum(why string) error {
	return fail(codes.Unavailable, reasonNoQuorum, "no router leads the cluster: %s", why)
}

// NotLeader is what a router that does not lead tells one that passed a call on to it.
func NotLeader() error { return toWire(raftstore.ErrNotLeader) }

// Removed is what callers are told by a router that was removed from the cluster; nothing was done.
func Removed(server string) error {
	return fail(codes.Unavailable, reasonRemoved, "router %s was removed from the cluster and answers nothing any more: ask another one, and stop this one", server)
}

// LeaderNotReached is what callers are told when a call could not be passed on to the leader, for a cause or for none that is known; nothing was done.
func LeaderNotReached(leader, address string, cause error) error {
	why := ""
	if cause != nil {
		why = fmt.Sprintf(" (%v)", cause)
	}
	return fail(codes.Unavailable, reasonNotLeader, "router %s at %s leads the cluster, and this router does not reach it%s: ask another one, or again", leader, address, why)
}

// LeaderLost is what callers are told when the leader did not answer a call that was passed on to it.
func LeaderLost(leader string, cause error) error {
	return unknown("router %s, which leads the cluster, did not answer: %v; a change may or may not have been made", leader, cause)
}

// toWire maps the errors of the parts to those of the wire. What is on the wire already passes.
func toWire(err error) error {
	var rejection *state.RejectedError
	switch {
	case err == nil:
		return nil
	case isStatus(err):
		return err
	case errors.As(err, &rejection):
		return rejected(rejection)
	case errors.Is(err, raftstore.ErrNotLeader):
		return fail(codes.Unavailable, reasonNotLeader, "this router does not lead the cluster: try again")
	// Before what it is the outcome of: a flush that fails may have written all the same.
	case errors.Is(err, raftstore.ErrUnknownOutcome):
		return unknown("the cluster did not confirm in time; the change may or may not have been made")
	case errors.Is(err, control.ErrLevel):
		return fail(codes.Unimplemented, reasonNotAvailable, "%v", err)
	case errors.Is(err, raftstore.ErrTooLarge):
		return fail(codes.ResourceExhausted, reasonLimitExceeded, "the request is too large for one step: %v", err)
	case errors.Is(err, raftstore.ErrLowDisk):
		return fail(codes.ResourceExhausted, reasonLowDisk, "%v", err)
	case errors.Is(err, raftstore.ErrDiskFailed), errors.Is(err, raftstore.ErrDiskHangs):
		return fail(codes.Unavailable, reasonNotLeader, "this router is stopping: %v", err)
	case errors.Is(err, raftstore.ErrHalted):
		return fail(codes.Unavailable, reasonHalted, "this router has stopped: %v", err)
	case errors.Is(err, raftstore.ErrAlone):
		return fail(codes.FailedPrecondition, reasonConflict, "this router runs alone: start it again with RAFT_PEERS listing itself and the routers to come, then add them")
	case errors.Is(err, raftstore.ErrRefused):
		return fail(codes.FailedPrecondition, reasonConflict, "the members of the cluster were not changed: %v", err)
	case errors.Is(err, raftstore.ErrClosed):
		return fail(codes.Unavailable, reasonNotLeader, "the router is stopping")
	case errors.Is(err, dlq.ErrNotFound):
		return fail(codes.NotFound, reasonNotFound, "%v", err)
	case errors.Is(err, dlq.ErrFull):
		return fail(codes.ResourceExhausted, reasonDeadLettersUnavailable, "%v: discard or replay letters to make room", err)
	case errors.Is(err, dlq.ErrTooLarge):
		return fail(codes.InvalidArgument, reasonLimitExceeded, "%v", err)
	case errors.Is(err, dlq.ErrCorrupt):
		return fail(codes.DataLoss, reasonDeadLettersUnavailable, "%v", err)
	case errors.Is(err, dlq.ErrUnavailable), errors.Is(err, dlq.ErrClosed):
		return fail(codes.Unavailable, reasonDeadLettersUnavailable, "%v", err)
	case errors.Is(err, state.ErrCompacted):
		return fail(codes.OutOfRange, reasonRevisionCompacted, "%v", err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Internal, err.Error())
}

func isStatus(err error) bool {
	_, ok := err.(interface{ GRPCStatus() *status.Status })
	return ok
}

func rejected(r *state.RejectedError) error {
	switch r.Reason {
	case state.NotFound:
		return fail(codes.NotFound, reasonNotFound, "%s", r.Message)
	case state.Conflict:
		return fail(codes.Aborted, reasonConflict, "%s", r.Message)
	case state.SessionEnded:
		return fail(codes.NotFound, reasonSessionEnded, "%s: register again", r.Message)
	case state.ClientSessionEnded:
		return fail(codes.FailedPrecondition, reasonClientSessionEnded, "%s: open another", r.Message)
	case state.Answered:
		return fail(codes.FailedPrecondition, reasonAnswered, "%s", r.Message)
	case state.TooMany:
		return fail(codes.ResourceExhausted, reasonLimitExceeded, "%s", r.Message)
	}
	return invalid("%s", r.Message)
}
