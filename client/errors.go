package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Domain is the domain of the reasons that Conveyor's parts give for a failure.
const Domain = "conveyor.etl"

// Reason says for programs why a router refused a call.
type Reason string

// The reasons that routers give.
const (
	ReasonSessionEnded           Reason = "SESSION_ENDED"
	ReasonFenced                 Reason = "FENCED"
	ReasonStaleEpoch             Reason = "STALE_EPOCH"
	ReasonNotFound               Reason = "NOT_FOUND"
	ReasonConflict               Reason = "CONFLICT"
	ReasonInvalidManifest        Reason = "INVALID_MANIFEST"
	ReasonOwnedByOther           Reason = "OWNED_BY_OTHER"
	ReasonDeadLettersUnavailable Reason = "DEAD_LETTERS_UNAVAILABLE"
	ReasonNotLeader              Reason = "NOT_LEADER"
	ReasonNoQuorum               Reason = "NO_QUORUM"
	ReasonRevisionCompacted      Reason = "REVISION_COMPACTED"
	ReasonNotAvailable           Reason = "NOT_AVAILABLE"
	ReasonDenied                 Reason = "DENIED"
	ReasonClientSessionEnded     Reason = "CLIENT_SESSION_ENDED"
	ReasonLagging                Reason = "LAGGING"
	ReasonRouterUnreachable      Reason = "ROUTER_UNREACHABLE"
	ReasonLowDisk                Reason = "LOW_DISK"
	ReasonDuplicateID            Reason = "DUPLICATE_ID"
	ReasonBusy                   Reason = "BUSY"
	ReasonNothingKnown           Reason = "NOTHING_KNOWN"
	ReasonRemoved                Reason = "REMOVED"
)

// The errors that callers branch on, with errors.Is.
var (
	// ErrSessionEnded is returned when the router no longer knows the sidecar's session: register again.
	ErrSessionEnded = errors.New("the session has ended")
	// ErrFenced is returned when a newer owner has taken over: stop the work.
	ErrFenced = errors.New("fenced by a newer owner")
	// ErrStaleEpoch is returned when the epoch of the request is older than one already seen.
	ErrStaleEpoch = errors.New("the epoch is out of date")
	// ErrNotFound is returned when the named thing does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict is returned when the thing is in a state that does not allow the change.
	ErrConflict = errors.New("conflict")
	// ErrInvalid is returned when the router refuses what a manifest or a request says; an *Error holds the violations.
	ErrInvalid = errors.New("invalid")
	// ErrOwnedByOther is returned when a resource belongs to another owner.
	ErrOwnedByOther = errors.New("owned by another")
	// ErrDeadLettersUnavailable is returned when the dead-letter store cannot take or give letters now.
	ErrDeadLettersUnavailable = errors.New("the dead-letter store is unavailable")
	// ErrNotLeader is returned when the router that was asked does not lead, and none that does was found in time.
	ErrNotLeader = errors.New("not the leader")
	// ErrNoQuorum is returned when the routers cannot agree for want of a majority.
	ErrNoQuorum = errors.New("no majority of routers")
	// ErrRevisionCompacted is returned when a watch asked for changes that are no longer kept: list again.
	ErrRevisionCompacted = errors.New("the revision is too old")
	// ErrNotAvailable is returned when the router knows what is asked but cannot do it in this version.
	ErrNotAvailable = errors.New("not available in this version")
	// ErrClientSessionEnded is returned when the routers have ended the session under which a change came.
	ErrClientSessionEnded = errors.New("the client session has ended")
	// ErrOutcomeUnknown is returned, beside the reason, when a change was sent, no answer came, and this client does not find out any more whether it was made.
	ErrOutcomeUnknown = errors.New("the change may or may not have been made")
	// ErrLagging is returned when a router has not caught up with the cluster yet: try again later.
	ErrLagging = errors.New("the router lags behind")
	// ErrRouterUnreachable is returned when the routers do not reach the one that a change is about.
	ErrRouterUnreachable = errors.New("the router is not reached by the others")
	// ErrLowDisk is returned when the router that leads has too little disk to change anything; nothing was changed.
	ErrLowDisk = errors.New("the router's disk is nearly full")
	// ErrDuplicateID is returned to a sidecar whose id belongs to another one, which is alive.
	ErrDuplicateID = errors.New("the id belongs to another sidecar")
	// ErrBusy is returned when the routers have too much to do at the moment; the *Error says when to come again.
	ErrBusy = errors.New("the routers are busy")
	// ErrNothingKnown is returned for a stale read when no router that answers has learned anything since its start.
	ErrNothingKnown = errors.New("the router knows nothing yet")
	// ErrRemoved is returned when the only routers that answer were removed from the cluster: ask those that are left.
	ErrRemoved = errors.New("the router was removed from the cluster")
	// ErrUnreachable is returned when no router answered.
	ErrUnreachable = errors.New("no router answered")
	// ErrDenied is returned when the router does not know the caller or does not let it do this.
	ErrDenied = errors.New("not permitted")
	// ErrInsecure is returned when an address that is not loopback would have to be dialled without certificates.
	ErrInsecure = errors.New("refused without certificates")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the client is closed")
)

var sentinels = map[Reason]error{
	ReasonSessionEnded:           ErrSessionEnded,
	ReasonFenced:                 ErrFenced,
	ReasonStaleEpoch:             ErrStaleEpoch,
	ReasonNotFound:               ErrNotFound,
	ReasonConflict:               ErrConflict,
	ReasonInvalidManifest:        ErrInvalid,
	ReasonOwnedByOther:           ErrOwnedByOther,
	ReasonDeadLettersUnavailable: ErrDeadLettersUnavailable,
	ReasonNotLeader:              ErrNotLeader,
	ReasonNoQuorum:               ErrNoQuorum,
	ReasonRevisionCompacted:      ErrRevisionCompacted,
	ReasonNotAvailable:           ErrNotAvailable,
	ReasonDenied:                 ErrDenied,
	ReasonClientSessionEnded:     ErrClientSessionEnded,
	ReasonLagging:                ErrLagging,
	ReasonRouterUnreachable:      ErrRouterUnreachable,
	ReasonLowDisk:                ErrLowDisk,
	ReasonDuplicateID:            ErrDuplicateID,
	ReasonBusy:                   ErrBusy,
	ReasonNothingKnown:           ErrNothingKnown,
	ReasonRemoved:                ErrRemoved,
}

// byCode serves answers that carry no reason, such as those of a proxy or of a router that does not know a method.
var byCode = map[codes.Code]error{
	codes.NotFound:         ErrNotFound,
	codes.InvalidArgument:  ErrInvalid,
	codes.AlreadyExists:    ErrConflict,
	codes.Aborted:          ErrConflict,
	codes.Unimplemented:    ErrNotAvailable,
	codes.PermissionDenied: ErrDenied,
	codes.Unauthenticated:  ErrDenied,
	codes.Unavailable:      ErrUnreachable,
	codes.Canceled:         context.Canceled,
	codes.DeadlineExceeded: context.DeadlineExceeded,
}

// Error is the refusal of a router. It matches the sentinel of its Reason, or of its Code where the router gave no reason.
type Error struct {
	// Code is the gRPC code.
	Code codes.Code
	// Reason is empty when the answer did not come from Conveyor.
	Reason Reason
	// Message is for people.
	Message string
	// Metadata is what the router added to the reason, such as the name of a resource.
	Metadata map[string]string
	// Violations are what is wrong with a request, field by field.
	Violations []Violation
	// RetryAfter is how long the router wants not to be asked again; 0 when it does not say.
	RetryAfter time.Duration
}

// maxRetryAfter bounds what a router may ask for.
const maxRetryAfter = time.Minute

// RetryAfter returns how long the router that refused a call does not want to be asked again: a minute at most, and 0 for an error that does not say.
func RetryAfter(err error) time.Duration {
	var refusal *Error
	if !errors.As(err, &refusal) {
		return 0
	}
	return min(refusal.RetryAfter, maxRetryAfter)
}

// Violation is one thing that is wrong with a request.
type Violation struct {
	// Code names the kind of violation, such as CV0107; it may be empty.
	Code string
	// Path is the field, such as spec.steps[1].
	Path string
	// Message is for people.
	Message string
}

// Error is the router's message with the violations, one to a line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	if e.Message == "" {
		b.WriteString(e.Code.String())
	}
	for _, v := range e.Violations {
		b.WriteString("\n  ")
		if v.Code != "" {
			fmt.Fprintf(&b, "[%s] ", v.Code)
		}
		if v.Path != "" {
			fmt.Fprintf(&b, "%s: ", v.Path)
		}
		b.WriteString(v.Message)
	}
	return b.String()
}

// Is matches the sentinel of the reason or, without a reason, of the code.
func (e *Error) Is(target error) bool {
	if e.Reason != "" {
		return sentinels[e.Reason] == target
	}
	return byCode[e.Code] == target && target != nil
}

// UnreachableError says that no router answered. It matches ErrUnreachable.
type UnreachableError struct {
	// Targets are the routers that were tried.
	Targets []string
	// Err is why the last one did not answer.
	Err error
}

// Error names the routers and the cause.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no answer from %s: %v", strings.Join(e.Targets, ", "), e.Err)
}

// Unwrap gives ErrUnreachable and the cause.
func (e *UnreachableError) Unwrap() []error { return []error{ErrUnreachable, e.Err} }

// fromWire turns what gRPC returned into an *Error; other errors pass as they are.
func fromWire(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{Code: st.Code(), Message: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain {
				e.Reason, e.Metadata = Reason(d.GetReason()), d.GetMetadata()
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{Code: v.GetReason(), Path: v.GetField(), Message: v.GetDescription()})
			}
		}
	}
	return e
}
