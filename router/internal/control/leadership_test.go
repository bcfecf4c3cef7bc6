package control_test

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/control"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

const drainTimeout = time.Minute

// cluster is the log of a cluster, which a test writes to as another router that leads would.
type cluster struct {
	machine *state.Machine
	lead    chan raftstore.Leadership

	// proposed is called after each command of the controller; it may be nil.
	proposed func(*statepb.Command)

	mu    sync.Mutex
	index uint64
}

func (c *cluster) Propose(_ context.Context, b []byte) (raftstore.Result, error) {
	r := c.append(b)
	var cmd statepb.Command
	if err := proto.Unmarshal(b, &cmd); err != nil {
		return r, err
	}
	if c.proposed != nil {
		c.proposed(&cmd)
	}
	return r, nil
}

func (c *cluster) append(cmd []byte) raftstore.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	return raftstore.Result{Index: c.index, Value: c.machine.Apply(c.index, cmd)}
}

func (c *cluster) LeadershipChanges(ctx context.Context) iter.Seq[raftstore.Leadership] {
	return func(yield func(raftstore.Leadership) bool) {
		for {
			select {
			case <-ctx.Done():
				return
			case l := <-c.lead:
				if !yield(l) {
					return
				}
			}
		}
	}
}

func (*cluster) ClusterID() string                    { return "c" }
func (*cluster) ServerID() string                     { return "r" }
func (*cluster) Servers() ([]raftstore.Server, error) { return nil, nil }

// apply makes a command that must not be refused, and returns its index.
func (c *cluster) apply(t *testing.T, cmd *statepb.Command) uint64 {
	t.Helper()
	b, err := proto.Marshal(cmd)
	if err != nil {
		t.Fatal(err)
	}
	r := c.append(b)
	if refused, ok := r.Value.(*state.RejectedError); ok {
		t.Fatal(refused)
	}
	return r.Index
}

// leads makes the controller lead for a while, or not.
func (c *cluster) leads(leader bool, d time.Duration) {
	c.lead <- raftstore.Leadership{Leader: leader}
	time.Sleep(d)
	synctest.Wait()
}

// start runs a controller on a cluster with two pipelines of one stage: the stage of p is on a sidecar, q has completed.
func start(t *testing.T) (*cluster, *control.Controller) {
	t.Helper()
	m := state.New()
	c := &cluster{machine: m, lead: make(chan raftstore.Leadership)}
	c.apply(t, &statepb.Command{Kind: &statepb.Command_Found{Found: &statepb.Found{ClusterId: "c", Incarnation: 1}}})
	for _, name := range []string{"q", "p"} {
		c.adopt(t, name, "first")
		c.assign(t, name)
		if name == "q" {
			c.finish(t, name, true)
		}
	}
	ctl := control.New(control.Config{SessionTTL: 24 * time.Hour, DrainTimeout: drainTimeout, Logger: slog.New(slog.DiscardHandler)}, c, m)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { ctl.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return c, ctl
}

// adopt begins a life of a pipeline.
func (c *cluster) adopt(t *testing.T, name, uid string) {
	t.Helper()
	c.apply(t, &statepb.Command{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: []*statepb.PutResource{
		{Kind: "Pipeline", Namespace: "default", Name: name, Uid: uid},
	}}}})
	c.apply(t, &statepb.Command{Kind: &statepb.Command_AdoptPlan{AdoptPlan: &statepb.AdoptPlan{
		Pipeline: "default/" + name, Uid: uid, Plan: &statepb.Plan{Hash: "h", Stages: []*statepb.Stage{{Name: "s"}}},
	}}})
}

// restart begins another generation of a pipeline.
func (c *cluster) restart(t *testing.T, name string, fromStart, hold bool) {
	t.Helper()
	c.apply(t, &statepb.Command{Kind: &statepb.Command_RestartPipeline{RestartPipeline: &statepb.RestartPipeline{
		Pipeline: "default/" + name, FromStart: fromStart, Hold: hold,
	}}})
}

// assign opens a session of a sidecar and gives it the stage of a pipeline.
func (c *cluster) assign(t *testing.T, name string) {
	t.Helper()
	epoch := c.apply(t, &statepb.Command{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: "a", Address: "x:1"}}})
	c.apply(t, &statepb.Command{Kind: &statepb.Command_Assign{Assign: &statepb.Assign{Changes: []*statepb.AssignChange{
		{Pipeline: "default/" + name, Generation: c.pipeline(name).GetGeneration(), Stage: "s", SidecarId: "a", SessionEpoch: epoch},
	}}}})
}

// drain asks for the drain of a pipeline, and finish tells that its stage has ended, as its sidecar does.
func (c *cluster) drain(t *testing.T, name string) {
	t.Helper()
	c.apply(t, &statepb.Command{Kind: &statepb.Command_DrainPipeline{DrainPipeline: &statepb.DrainPipeline{
		Pipeline: "default/" + name, Generation: c.pipeline(name).GetGeneration(),
	}}})
}

func (c *cluster) finish(t *testing.T, name string, completed bool) {
	t.Helper()
	v := c.machine.View()
	a := v.Assignments[state.StageKey{Pipeline: "default/" + name, Stage: "s"}]
	c.apply(t, &statepb.Command{Kind: &statepb.Command_EndAssignments{EndAssignments: &statepb.EndAssignments{
		SidecarId: a.GetSidecarId(), SessionEpoch: a.GetSessionEpoch(), Ended: []*statepb.EndedAssignment{{
			Pipeline: "default/" + name, Generation: a.GetGeneration(), Stage: "s", Incarnation: v.Incarnation, Index: a.GetIndex(), Completed: completed,
		}},
	}}})
	if p := c.pipeline(name); p.GetDraining() || p.GetCompleted() != completed {
		t.Errorf("pipeline %s has not ended: %v", name, p)
	}
}

func (c *cluster) pipeline(name string) *statepb.Pipeline {
	return c.machine.View().Pipelines["default/"+name]
}

// mustDrainForItsWholeTime looks that a drain which begins to be seen now is cut off after the time that it has, and not before.
func (c *cluster) mustDrainForItsWholeTime(t *testing.T) {
	t.Helper()
	time.Sleep(drainTimeout - time.Second)
	synctest.Wait()
	if !c.pipeline("p").GetDraining() {
		t.Error("the drain was cut off before its time")
	}
	time.Sleep(5 * time.Second)
	synctest.Wait()
	if c.pipeline("p").GetDraining() {
		t.Error("the drain was not cut off after its time")
	}
}

func TestDrain_HasItsWholeTimeWhereAnEarlierOneWasSeenInAnotherLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := start(t)
		c.drain(t, "p")
		c.leads(true, time.Second)
		c.leads(false, 0)
		c.finish(t, "p", false)
		c.assign(t, "p")
		time.Sleep(time.Hour)
		c.drain(t, "p")
		c.leads(true, 0)
		c.mustDrainForItsWholeTime(t)
	})
}

func TestDrain_HasItsWholeTimeWhereAnEarlierOneHasJustEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := start(t)
		c.drain(t, "p")
		c.leads(true, drainTimeout-time.Second)
		// The drain ends, the stage is placed again and drains again, all within one round of the controller.
		again := sync.OnceFunc(func() { c.drain(t, "p") })
		c.proposed = func(cmd *statepb.Command) {
			switch {
			case cmd.GetReleasePipeline() != nil:
				c.finish(t, "p", false)
			case cmd.GetAssign() != nil:
				again()
			}
		}
		c.restart(t, "q", false, true)
		synctest.Wait()
		if !c.pipeline("p").GetDraining() {
			t.Fatal("it does not drain again")
		}
		c.mustDrainForItsWholeTime(t)
	})
}

func TestConditions_AreNotOlderThanTheLeadershipThatSawThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ctl := start(t)
		running := func() *controlv1.Condition {
			t.Helper()
			s, _ := ctl.Status("default", "p")
			for _, cond := range s.GetConditions() {
				if cond.GetType() == "Running" {
					return cond
				}
			}
			t.Fatalf("no condition says whether it runs: %v", s)
			return nil
		}
		c.leads(true, time.Second)
		before := running()
		c.leads(false, time.Hour)
		c.leads(true, time.Second)
		now := running()
		if now.GetReason() != before.GetReason() || time.Since(now.GetSince().AsTime()) > time.Minute {
			t.Errorf("after an hour in which others led, and it may have been different, it is said to be %s since %v", now.GetReason(), now.GetSince().AsTime())
		}
	})
}

func TestHold_DoesNotWaitForTheEndOfAnEarlierPipelineOfTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, ctl := start(t)
		c.restart(t, "q", false, true)
		c.leads(true, time.Second) // and releases it
		c.leads(false, 0)
		c.finish(t, "q", true)
		c.apply(t, &statepb.Command{Kind: &statepb.Command_DeleteResource{DeleteResource: &statepb.DeleteResource{Kind: "Pipeline", Namespace: "default", Name: "q"}}})
		c.adopt(t, "q", "second")
		c.restart(t, "q", true, false)
		c.leads(true, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		release, err := ctl.Hold(ctx, "default/q", nil)
		defer release()
		if err != nil || ctx.Err() != nil {
			t.Errorf("a pipeline that runs was waited for: error %v, %v", err, ctx.Err())
		}
	})
}
