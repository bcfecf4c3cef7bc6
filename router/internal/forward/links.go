package forward

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

const (
	// callsPerLink stays below what a router takes on one connection, beyond which calls would wait for each other's end.
	callsPerLink = 200
	// maxLinks bounds the connections to the leader, and with them the calls under way.
	maxLinks = 64
)

// links are the connections to the router that leads. Those to one that led before go when the last call over them has ended.
type links struct {
	dial func(id, address string) (*grpc.ClientConn, error)

	mu      sync.Mutex
	closed  bool
	to      target
	open    []*link // to that router
	retired map[*link]bool
	// leads ends when another router leads.
	leads context.Context //nolint:containedctx // of a leadership, not of a call
	end   context.CancelFunc
}

type link struct {
	of    *links
	conn  *grpc.ClientConn
	leads context.Context //nolint:containedctx // see links
	calls int             // guarded by of.mu
}

func newLinks(dial func(id, address string) (*grpc.ClientConn, error)) *links {
	l := &links{dial: dial, retired: map[*link]bool{}}
	l.leads, l.end = context.WithCancel(context.Background())
	return l
}

// take returns a link to the leader with room for a call; it is given back after the call.
func (l *links) take(to target) (*link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, &cannotReachError{errStopping}
	}
	l.turn(to)
	for _, one := range l.open {
		if one.calls < callsPerLink {
			one.calls++
			return one, nil
		}
	}
	if len(l.open) >= maxLinks {
		return nil, status.Errorf(codes.ResourceExhausted, "this router has %d calls to the leader under way, which is the limit: ask another router", maxLinks*callsPerLink)
	}
	conn, err := l.dial(to.id, to.address)
	if err != nil {
		return nil, &cannotReachError{err}
	}
	one := &link{of: l, conn: conn, leads: l.leads, calls: 1}
	l.open = append(l.open, one)
	return one, nil
}

// turn ends the calls under way to the router that led before, when another one leads: that one may be paused, and would never answer them. The caller holds mu.
func (l *links) turn(to target) {
	if l.to == to {
		return
	}
	l.end()
	l.retireAll()
	l.to = to
	l.leads, l.end = context.WithCancel(context.Background())
}

// follow tells who leads, also while there are no new calls.
func (l *links) follow(to target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && l.to != (target{}) {
		l.turn(to)
	}
}

// retire uses the connections to a router no more.
func (l *links) retire(to target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.to == to {
		l.retireAll()
	}
}

// retireAll lets the calls under way end; the caller holds mu.
func (l *links) retireAll() {
	for _, old := range l.open {
		if old.calls == 0 {
			old.conn.Close()
		} else {
			l.retired[old] = true
		}
	}
	l.open = nil
}

// errNotReached says that there is no connection to the leader.
var errNotReached = errors.New("the leader is not reached")

// cannotReachError is errNotReached for a cause that does not go away by itself.
type cannotReachError struct{ cause error }

func (e *cannotReachError) Error() string { return fmt.Sprintf("%v: %v", errNotReached, e.cause) }

func (e *cannotReachError) Is(target error) bool { return target == errNotReached }

var errStopping = errors.New("this router is stopping")

// ready waits until the connection stands.
func (k *link) ready(ctx context.Context) error {
	for {
		state := k.conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return errNotReached
		case connectivity.Idle:
			k.conn.Connect()
		case connectivity.Connecting:
		}
		if !k.conn.WaitForStateChange(ctx, state) {
			return errNotReached
		}
	}
}

// bind makes a call end also when another router leads.
func (k *link) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(k.leads, cancel)
	return ctx, func() { stop(); cancel() }
}

func (k *link) give() {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	if k.calls--; k.calls == 0 && k.of.retired[k] {
		delete(k.of.retired, k)
		k.conn.Close()
	}
}

func (l *links) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.end()
	var errs []error
	for _, one := range l.open {
		errs = append(errs, one.conn.Close())
	}
	for one := range l.retired {
		errs = append(errs, one.conn.Close())
	}
	l.open = nil
	clear(l.retired)
	return errors.Join(errs...)
}
