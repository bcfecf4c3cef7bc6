// Package control keeps a sidecar's session with the routers: it registers, reports, and hands on what the sidecar should run.
//
// While no router answers, nothing changes: what was assigned goes on, also over a restart of the sidecar, and the session is kept or made anew
// when one answers again.
package control

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
)

// Engine runs what is assigned. All methods may be called at once.
type Engine interface {
	// Apply takes the whole of what should run and returns before it does. Where there are certificates key is that which the cluster signs
	// assignments with, by which the engine knows other owners; elsewhere it is empty.
	Apply(key ed25519.PublicKey, assignments []*controlv1.Assignment)
	// Ended returns the assignments that ran to their end. It may return one again.
	Ended() []*controlv1.EndedAssignment
	// CutOff says whether the routers have been silent for half of the session's time, or the session has ended: somebody else may soon go on with what is assigned here.
	CutOff(cut bool)
	// PaceCheckpoints says how long to collect checkpoints before they are reported.
	PaceCheckpoints(pause time.Duration)
	// Changes is sent to, without blocking, when there is something new to acknowledge or to report.
	Changes() <-chan struct{}
	// Reports returns what goes on.
	Reports() ([]*controlv1.StageReport, []*controlv1.LaneReport)
	// Unreachable are the ids of the sidecars that do not answer this one.
	Unreachable() []string
	// Inject puts the record of a letter into the stage at which it failed and blocks until it has settled. When it failed there again,
	// newLetter is the id of its new letter. An error says that the record was not taken.
	Inject(ctx context.Context, letter *controlv1.Letter) (outcome linkv1.Outcome, newLetter uint64, err error)
}

// Journal keeps what the sidecar was last told to run.
type Journal interface {
	Record(registration *controlv1.RegisterResponse, desired *controlv1.WatchAssignmentsResponse) error
}

// Remembered is a session that an earlier process had, and what it was last told to run.
type Remembered struct {
	Registration *controlv1.RegisterResponse
	Desired      *controlv1.WatchAssignmentsResponse
}

// Config is what a Session is made of.
type Config struct {
	// SidecarID names the sidecar.
	SidecarID string
	// Address is where other sidecars reach it.
	Address string
	// HostName and HostAddresses are those of the host, by which endpoints are known to be beside the sidecar.
	HostName      string
	HostAddresses []string
	// Version of the build.
	Version string
	// FeatureLevel of the build.
	FeatureLevel uint32
	// Signed: there are certificates, and what the routers assign must be signed.
	Signed bool
	// Client talks to the routers. The caller closes it after Deregister.
	Client *client.Client
	// Journal is told of every desired state; nil keeps none.
	Journal Journal
	// Remembered is what the sidecar was told before it was started again; nil is nothing. It is used when no router answers at the start.
	Remembered *Remembered
	// Applied is called once, when the first desired state was handed to the engine; may be nil.
	Applied func()
	// Logger receives changes of the session; nil discards them.
	Logger *slog.Logger
}

// Session is a sidecar's session. Its methods may be called at once, before Run too: those that need a session wait for one.
type Session struct {
	cfg    Config
	client *client.Client
	log    *slog.Logger
	// instance tells this process from another one with the same id.
	instance string
	// moved is sent to when the endpoints changed.
	moved chan struct{}
	// first guards the call of cfg.Applied.
	first sync.Once

	mu sync.Mutex
	// current is the session in effect, nil while there is none. guarded by mu.
	current *controlv1.Session
	// renewed is closed when current changes. guarded by mu.
	renewed chan struct{}
	// abandon ends the work under the current session. guarded by mu.
	abandon context.CancelCauseFunc
	// endpoints beside the sidecar, and how often they changed. guarded by mu.
	endpoints []*controlv1.Endpoint
	edition   uint64
	// revision of the desired state that the engine has under the current session. guarded by mu.
	revision uint64
	// status is guarded by mu.
	status Status
}

// Status is the state of the session, for metrics and readiness.
type Status struct {
	// Registered: there is a session, as far as the sidecar knows.
	Registered bool
	// Applied: what the routers want under this session was handed to the engine.
	Applied bool
	// Registrations so far.
	Registrations uint64
	// LastAnswer is when a router last answered a registration or a heartbeat; zero before the first.
	LastAnswer time.Time
	// Problem is why there is no session or no answer; nil when all is well.
	Problem error
}

// New returns a session that is not opened yet: Run does.
func New(cfg Config) *Session {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Session{
		cfg: cfg, client: cfg.Client, log: log,
		instance: rand.Text(),
		moved:    make(chan struct{}, 1),
		renewed:  make(chan struct{}),
		status:   Status{Problem: errors.New("not registered yet")},
	}
}

// Status returns the state of the session now.
func (s *Session) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// SetEndpoints tells which services are beside the sidecar. The session keeps the slice and reports it, now or when it is opened.
func (s *Session) SetEndpoints(endpoints []*controlv1.Endpoint) {
	s.mu.Lock()
	s.endpoints = endpoints
	s.edition++
	s.mu.Unlock()
	signal(s.moved)
}

func (s *Session) snapshot() ([]*controlv1.Endpoint, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endpoints, s.edition
}

// begin makes a session the current one.
func (s *Session) begin(session *controlv1.Session, abandon context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.abandon, s.revision = session, abandon, 0
	s.status = Status{Registered: true, Registrations: s.status.Registrations + 1, LastAnswer: time.Now()}
	close(s.renewed)
	s.renewed = make(chan struct{})
}

// resumed takes back what begin said of a router's answer: the session is of an earlier process, and no router has answered this one.
func (s *Session) resumed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Registrations--
	s.status.LastAnswer, s.status.Problem = time.Time{}, errors.New("resumed after a restart; no router has answered yet")
}

// end gives up a session that a router does not know any more, unless another one has replaced it already.
func (s *Session) end(session *controlv1.Session, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != session {
		return
	}
	s.current = nil
	s.abandon(cause)
	s.status.Registered, s.status.Applied, s.status.Problem = false, false, cause
}

// answered notes what came of asking a router.
func (s *Session) answered(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Problem = err
	if err == nil {
		s.status.LastAnswer = time.Now()
	}
}

// applied notes which desired state the engine has.
func (s *Session) applied(session *controlv1.Session, revision uint64) {
	s.mu.Lock()
	if s.current == session {
		s.revision, s.status.Applied = revision, true
	}
	s.mu.Unlock()
	if s.cfg.Applied != nil {
		s.first.Do(s.cfg.Applied)
	}
}

// effective returns the revision in effect, and false while there is none.
func (s *Session) effective() (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision, s.status.Applied
}

// wait returns the current session as soon as there is one.
func (s *Session) wait(ctx context.Context) (*controlv1.Session, error) {
	for {
		s.mu.Lock()
		session, renewed := s.current, s.renewed
		s.mu.Unlock()
		if session != nil {
			return session, nil
		}
		select {
		case <-renewed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// under calls do with the current session, and again with the next one if a router says that it has ended.
func (s *Session) under(ctx context.Context, do func(*controlv1.Session) error) error {
	for {
		session, err := s.wait(ctx)
		if err != nil {
			return err
		}
		if err = do(session); !errors.Is(err, client.ErrSessionEnded) {
			return err
		}
		s.end(session, err)
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
