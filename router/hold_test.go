package router_test

import (
	"context"
	"testing"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
)

// completedPipeline is a router whose pipeline p has completed and left a letter of stage keep.
func completedPipeline(t *testing.T, dir string) (*node, *sidecar) {
	t.Helper()
	n := start(t, testConfig(dir))
	n.apply(simple...)
	a := n.register("a", both...)
	a.awaitStages("in keep out")
	a.store(letter("one", "keep", "X"))
	a.end(true, a.assignments()...)
	n.awaitPhase("p", controlv1.Phase_PHASE_COMPLETED)
	return n, a
}

// awaitHold waits until all stages of p are assigned and are held, or are not.
func (s *sidecar) awaitHold(want bool) {
	s.t.Helper()
	s.awaitStages("in keep out")
	await(s.t, func() string {
		if n := len(s.assignments()); n != 3 {
			return differs(n, 3)
		}
		for _, as := range s.assignments() {
			if as.GetHold() != want {
				return differs(as.GetHold(), want)
			}
		}
		return ""
	})
}

// progress is the stream of a replay.
type progress interface {
	Recv() (*controlv1.ReplayLettersResponse, error)
}

// replayed is the last word on a replay.
func replayed(t *testing.T, stream progress) *controlv1.ReplayLettersResponse {
	t.Helper()
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Error(err)
			return nil
		}
		if m.GetDone() {
			return m
		}
	}
}

func TestReplay_ACompletedPipelineIsHeldOpenForItsLetters(t *testing.T) {
	n, a := completedPipeline(t, t.TempDir())
	stream := a.replays(t.Context())
	first, second := n.replay(everything), n.replay(everything)
	a.awaitHold(true)
	a.open() // the letters wait until the sidecar tells that it runs the stages
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	// The letter is under way, so that one of the two replays is over at once; the other one still holds the pipeline.
	over := make(chan *controlv1.ReplayLettersResponse, 2)
	for _, s := range []progress{first, second} {
		go func() { over <- replayed(t, s) }()
	}
	if r := <-over; r.GetSettled() != 0 {
		t.Errorf("the replay that came second: %v", r)
	}
	a.awaitHold(true)
	outcome := &controlv1.ReplayOutcome{LetterId: m.GetLetter().GetId(), Outcome: linkv1.Outcome_OUTCOME_ACKNOWLEDGED}
	if err := stream.Send(&controlv1.ReplaysRequest{Outcome: outcome}); err != nil {
		t.Fatal(err)
	}
	if r := <-over; r.GetSettled() != 1 || len(r.GetProblems()) > 0 {
		t.Errorf("replay: %v", r)
	}
	if left := n.list(everything); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	a.awaitHold(false)
	a.store(letter("two", "keep", "X"))
	next := n.replay(everything) // while the pipeline is about to complete
	a.end(true, a.assignments()...)
	a.awaitHold(true)
	a.open()
	if m, err = stream.Recv(); err != nil {
		t.Fatal(err)
	}
	outcome = &controlv1.ReplayOutcome{LetterId: m.GetLetter().GetId(), Outcome: linkv1.Outcome_OUTCOME_ACKNOWLEDGED}
	if err := stream.Send(&controlv1.ReplaysRequest{Outcome: outcome}); err != nil {
		t.Fatal(err)
	}
	if r := replayed(t, next); r.GetSettled() != 1 {
		t.Errorf("the next replay: %v", r)
	}
	a.awaitHold(false)
	a.end(true, a.assignments()...)
	n.awaitPhase("p", controlv1.Phase_PHASE_COMPLETED)
}

func TestReplay_TheHoldEndsWithTheLettersWhenTheCallerGoes(t *testing.T) {
	n, a := completedPipeline(t, t.TempDir())
	stream := a.replays(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := n.letters.ReplayLetters(ctx, &controlv1.ReplayLettersRequest{Filter: everything}); err != nil {
		t.Fatal(err)
	}
	a.awaitHold(true)
	a.open()
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	a.awaitHold(true)
	outcome := &controlv1.ReplayOutcome{LetterId: m.GetLetter().GetId(), Outcome: linkv1.Outcome_OUTCOME_ACKNOWLEDGED}
	if err := stream.Send(&controlv1.ReplaysRequest{Outcome: outcome}); err != nil {
		t.Fatal(err)
	}
	a.awaitHold(false)
	if left := n.list(everything); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestReplay_ARestartedRouterReleasesWhatItHeld(t *testing.T) {
	dir := t.TempDir()
	n, a := completedPipeline(t, dir)
	if _, err := n.letters.ReplayLetters(t.Context(), &controlv1.ReplayLettersRequest{Filter: everything}); err != nil {
		t.Fatal(err)
	}
	a.awaitHold(true)
	n.stop()

	n = start(t, testConfig(dir))
	a = n.register("a", both...)
	a.awaitHold(false)
	a.end(true, a.assignments()...)
	n.awaitPhase("p", controlv1.Phase_PHASE_COMPLETED)
	if left := n.list(everything); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestReplay_APausedPipelineIsNotOpened(t *testing.T) {
	n, a := completedPipeline(t, t.TempDir())
	n.apply(pipeline("p", `{"source":"in","steps":["keep"],"sink":"out","enabled":false}`))
	if r := replayed(t, n.replay(everything)); r.GetSettled() != 0 {
		t.Errorf("replay: %v", r)
	}
	a.awaitStages("")
}
