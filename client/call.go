package client

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
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

	first := time.Now()
	for try := 0; ; try++ {
		s := c.servers[c.current.Load()%int64(len(c.servers))]
		got, err := attempt(ctx, c, rule, s, do)
		if err == nil {
			return got, nil
		}
		e := fromWire(err)
		switch {
		case errors.Is(err, errSilent) && ctx.Err() == nil: // ask the next
		case c.over(ctx, e):
			return zero, c.ended(ctx, e)
		case !nobodyAnswered(e):
			return zero, e
		case errors.Is(s.lastDialError(), ErrInsecure):
			return zero, s.lastDialError()
		case rule == whenUnsent && s.lastDialError() == nil && !refused(e):
			return zero, c.unreachable(s, e)
		}
		c.current.Add(1)
		// Every router is asked once before the first pause.
		if (try+1)%len(c.servers) != 0 {
			continue
		}
		if time.Since(first) >= c.opts.retryFor || !pause(ctx, try/len(c.servers)) {
			if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimeout) {
				return zero, c.ended(ctx, e)
			}
			return zero, c.unreachable(s, e)
		}
	}
}

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
	if err != nil && try.Err() != nil && ctx.Err() == nil {
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

// over reports whether the call failed because its context, or the client, ended. Routers know the deadline too, and may act on it a moment before the clock
// here does.
func (c *Client) over(ctx context.Context, err error) bool {
	if c.life.Err() != nil || ctx.Err() != nil {
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
		var e *Error
		if errors.As(last, &e) && e.Code != codes.DeadlineExceeded && e.Code != codes.Canceled {
			return &UnreachableError{Targets: c.Targets(), Err: errors.Join(last, context.DeadlineExceeded)}
		}
		return &UnreachableError{Targets: c.Targets(), Err: context.DeadlineExceeded}
	}
	return cause
}

func (c *Client) unreachable(s *server, err error) error {
	// A router that gave a reason did answer; it only cannot serve now.
	var e *Error
	if errors.As(err, &e) && e.Reason != "" {
		return err
	}
	if dial := s.lastDialError(); dial != nil {
		err = dial
	}
	return &UnreachableError{Targets: c.Targets(), Err: err}
}

// nobodyAnswered reports whether another router, or the same one later, may answer instead.
func nobodyAnswered(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Reason {
	case ReasonNotLeader, ReasonNoQuorum:
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
	return errors.As(err, &e) && e.Reason == ReasonNotLeader
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

// follow reads a server stream and hands every message to each, until that returns false. A stream that breaks is opened again: for as long as
// retryFor passes without a message, or for ever where endless is set, in which case the ordinary end of a stream is a break as well.
func follow[T any](ctx context.Context, c *Client, endless bool, open func(context.Context, grpc.ClientConnInterface) (grpc.ServerStreamingClient[T], error), each func(*T) bool) error {
	ctx, cancel := c.bind(ctx)
	defer cancel()
	last, round := time.Now(), 0
	for {
		s := c.servers[c.current.Load()%int64(len(c.servers))]
		err := receive(ctx, s, open, func(msg *T) bool {
			last, round = time.Now(), 0
			return each(msg)
		})
		switch {
		case errors.Is(err, errEnough), errors.Is(err, io.EOF) && !endless:
			return nil
		case c.over(ctx, err):
			return c.ended(ctx, err)
		case !errors.Is(err, io.EOF) && (!nobodyAnswered(err) || errors.Is(s.lastDialError(), ErrInsecure)):
			return err
		case !endless && time.Since(last) >= c.opts.retryFor:
			return c.unreachable(s, err)
		}
		c.opts.logger.Debug("stream broke off", "router", s.target, "err", err)
		c.current.Add(1)
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
