package control_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/control"
	"github.com/conveyor-etl/conveyor/sidecar/internal/routertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine notes what it is told, and says what the test wants it to.
type engine struct {
	changes chan struct{}
	applied chan []*controlv1.Assignment
	paced   chan time.Duration // may be nil
	cut     chan bool          // may be nil
	inject  func(context.Context, *controlv1.Letter) (linkv1.Outcome, uint64, error)

	mu     sync.Mutex
	ended  []*controlv1.EndedAssignment
	stages []*controlv1.StageReport
}

func newEngine() *engine {
	return &engine{changes: make(chan struct{}, 1), applied: make(chan []*controlv1.Assignment, 100)}
}

func (e *engine) CutOff(cut bool) {
	if e.cut != nil {
		e.cut <- cut
	}
}

func (e *engine) PaceCheckpoints(pause time.Duration) {
	if e.paced != nil {
		e.paced <- pause
	}
}

func (e *engine) Apply(_ ed25519.PublicKey, a []*controlv1.Assignment) { e.applied <- a }
func (e *engine) Changes() <-chan struct{}                             { return e.changes }

func (e *engine) Ended() []*controlv1.EndedAssignment {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.ended)
}

func (e *engine) Unreachable() []string { return nil }

func (e *engine) Reports() ([]*controlv1.StageReport, []*controlv1.LaneReport) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.stages), nil
}

func (e *engine) Inject(ctx context.Context, l *controlv1.Letter) (linkv1.Outcome, uint64, error) {
	return e.inject(ctx, l)
}

func (e *engine) end(a *controlv1.EndedAssignment) {
	e.mu.Lock()
	e.ended = append(e.ended, a)
	e.mu.Unlock()
	select {
	case e.changes <- struct{}{}:
	default:
	}
}

// next waits for the next desired state.
func (e *engine) next(t *testing.T) []*controlv1.Assignment {
	t.Helper()
	select {
	case a := <-e.applied:
		return a
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was applied")
		return nil
	}
}

func assignment(stage string, index uint64) *controlv1.Assignment {
	return &controlv1.Assignment{Pipeline: "default/p", Generation: 1, Stage: stage, Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: index}}
}

func desire(revision uint64, a ...*controlv1.Assignment) func(*routertest.State) {
	return func(s *routertest.State) {
		s.Desired = &controlv1.WatchAssignmentsResponse{Revision: revision, Assignments: a}
	}
}

// open starts a session that the test's end stops.
func open(t *testing.T, r *routertest.Router, e *engine) (s *control.Session, stop func() error) {
	t.Helper()
	c, err := client.Dial(t.Context(), []string{r.Address()}, client.WithRetryFor(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	s = control.New(control.Config{SidecarID: "s1", Address: "127.0.0.1:1", HostName: "host", Version: "v", Client: c})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, e) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, stop
}

func TestSession_RegistersReportsAndRunsWhatItIsTold(t *testing.T) {
	r, e := routertest.Start(t), newEngine()
	e.stages = []*controlv1.StageReport{{Pipeline: "default/p", Status: &controlv1.StageStatus{Name: "in", Open: true}}}
	r.Change(desire(7, assignment("in", 5)))
	s, _ := open(t, r, e)
	if got := e.next(t); len(got) != 1 || !proto.Equal(got[0], assignment("in", 5)) {
		t.Fatalf("applied %v", got)
	}
	r.Until(t, "an acknowledgement of revision 7", func(s *routertest.State) bool {
		return len(s.Acks) > 0 && s.Acks[len(s.Acks)-1].GetRevision() == 7
	})
	r.Until(t, "heartbeats with reports", func(s *routertest.State) bool {
		return len(s.Heartbeats) > 3 && s.Heartbeats[len(s.Heartbeats)-1].GetStages()[0].GetStatus().GetOpen()
	})
	if st := s.Status(); !st.Registered || !st.Applied || st.Problem != nil || st.LastAnswer.IsZero() {
		t.Errorf("status is %+v", st)
	}

	r.Change(desire(9))
	if got := e.next(t); len(got) != 0 {
		t.Fatalf("applied %v", got)
	}
	e.end(&controlv1.EndedAssignment{Pipeline: "default/p", Generation: 1, Stage: "in", Epoch: assignment("in", 5).GetEpoch(), Completed: true})
	r.Until(t, "the end of the stage", func(s *routertest.State) bool {
		last := s.Acks[len(s.Acks)-1]
		return last.GetRevision() == 9 && len(last.GetEnded()) == 1 && last.GetEnded()[0].GetCompleted()
	})
	// What was acknowledged is not said again with what ends next, though the engine still lists it.
	e.end(&controlv1.EndedAssignment{Pipeline: "default/p", Generation: 1, Stage: "out", Epoch: assignment("out", 6).GetEpoch()})
	r.Until(t, "the end of the next stage alone", func(s *routertest.State) bool {
		last := s.Acks[len(s.Acks)-1]
		return len(last.GetEnded()) == 1 && last.GetEnded()[0].GetStage() == "out"
	})
}

func TestSession_IsOpenedAgainWhenItHasEnded(t *testing.T) {
	r, e := routertest.Start(t), newEngine()
	s, _ := open(t, r, e)
	e.next(t)
	e.end(&controlv1.EndedAssignment{Pipeline: "default/p", Stage: "in", Epoch: &conveyorv1.Epoch{Index: 3}})
	r.Until(t, "an end", func(s *routertest.State) bool { return len(s.Acks) > 0 && len(s.Acks[len(s.Acks)-1].GetEnded()) == 1 })
	r.Change(desire(20, assignment("in", 19)))
	e.next(t)
	r.EndSessions()
	r.Until(t, "a second registration", func(s *routertest.State) bool { return len(s.Registers) == 2 })
	if got := e.next(t); len(got) != 1 {
		t.Fatalf("applied %v", got)
	}
	r.Until(t, "everything said again under the new session", func(s *routertest.State) bool {
		last := s.Acks[len(s.Acks)-1]
		return last.GetSession().GetEpoch() == 2 && last.GetRevision() == 20 && len(last.GetEnded()) == 1
	})
	if got := s.Status().Registrations; got != 2 {
		t.Errorf("%d registrations", got)
	}
}

func TestSession_GoesOnWhenARouterComesBack(t *testing.T) {
	r, e := routertest.Start(t), newEngine()
	r.Change(desire(3, assignment("in", 2)))
	s, _ := open(t, r, e)
	e.next(t)
	s.SetEndpoints([]*controlv1.Endpoint{{Address: "127.0.0.1:50052", Port: 50052}})
	r.Until(t, "the services", func(s *routertest.State) bool { return len(s.Endpoints) == 1 })

	address := r.Address()
	r.Stop()
	for s.Status().Problem == nil { // the next heartbeats fail
		select {
		case <-t.Context().Done():
			t.Fatal("the loss was not noticed")
		case <-time.After(time.Millisecond):
		}
	}
	if !s.Status().Registered {
		t.Error("the session was given up though nobody said that it has ended")
	}
	select {
	case a := <-e.applied:
		t.Errorf("applied %v while no router answered", a)
	default:
	}
	// Meanwhile the world changes on both sides.
	s.SetEndpoints(nil)
	r.Change(desire(4, assignment("in", 2), assignment("out", 4)))
	r.Serve(t, address)
	if got := e.next(t); len(got) != 2 {
		t.Fatalf("applied %v", got)
	}
	r.Until(t, "the services that are left", func(s *routertest.State) bool { return s.Reports >= 2 && len(s.Endpoints) == 0 })
	r.Until(t, "heartbeats of the same session", func(s *routertest.State) bool {
		return len(s.Registers) == 1 && s.Acks[len(s.Acks)-1].GetRevision() == 4
	})
}

func TestSession_WaitsForARouterThatIsNotThereYet(t *testing.T) {
	r, e := routertest.Start(t), newEngine()
	address := r.Address()
	r.Stop()
	s, _ := open(t, r, e)
	s.SetEndpoints([]*controlv1.Endpoint{{Address: "127.0.0.1:50052", Port: 50052}})
	r.Serve(t, address)
	e.next(t)
	r.Until(t, "a registration, and what services there are", func(s *routertest.State) bool { // which it may have learned of too late for the first
		return len(s.Registers) == 1 && len(s.Endpoints) == 1
	})
}

func TestSession_IgnoresAnOlderDesiredState(t *testing.T) {
	r, e := routertest.Start(t), newEngine()
	r.Change(desire(9, assignment("in", 5)))
	open(t, r, e)
	e.next(t)
	r.Change(desire(8))
	r.Change(desire(10, assignment("in", 5), assignment("out", 10)))
	if got := e.next(t); len(got) == 0 {
		t.Error("an older state was applied")
	}
}

func TestSession_ComesAgainWhenABusyRouterSaysSo(t *testing.T) {
	const delay = 400 * time.Millisecond
	r, e := routertest.Start(t), newEngine()
	r.Change(func(s *routertest.State) {
		s.Refuse = routertest.Refusal(codes.ResourceExhausted, client.ReasonBusy, &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	})
	c, err := client.Dial(t.Context(), []string{r.Address()}, client.WithRetryFor(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Register(t.Context(), &controlv1.RegisterRequest{SidecarId: "s1"}); !errors.Is(err, client.ErrBusy) {
		t.Fatalf("got %v", err)
	}
	open(t, r, e)
	r.Until(t, "the sidecar is refused", func(s *routertest.State) bool { return s.Refused > 1 })
	r.Change(func(s *routertest.State) { s.Refuse = nil })
	e.next(t)
	r.Change(func(s *routertest.State) {
		if took := s.RegisteredAt.Sub(s.RefusedAt); took < delay {
			t.Errorf("it came again after %v, and was asked not to for %v", took, delay)
		}
	})
}

func TestSession_TellsTheEngineWhenNoRouterAnswersForHalfTheTimeOfTheSession(t *testing.T) {
	r, e := routertest.Start(t), newEngine()
	e.cut = make(chan bool, 10_000)
	r.Change(func(s *routertest.State) { s.TTL = 200 * time.Millisecond })
	open(t, r, e)
	until := func(want bool) {
		t.Helper()
		for late := time.After(30 * time.Second); ; {
			select {
			case got := <-e.cut:
				if got == want {
					return
				}
			case <-late:
				t.Fatalf("the engine was not told %v", want)
			}
		}
	}
	until(false)
	address := r.Address()
	r.Stop()
	until(true)
	r.Serve(t, address)
	until(false)
}

func TestSession_CollectsCheckpointsForAsLongAsTheRouterSays(t *testing.T) {
	r, e := routertest.Start(t), newEngine()
	e.paced = make(chan time.Duration, 1000)
	r.Change(func(s *routertest.State) { s.CheckpointMillis = 2000 })
	open(t, r, e)
	select {
	case got := <-e.paced:
		if got != 2*time.Second {
			t.Errorf("got %v", got)
		}
	case <-time.After(30 * time.Second):
		t.Error("the engine was told nothing")
	}
}

func TestSession_RefusesWhatItCannotVerify(t *testing.T) {
	r := routertest.Start(t)
	for name, change := range map[string]func(*routertest.State){
		"a key of another kind": func(s *routertest.State) { s.AssignmentKey = []byte("key") },
		"an invalid id": func(s *routertest.State) {
			s.AssignmentKey, s.Refuse = nil, routertest.Refusal(codes.InvalidArgument, client.ReasonInvalidManifest)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.Change(change)
			c, err := client.Dial(t.Context(), []string{r.Address()})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = control.New(control.Config{SidecarID: "s1", Client: c}).Run(t.Context(), newEngine())
			if err == nil || !strings.Contains(err.Error(), "register sidecar s1") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestSession_ServesTheEngineAcrossSessions(t *testing.T) {
	r, e := routertest.Start(t), newEngine()
	s, _ := open(t, r, e)
	e.next(t)
	r.EndSessions()
	// The call finds out that the session has ended, and goes on under the next one.
	results, err := s.ReportCheckpoints(t.Context(), []*controlv1.Checkpoint{{Pipeline: "default/p", SourceStage: "in", Sequence: 4, Position: []byte("x")}})
	if err != nil || len(results) != 1 || results[0] != controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED {
		t.Fatalf("got %v, %v", results, err)
	}
	got, err := s.ReadCheckpoints(t.Context(), "default/p", "in")
	if err != nil || len(got.GetCheckpoints()) != 1 || !got.GetListed() {
		t.Fatalf("got %v, %v", got, err)
	}
	var letters []*controlv1.Letter
	for range 5 {
		// A service need not care what a text may hold.
		letters = append(letters, &controlv1.Letter{
			Namespace: "default", Pipeline: "p", Message: "bad byte \xff",
			Record: &conveyorv1.Record{Headers: []*conveyorv1.Header{{Name: "\xfe", Value: []byte("\xff")}}},
		})
	}
	stored, err := s.StoreDeadLetters(t.Context(), letters)
	if err != nil || len(stored) != 5 || stored[4].GetId() != 5 {
		t.Fatalf("got %v, %v", stored, err)
	}
	if got := letters[0].GetMessage(); got != "bad byte \xff" {
		t.Errorf("the caller's letter was changed: %q", got)
	}
	read, err := s.ReadLetters(t.Context(), "default", "p", 2, 2)
	if err != nil || len(read) != 2 || read[0].GetId() != 3 || read[0].GetMessage() != "bad byte \uFFFD" || string(read[0].GetRecord().GetHeaders()[0].GetValue()) != "\xff" {
		t.Fatalf("got %v, %v", read, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.Stop()
	cancel()
	if _, err := s.ReadCheckpoints(ctx, "default/p", "in"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSession_ReplaysLettersSideBySide(t *testing.T) {
	r, e := routertest.Start(t), newEngine()
	both := make(chan struct{})
	var meet sync.WaitGroup
	meet.Add(2)
	go func() { meet.Wait(); close(both) }()
	e.inject = func(ctx context.Context, l *controlv1.Letter) (linkv1.Outcome, uint64, error) {
		switch l.GetId() {
		case 1, 2: // each settles only when the other is under way too
			meet.Done()
			<-both
			return linkv1.Outcome_OUTCOME_ACKNOWLEDGED, 0, nil
		case 3:
			return linkv1.Outcome_OUTCOME_DEAD, 77, nil
		default:
			return 0, 0, errors.New("the stage does not run here")
		}
	}
	r.Change(func(s *routertest.State) { s.Replay = []*controlv1.Letter{{Id: 1}, {Id: 2}, {Id: 3}, {Id: 4}} })
	open(t, r, e)
	r.Until(t, "all outcomes", func(s *routertest.State) bool { return len(s.Outcomes) == 4 })
	r.Change(func(s *routertest.State) {
		slices.SortFunc(s.Outcomes, func(a, b *controlv1.ReplayOutcome) int { return int(a.GetLetterId()) - int(b.GetLetterId()) })
		for i, want := range []*controlv1.ReplayOutcome{
			{LetterId: 1, Outcome: linkv1.Outcome_OUTCOME_ACKNOWLEDGED},
			{LetterId: 2, Outcome: linkv1.Outcome_OUTCOME_ACKNOWLEDGED},
			{LetterId: 3, Outcome: linkv1.Outcome_OUTCOME_DEAD, FailedAgain: 77},
			{LetterId: 4, Problem: "the stage does not run here"},
		} {
			if !proto.Equal(s.Outcomes[i], want) {
				t.Errorf("got %v, want %v", s.Outcomes[i], want)
			}
		}
	})
}

func TestSession_DeregistersWithWhatHasEnded(t *testing.T) {
	r, e := routertest.Start(t), newEngine()
	r.Change(func(s *routertest.State) { s.Heartbeat = time.Minute })
	s, stop := open(t, r, e)
	e.next(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	e.end(&controlv1.EndedAssignment{Pipeline: "default/p", Stage: "in"})
	if err := s.Deregister(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	r.Until(t, "the farewell", func(s *routertest.State) bool {
		return slices.Equal(s.Deregistered, []string{"s1"}) && len(s.Acks[len(s.Acks)-1].GetEnded()) == 1 && s.Acks[len(s.Acks)-1].GetRevision() == 1
	})
	if err := s.Deregister(t.Context(), e); err != nil {
		t.Errorf("again: %v", err)
	}
}
