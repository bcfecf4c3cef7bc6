package router_test

import (
	"errors"
	"testing"

	"github.com/conveyor-etl/conveyor/dlq"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router"
)

// awaitStored stores a letter at a router, as often as it takes.
func (s *sidecar) awaitStored(at *node, id string) {
	s.t.Helper()
	await(s.t, func() string {
		// The servers of the letters elect for longer than a session lives without a word.
		if _, err := at.coord.Heartbeat(s.t.Context(), &controlv1.HeartbeatRequest{Session: s.session}); err != nil {
			return err.Error()
		}
		_, err := at.coord.StoreDeadLetters(s.t.Context(), &controlv1.StoreDeadLettersRequest{
			Session: s.session, Letters: []*controlv1.Letter{letter(id, "keep", "X")},
		})
		if err != nil {
			return err.Error()
		}
		return ""
	})
}

func TestCluster_LettersOutliveTheRouterThatStoredThem(t *testing.T) {
	c := startCluster(t, 3)
	f := c.follower()
	f.apply(simple...)
	a := f.register("a", both...)
	a.awaitStages("in keep out")
	store := func(id string) { a.awaitStored(f.node, id) }
	store("r1")
	lost := c.leader()
	if lost == f { // it has come to lead meanwhile
		f = c.follower()
	}
	lost.stop()
	store("r2")
	store("r1") // is recognised, although another router stored it
	if n := len(f.list(&controlv1.LetterFilter{Namespace: "default"})); n != 2 {
		t.Errorf("%d letters", n)
	}
	if info := f.info(); info.GetDeadLetters() != 2 || info.GetDeadLetterProblem() != "" {
		t.Errorf("the cluster counts %d letters: %s", info.GetDeadLetters(), info.GetDeadLetterProblem())
	}
}

// Where the dead-letter servers meet may change: what the state says of the others is out of date at first then.
func TestCluster_LettersAreThereAfterTheirPortsHaveChanged(t *testing.T) {
	c := startCluster(t, 3)
	f := c.follower()
	f.apply(simple...)
	f.register("a", both...).awaitStored(f.node, "before")
	for _, m := range c.nodes {
		m.stop()
	}
	for _, m := range c.nodes {
		m.cfg.DLQPort = freePort(t)
		m.start()
	}
	for _, m := range c.nodes {
		m.awaitReady()
	}
	f.register("a", both...).awaitStored(f.node, "after")
	if n := len(f.list(everything)); n != 2 {
		t.Errorf("%d letters", n)
	}
}

func TestLetters_AMarkIsSavedOnceAndRefusedWhenAnotherStoreHasSaved(t *testing.T) {
	mark := router.LetterMark(start(t, testConfig(t.TempDir())).router)
	for _, save := range []struct {
		version uint64
		mark    string
		refused bool
	}{{1, "a", false}, {1, "a", false}, {1, "b", true}, {3, "c", true}, {2, "b", false}, {1, "a", true}} {
		if err := mark.Save(t.Context(), []byte(save.mark), save.version); (err != nil) != save.refused || errors.Is(err, dlq.ErrSuperseded) != save.refused {
			t.Errorf("version %d, %s: %v", save.version, save.mark, err)
		}
	}
	if b, err := mark.Load(t.Context()); string(b) != "b" || err != nil {
		t.Errorf("the mark is %q, %v", b, err)
	}
}
