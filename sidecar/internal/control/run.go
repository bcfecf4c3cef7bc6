package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

const (
	registerTimeout = 5 * time.Second
	defaultTTL      = 10 * time.Second
	minHeartbeat    = 10 * time.Millisecond
	maxHeartbeat    = time.Minute
	// shortLife is how long a session should live at least. Sessions that end sooner, one after the other, are made ever more slowly: two
	// sidecars of one id would otherwise do nothing but end each other's.
	shortLife = 10 * time.Second
	// complainEvery is how often a failure that stays the same is logged.
	complainEvery = time.Minute
)

// Run keeps a session until ctx ends, and then returns nil with the session still open: Deregister ends it. The engine is driven from
// here. An error says that registering can never succeed as things are configured.
func (s *Session) Run(ctx context.Context, engine Engine) error {
	var again backoff
	left := s.cfg.Remembered
	for {
		resp, edition, err := s.registerOrResume(ctx, left)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // a stop that was asked for
		case err != nil:
			return err
		}
		born := time.Now()
		var ended error
		if resp != nil {
			ended = s.hold(ctx, resp, edition, engine, nil)
		} else {
			ended = s.hold(ctx, left.Registration, 0, engine, left.Desired)
		}
		left = nil
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a stop that was asked for
		}
		s.log.Warn("session ended, registering again", "sidecar", s.cfg.SidecarID, "err", ended)
		if time.Since(born) >= shortLife {
			again.reset()
		} else if again.round > 1 {
			s.log.Warn("sessions end soon after they began: does another sidecar use the same id?", "sidecar", s.cfg.SidecarID)
		}
		if !again.pause(ctx) {
			return nil
		}
	}
}

// resumeAfter is how long the first registration may take before what was remembered goes on.
const resumeAfter = 3 * time.Second

// registerOrResume registers. Where something is remembered and no router answers soon, it returns nothing instead: the session that the
// sidecar had may go on.
func (s *Session) registerOrResume(ctx context.Context, left *Remembered) (*controlv1.RegisterResponse, uint64, error) {
	if left == nil {
		return s.register(ctx)
	}
	try, cancel := context.WithTimeout(ctx, resumeAfter)
	defer cancel()
	resp, edition, err := s.register(try)
	if err != nil && try.Err() != nil && ctx.Err() == nil {
		s.log.Warn("no router answers: what was assigned before the restart goes on, its checkpoints wait", "sidecar", s.cfg.SidecarID,
			"session", left.Registration.GetSession().GetEpoch(), "stages", len(left.Desired.GetAssignments()))
		return nil, 0, nil
	}
	return resp, edition, err
}

// register asks for a session for as long as it takes. It returns which edition of the endpoints the routers know with it.
func (s *Session) register(ctx context.Context) (*controlv1.RegisterResponse, uint64, error) {
	var again backoff
	var complained time.Time
	for {
		endpoints, edition := s.snapshot()
		req := &controlv1.RegisterRequest{
			SidecarId:     s.cfg.SidecarID,
			Address:       s.cfg.Address,
			HostName:      s.cfg.HostName,
			HostAddresses: s.cfg.HostAddresses,
			Version:       s.cfg.Version,
			FeatureLevel:  s.cfg.FeatureLevel,
			Endpoints:     endpoints,
			Instance:      s.instance,
		}
		try, cancel := context.WithTimeout(ctx, registerTimeout)
		resp, err := s.client.Register(try, req)
		cancel()
		if err == nil {
			err = s.acceptable(resp)
		}
		switch {
		case err == nil:
			return resp, edition, nil
		case ctx.Err() != nil:
			return nil, 0, context.Cause(ctx)
		case hopeless(err):
			return nil, 0, fmt.Errorf("register sidecar %s: %w", s.cfg.SidecarID, err)
		}
		s.answered(err)
		if time.Since(complained) >= complainEvery {
			complained = time.Now()
			s.log.Warn("not registered, still trying; what is assigned goes on", "sidecar", s.cfg.SidecarID, "err", err)
		}
		if !sleep(ctx, client.RetryAfter(err)) || !again.pause(ctx) {
			return nil, 0, context.Cause(ctx)
		}
	}
}

// acceptable checks what a router answered.
func (s *Session) acceptable(resp *controlv1.RegisterResponse) error {
	if resp.GetSession().GetSidecarId() != s.cfg.SidecarID {
		return fmt.Errorf("the router answered with a session of sidecar %q", resp.GetSession().GetSidecarId())
	}
	return checkKey(s.cfg.Signed, resp)
}

// hopeless reports whether the same registration can never succeed.
func hopeless(err error) bool {
	return errors.Is(err, client.ErrInsecure) || errors.Is(err, client.ErrInvalid) || errors.Is(err, client.ErrDuplicateID) || errors.Is(err, errWrongKey)
}

// work is what goes on under one session.
type work struct {
	*Session
	registration *controlv1.RegisterResponse
	resumed      bool // no router has answered this process when the work begins
	session      *controlv1.Session
	engine       Engine
	// beat asks for a heartbeat soon.
	beat chan struct{}
	// news is sent to when the desired state changed.
	news chan struct{}
}

// hold works under a session until it has ended, which is the error, or ctx has. What was remembered of a session that goes on is put into
// effect first, before a router has said that it knows the session.
func (s *Session) hold(ctx context.Context, resp *controlv1.RegisterResponse, edition uint64, engine Engine, remembered *controlv1.WatchAssignmentsResponse) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &work{Session: s, registration: resp, resumed: remembered != nil, session: resp.GetSession(), engine: engine, beat: make(chan struct{}, 1), news: make(chan struct{}, 1)}
	s.begin(w.session, cancel)
	every, ttl := pace(resp)
	// Before what was remembered goes on: somebody else may have gone on with it.
	contact := newContact(ttl/2, remembered != nil, engine.CutOff)
	if remembered != nil {
		s.resumed()
		engine.Apply(resp.GetAssignmentKey(), remembered.GetAssignments())
		s.applied(w.session, remembered.GetRevision())
	} else {
		s.log.Info("registered", "sidecar", s.cfg.SidecarID, "cluster", resp.GetClusterId(), "session", w.session.GetEpoch(), "ttl", ttl)
	}
	var wg sync.WaitGroup
	wg.Go(func() { w.heartbeats(ctx, every, ttl, contact) })
	wg.Go(func() { w.watch(ctx) })
	wg.Go(func() { w.acknowledge(ctx) })
	wg.Go(func() { w.report(ctx, edition) })
	wg.Go(func() { w.replays(ctx) })
	wg.Wait()
	return context.Cause(ctx)
}

// pace returns how often to send heartbeats, and how long the session lives without.
func pace(resp *controlv1.RegisterResponse) (every, ttl time.Duration) {
	ttl = time.Duration(resp.GetTtlMillis()) * time.Millisecond
	if ttl == 0 {
		ttl = defaultTTL
	}
	every = time.Duration(resp.GetHeartbeatMillis()) * time.Millisecond
	if every == 0 {
		every = ttl / 3
	}
	return min(max(every, minHeartbeat), maxHeartbeat), ttl
}

// Deregister ends the session after Run has returned, so that the routers need not wait for it to expire. It first says what has ended.
func (s *Session) Deregister(ctx context.Context, engine Engine) error {
	s.mu.Lock()
	session := s.current
	s.mu.Unlock()
	if session == nil {
		return nil
	}
	revision, _ := s.effective()
	// What went on last is worth a try, but the farewell does not depend on it.
	_, err := s.client.Heartbeat(ctx, heartbeat(session, engine))
	if ended := engine.Ended(); len(ended) > 0 {
		err = errors.Join(err, s.client.AcknowledgeAssignments(ctx, &controlv1.AcknowledgeAssignmentsRequest{Session: session, Revision: revision, Ended: ended}))
	}
	err = errors.Join(err, s.client.Deregister(ctx, session))
	s.end(session, errDeregistered)
	if errors.Is(err, client.ErrSessionEnded) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sidecar %s: %w", s.cfg.SidecarID, err)
	}
	return nil
}

var errDeregistered = errors.New("deregistered")
