package client

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

const (
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
	// clockSkew is how much earlier a router may see a deadline pass.
	clockSkew = 250 * time.Millisecond
	// tryFor bounds one try where there are other routers: longer than routers wait for a leader, and short enough that a sidecar's session outlives a try.
	tryFor = 4 * time.Second
)

// repeat says what may be done when it is not known whether a router carried a call out.
type repeat bool

const (
	// whenUnanswered repeats: a second execution changes nothing.
	whenUnanswered repeat = true
	// whenUnsent repeats only a call that reached no router.
	whenUnsent repeat = false
)

// call asks one router after the other until one answers.
func call[T any](ctx context.Context, c *Client, rule repeat, do func(context.Context, grpc.ClientConnInterface) (T, error)) (T, error) {
	var zero T
	if _, bounded := ctx.Deadline(); !bounded && c.opts.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.opts.timeout, errTimeout)
		defer cancel()
	}
	ctx, cancel := c.bind(ctx)
	defer cancel()

	if rule == whenUnsent {
		c.find(ctx)
	}
	began := time.Now()
	var told error // by a router that cannot serve now
	for try := 0; ; try++ {
		at := c.current.Load()
		s := c.servers[at%int64(len(c.servers))]
		sent := false
		got, err := attempt(context.WithValue(ctx, sentKey{}, &sent), c, rule, s, do)
		if err == nil {
			return got, nil
		}
		e, dial := fromWire(err), s.lastDialError()
		if nobodyAnswered(e) && reasonOf(e) != "" {
			told = e
		}
		switch {
		case errors.Is(err, errSilent) && ctx.Err() == nil: // ask the next
		case c.over(ctx, e):
			return zero, c.ended(ctx, either(told, e))
		case !nobodyAnswered(e):
			return zero, e
		case sent && rule == whenUnsent && !refused(e):
			return zero, c.unreachable(nil, e)
		case !sent && errors.Is(dial, ErrInsecure):
			return zero, dial
		}
		c.leave(at)
		// Every router is asked once before the first pause.
		if (try+1)%len(c.servers) != 0 {
			continue
		}
		if time.Since(began) >= c.opts.retryFor || !pause(ctx, try/len(c.servers)) {
			if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimeout) {
				return zero, c.ended(ctx, either(told, e))
			}
			return zero, c.unreachable(dial, either(told, e))
		}
	}
}

// leave makes the next router the current one, instead of that at a place. Of many calls that one router fails, the first goes on for all: each step more would lead away
// from a router that answers, and back to the one that does not.
func (c *Client) leave(at int64) { c.current.CompareAndSwap(at, at+1) }

var errTimeout = errors.New("no answer in time")

// errSilent is why a try was given up: the router takes calls and does not answer, as one that is paused.
var errSilent = &Error{Code: codes.Unavailable, Message: "the router does not answer"}

// attempt asks one router. Where others can be asked, it does not wait for the whole time of the call.
func attempt[T any](ctx context.Context, c *Client, rule repeat, s *server, do func(context.Context, grpc.ClientConnInterface) (T, error)) (T, error) {
	if rule == whenUnsent || len(c.servers) == 1 {
		return do(ctx, s.conn)
	}
	try, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	got, err := do(try, s.conn)
	if err != nil && expired(try, fromWire(err)) && ctx.Err() == nil {
		return got, errSilent
	}
	return got, err
}

// bind ends ctx also when the client is closed.
func (c *Client) bind(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.life, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// over reports whether the call failed because its context, or the client, ended.
func (c *Client) over(ctx context.Context, err error) bool {
	return c.life.Err() != nil || expired(ctx, err)
}

// expired reports whether a call failed because ctx ended. Routers know its deadline too, and may act on it a moment before the clock here does: then it waits for that moment.
func expired(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	var e *Error
	deadline, bounded := ctx.Deadline()
	if !bounded || !errors.As(err, &e) || e.Reason != "" || (e.Code != codes.DeadlineExceeded && e.Code != codes.Canceled) || time.Until(deadline) > clockSkew {
		return false
	}
	<-ctx.Done()
	return true
}

// ended is the error of a call that its context ended.
func (c *Client) ended(ctx context.Context, last error) error {
	if c.life.Err() != nil {
		return ErrClosed
	}
	cause := context.Cause(ctx)
	if errors.Is(cause, errTimeout) || errors.Is(cause, context.DeadlineExceeded) {
		if reasonOf(last) == ReasonNoQuorum {
			return last
		}
		var e *Error
		if errors.As(last, &e) && e.Code != codes.DeadlineExceeded && e.Code != codes.Canceled {
			return &UnreachableError{Targets: c.Targets(), Err: errors.Join(last, context.DeadlineExceeded)}
		}
		return &UnreachableError{Targets: c.Targets(), Err: context.DeadlineExceeded}
	}
	return cause
}

// unreachable is the error of a call that no router answered, with why the last connection could not be made if that is the reason.
func (c *Client) unreachable(dial, err error) error {
	// A router that gave a reason did answer; it only cannot serve now.
	if reasonOf(err) != "" {
		return err
	}
	if dial != nil {
		err = dial
	}
	return &UnreachableError{Targets: c.Targets(), Err: err}
}

// either is what a router told, or else err.
func either(told, err error) error {
	if told != nil {
		return told
	}
	return err
}

// reasonOf is the reason that a router gave, or "".
func reasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// find asks one router after the other until one answers for the cluster, before a call that is not repeated: the one that was asked last may be paused, or no member any more.
// Whatever it is answered, the call says what is wrong.
func (c *Client) find(ctx context.Context) {
	if len(c.servers) == 1 {
		return
	}
	_, _ = call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.GetResourceResponse, error) {
		return controlv1.NewAdminServiceClient(conn).GetResource(ctx, &controlv1.GetResourceRequest{Ref: &controlv1.ResourceRef{Kind: "Pipeline", Namespace: "default", Name: "anybody"}})
	})
}

// nobodyAnswered reports whether another router, or the same one later, may answer instead.
func nobodyAnswered(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Reason {
	case ReasonNotLeader, ReasonNoQuorum, ReasonNothingKnown, ReasonRemoved:
		return true
	case "":
		// Nobody here cancelled it, so the router did, as it stopped.
		return e.Code == codes.Unavailable || e.Code == codes.Canceled
	default:
		return false
	}
}

// refused reports whether a router said that it did not carry the call out.
func refused(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Reason == ReasonNotLeader || e.Reason == ReasonRemoved)
}

// pause waits a random part of an exponentially growing time; false when ctx ended first.
func pause(ctx context.Context, round int) bool {
	limit := min(maxPause, firstPause<<min(round, 10))
	t := time.NewTimer(rand.N(limit) + time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow reads a server stream and hands every message to each, until that returns false. A stream that breaks is opened again: until
// retryFor has passed since without a message, or for ever where endless is set, in which case the ordinary end of a stream is a break as well.
func follow[T any](ctx context.Context, c *Client, endless bool, open func(context.Context, grpc.ClientConnInterface) (grpc.ServerStreamingClient[T], error), each func(*T) bool) error {
	ctx, cancel := c.bind(ctx)
	defer cancel()
	var broken time.Time // when the stream that had the last message broke; it may have stood for long without one
	round := 0
	var told error // by a router that cannot serve now
	for {
		if !endless {
			c.find(ctx)
		}
		at := c.current.Load()
		s := c.servers[at%int64(len(c.servers))]
		err := receive(ctx, s, open, func(msg *T) bool {
			broken, round = time.Time{}, 0
			return each(msg)
		})
		if broken.IsZero() {
			broken = time.Now()
		}
		if nobodyAnswered(err) && reasonOf(err) != "" {
			told = err
		}
		switch {
		case errors.Is(err, errEnough), errors.Is(err, io.EOF) && !endless:
			return nil
		case c.over(ctx, err):
			return c.ended(ctx, either(told, err))
		case !errors.Is(err, io.EOF) && (!nobodyAnswered(err) || errors.Is(s.lastDialError(), ErrInsecure)):
			return err
		case !endless && time.Since(broken) >= c.opts.retryFor:
			return c.unreachable(s.lastDialError(), either(told, err))
		}
		c.opts.logger.Debug("stream broke off", "router", s.target, "err", err)
		c.leave(at)
		if !pause(ctx, round) {
			return c.ended(ctx, err)
		}
		round++
	}
}

var errEnough = errors.New("enough")

// receive opens one stream and reads it to its end, which is io.EOF, errEnough or the error of the router.
func receive[T any](ctx context.Context, s *server, open func(context.Context, grpc.ClientConnInterface) (grpc.ServerStreamingClient[T], error), each func(*T) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx, s.conn)
	if err != nil {
		return fromWire(err)
	}
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return fromWire(err)
		}
		if !each(msg) {
			return errEnough
		}
	}
}
