package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

const (
	// maxUnanswered is how many changes routers take from one session before they know that their answers have arrived.
	maxUnanswered = 16
	// endTimeout bounds what Close does for the routers' sake.
	endTimeout = 500 * time.Millisecond
)

// changes numbers the changes of a client under a session of the routers', so that one which is repeated after a lost answer is made once. The session is opened at the
// first change.
type changes struct {
	opening chan struct{} // holds one while a session is opened

	mu      sync.Mutex
	session uint64 // 0 when there is none
	// unknown is set when the routers know no sessions.
	unknown bool
	next    uint64
	open    map[uint64]struct{}
	// ended is closed, and replaced, when a change has ended.
	ended chan struct{}
}

func newChanges() *changes {
	return &changes{opening: make(chan struct{}, 1), open: map[uint64]struct{}{}, ended: make(chan struct{})}
}

// change makes a change once, however often it has to be sent. Where routers know no sessions, it is sent again only as long as none has it.
func change[T any](ctx context.Context, c *Client, do func(context.Context, grpc.ClientConnInterface, *controlv1.Command) (T, error)) (T, error) {
	var zero T
	s := c.changes
	ctx, release := c.bind(ctx)
	defer release()
	for {
		session, err := s.use(ctx, c)
		if err != nil {
			return zero, err
		}
		lost := false
		sent := observed(ctx, &lost)
		if session == 0 {
			got, err := call(sent, c, whenUnsent, func(ctx context.Context, conn grpc.ClientConnInterface) (T, error) { return do(ctx, conn, nil) })
			return got, outcome(lost, err)
		}
		command, err := s.begin(ctx, session)
		if err != nil {
			return zero, err
		}
		if command == nil {
			continue
		}
		tries := 0
		got, err := call(sent, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (T, error) {
			tries++
			return do(ctx, conn, command)
		})
		s.end(command)
		if !errors.Is(err, ErrClientSessionEnded) {
			return got, outcome(lost, err)
		}
		s.drop(session)
		if tries > 1 {
			return zero, fmt.Errorf("%w: no answer came to the first try, and the routers have ended the session since: %w", ErrOutcomeUnknown, err)
		}
		// Nothing was done: it is a new change under another session.
	}
}

// outcome is the error of a change of which a try was lost: unless a later one was answered, it may have been made. For want of room a router refuses before it looks.
func outcome(lost bool, err error) error {
	var e *Error
	answered := errors.As(err, &e) && !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrLowDisk) && !nobodyAnswered(e)
	if err == nil || answered || !lost {
		return err
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

// use returns the session, after opening one if there is none; 0 when routers know no sessions.
func (s *changes) use(ctx context.Context, c *Client) (uint64, error) {
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	s.mu.Lock()
	session, unknown := s.session, s.unknown
	s.mu.Unlock()
	if session != 0 || unknown {
		return session, nil
	}
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.OpenClientSessionResponse, error) {
		return controlv1.NewAdminServiceClient(conn).OpenClientSession(ctx, &controlv1.OpenClientSessionRequest{})
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, ErrNotAvailable) {
		s.unknown = true
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	s.session, s.next = resp.GetClientSession(), 0
	clear(s.open)
	return s.session, nil
}

// begin numbers a change, after waiting until routers would take it: they keep what they decided from the lowest unanswered change on. It returns nil when the session
// has ended meanwhile.
func (s *changes) begin(ctx context.Context, session uint64) (*controlv1.Command, error) {
	for {
		s.mu.Lock()
		if s.session != session {
			s.mu.Unlock()
			return nil, nil
		}
		number := s.next + 1
		lowest := number
		for n := range s.open {
			lowest = min(lowest, n)
		}
		if number-lowest < maxUnanswered {
			s.next = number
			s.open[number] = struct{}{}
			s.mu.Unlock()
			return &controlv1.Command{ClientSession: session, Sequence: number, LowestUnanswered: lowest}, nil
		}
		ended := s.ended
		s.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *changes) end(c *controlv1.Command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == c.GetClientSession() {
		delete(s.open, c.GetSequence())
	}
	close(s.ended)
	s.ended = make(chan struct{})
}

func (s *changes) drop(session uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == session {
		s.session = 0
	}
	close(s.ended)
	s.ended = make(chan struct{})
}

// endSession gives the session back to the routers, which would otherwise keep it for an hour.
func (c *Client) endSession() {
	c.changes.mu.Lock()
	session := c.changes.session
	c.changes.session = 0
	c.changes.mu.Unlock()
	if session == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	s := c.servers[c.current.Load()%int64(len(c.servers))]
	// Whether it comes through does not matter to anybody here.
	_, _ = controlv1.NewAdminServiceClient(s.conn).EndClientSession(ctx, &controlv1.EndClientSessionRequest{ClientSession: session})
}
