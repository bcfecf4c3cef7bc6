package router_test

import (
	"fmt"
	"testing"
	"time"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// detours is a router whose pipeline p has its source and its sink on "ends", and whose transform runs on "left" and could run on "right".
type detours struct {
	*node
	ttl, every        time.Duration
	ends, left, right *sidecar
	// well ends the heartbeats of "ends" that miss nobody.
	well func()
}

func startDetours(t *testing.T) *detours {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.SessionTTL, cfg.Heartbeat = time.Second, 100*time.Millisecond
	d := &detours{node: start(t, cfg), ttl: cfg.SessionTTL, every: cfg.Heartbeat}
	mid := endpoint(50080, &conveyorv1.Ability{Kind: conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM})
	d.left, d.ends = d.register("left", mid), d.register("ends", both...)
	t.Cleanup(d.left.beat(d.every))
	d.well = d.ends.beat(d.every)
	t.Cleanup(d.well)
	d.apply(pipeline("p", `{"source":"in","steps":["mid"],"sink":"out"}`), source("in", "file"), sink("out", "localhost:50070"),
		`{"apiVersion":"conveyor.etl/v1","kind":"Transform","metadata":{"name":"mid"},"spec":{"grpc":{"endpoint":"localhost:50080"}}}`)
	d.left.awaitStages("mid")
	d.right = d.register("right", mid)
	t.Cleanup(d.right.beat(d.every))
	return d
}

// holds looks for a while that a sidecar keeps what it has.
func (s *sidecar) holds(want string, during time.Duration) {
	s.t.Helper()
	for end := time.After(during); ; {
		if got := s.stages(); got != want {
			s.t.Fatalf("%s has %q, not %q", s.id, got, want)
		}
		select {
		case <-end:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestDetour_AStageMovesWhenItsSidecarIsMissedForATTLAndNotBack(t *testing.T) {
	d := startDetours(t)
	was := d.left.stage("mid").GetEpoch().GetIndex()
	d.well()
	began := time.Now()
	missed := d.ends.beat(d.every, "left")
	d.right.awaitStages("mid")
	if took := time.Since(began); took < d.ttl {
		t.Errorf("it moved after %v", took)
	}
	d.left.awaitStages("")
	if d.right.stage("mid").GetEpoch().GetIndex() <= was {
		t.Error("the epoch did not grow")
	}
	await(t, func() string { // whoever sends to it is told where it is
		next := d.ends.stage("in").GetDownstream()
		if len(next) != 1 || next[0].GetSidecarId() != "right" {
			return fmt.Sprint("records go to ", next)
		}
		return ""
	})
	missed()
	// It does not go back to where it was missed, neither when the path to the other one is lost as well nor when all paths are there.
	missed = d.ends.beat(d.every, "right")
	d.right.holds("mid", 2*d.ttl)
	missed()
	defer d.ends.beat(d.every)()
	d.right.holds("mid", d.ttl/2)
}

func TestDetour_AStageStaysWhereItIsMissedForMomentsOnly(t *testing.T) {
	d := startDetours(t)
	d.well()
	for range 8 {
		missed := d.ends.beat(d.every, "left")
		d.left.holds("mid", d.ttl/4)
		missed()
		d.ends.open() // a heartbeat that misses nobody
	}
}

func TestDetour_AStageThatDrainsStays(t *testing.T) {
	d := startDetours(t)
	d.well()
	defer d.ends.beat(d.every, "left")()
	d.apply(pipeline("p", `{"source":"in","steps":["mid"],"sink":"out","enabled":false}`))
	d.left.awaitStages("mid(drain)")
	d.left.holds("mid(drain)", 2*d.ttl)
	// What has drained elsewhere can end here too.
	d.left.end(false, d.left.assignments()...)
	d.ends.end(false, d.ends.assignments()...)
	d.awaitPhase("p", controlv1.Phase_PHASE_PAUSED)
}

func TestDetour_NothingMovesForTheSakeOfABestEffortSinkButItself(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SessionTTL, cfg.Heartbeat = time.Second, 100*time.Millisecond
	n := start(t, cfg)
	ends := n.register("ends", both...)
	missed := ends.beat(cfg.Heartbeat)
	far := n.register("far", endpoint(50090, anySink))
	defer far.beat(cfg.Heartbeat)()
	n.apply(pipeline("p", `{"source":"in","sinks":[{"name":"out"},{"name":"copy","delivery":"best-effort"}]}`), source("in", "file"), sink("out", "localhost:50070"), sink("copy", "localhost:50090"))
	far.awaitStages("copy")
	ends.awaitStages("in out")
	defer n.register("other", both...).beat(cfg.Heartbeat)()
	missed()
	defer ends.beat(cfg.Heartbeat, "far")()
	ends.holds("in out", 2*cfg.SessionTTL)
	far.holds("copy", 0)
}
