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
	room chan struct{} // holds one for each change under way

	mu      sync.Mutex
	opening sync.Mutex // held while a session is opened
	session uint64     // 0 when there is none
	// unknown is set when the routers know no sessions.
	unknown bool
	next    uint64
	open    map[uint64]struct{}
}

func newChanges() *changes {
	return &changes{room: make(chan struct{}, maxUnanswered), open: map[uint64]struct{}{}}
}

// change makes a change once, however often it has to be sent. Where routers know no sessions, it is sent again only as long as none has it.
func change[T any](ctx context.Context, c *Client, do func(context.Context, grpc.ClientConnInterface, *controlv1.Command) (T, error)) (T, error) {
	var zero T
	s := c.changes
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
	case <-ctx.Done():
		return zero, context.Cause(ctx)
	case <-c.life.Done():
		return zero, ErrClosed
	}
	for {
		session, err := s.use(ctx, c)
		if err != nil {
			return zero, err
		}
		if session == 0 {
			return call(ctx, c, whenUnsent, func(ctx context.Context, conn grpc.ClientConnInterface) (T, error) { return do(ctx, conn, nil) })
		}
		command, ok := s.begin(session)
		if !ok {
			continue
		}
		tries := 0
		got, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (T, error) {
			tries++
			return do(ctx, conn, command)
		})
		s.end(command)
		if !errors.Is(err, ErrClientSessionEnded) {
			return got, err
		}
		s.drop(session)
		if tries > 1 {
			return zero, fmt.Errorf("%w: no answer came to the first try, and the routers have ended the session since: %w", ErrOutcomeUnknown, err)
		}
		// Nothing was done: it is a new change under another session.
	}
}

// use returns the session, after opening one if there is none; 0 when routers know no sessions.
func (s *changes) use(ctx context.Context, c *Client) (uint64, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
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

// begin numbers a change; ok is false when the session has ended meanwhile.
func (s *changes) begin(session uint64) (c *controlv1.Command, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != session {
		return nil, false
	}
	s.next++
	s.open[s.next] = struct{}{}
	lowest := s.next
	for n := range s.open {
		lowest = min(lowest, n)
	}
	return &controlv1.Command{ClientSession: session, Sequence: s.next, LowestUnanswered: lowest}, true
}

func (s *changes) end(c *controlv1.Command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == c.GetClientSession() {
		delete(s.open, c.GetSequence())
	}
}

func (s *changes) drop(session uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == session {
		s.session = 0
	}
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
