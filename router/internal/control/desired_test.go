package control_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router/internal/control"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// drawChange draws a command that changes what two sidecars should run of two pipelines, and fits the state.
func drawChange(t *rapid.T, v *state.View) *statepb.Command {
	draw := func(what string, from ...string) string { return rapid.SampledFrom(from).Draw(t, what) }
	key := state.StageKey{Pipeline: draw("pipeline", "default/p", "default/q"), Stage: draw("stage", "in", "out")}
	sidecar := draw("sidecar", "a", "b")
	p, a, s := v.Pipelines[key.Pipeline], v.Assignments[key], v.Sessions[sidecar]
	c := &statepb.Command{}
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		c.Kind = &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: sidecar, Address: draw("address", "x:1", "y:1")}}
	case 1:
		c.Kind = &statepb.Command_SetEndpoints{SetEndpoints: &statepb.SetEndpoints{SidecarId: sidecar, Epoch: s.GetEpoch(), Endpoints: [][]byte{{1}}}}
	case 2:
		c.Kind = &statepb.Command_AdoptPlan{AdoptPlan: &statepb.AdoptPlan{Pipeline: key.Pipeline, Uid: "u", ExpectedGeneration: p.GetGeneration(), Plan: &statepb.Plan{
			Hash: draw("hash", "1", "2"), Stages: []*statepb.Stage{{Name: "in", Service: "default/in"}, {Name: "out"}}, Edges: []*statepb.Edge{{From: "in", To: "out"}},
		}}}
	case 3:
		c.Kind = &statepb.Command_DrainPipeline{DrainPipeline: &statepb.DrainPipeline{Pipeline: key.Pipeline, Generation: p.GetGeneration()}}
	case 4:
		c.Kind = &statepb.Command_ReleasePipeline{ReleasePipeline: &statepb.ReleasePipeline{Pipeline: key.Pipeline, Generation: p.GetGeneration()}}
	case 5:
		c.Kind = &statepb.Command_RestartPipeline{RestartPipeline: &statepb.RestartPipeline{Pipeline: key.Pipeline, FromStart: rapid.Bool().Draw(t, "from start"), Hold: rapid.Bool().Draw(t, "hold")}}
	case 6:
		c.Kind = &statepb.Command_EndAssignments{EndAssignments: &statepb.EndAssignments{SidecarId: a.GetSidecarId(), SessionEpoch: a.GetSessionEpoch(), Ended: []*statepb.EndedAssignment{{
			Pipeline: key.Pipeline, Generation: p.GetGeneration(), Stage: key.Stage, Incarnation: 1, Index: a.GetIndex(), Completed: rapid.Bool().Draw(t, "completed"),
		}}}}
	default:
		c.Kind = &statepb.Command_Assign{Assign: &statepb.Assign{Changes: []*statepb.AssignChange{{
			Pipeline: key.Pipeline, Generation: p.GetGeneration(), Stage: key.Stage, ExpectedIndex: a.GetIndex(),
			Withdraw: rapid.IntRange(0, 5).Draw(t, "withdraw") == 0, SidecarId: sidecar, SessionEpoch: s.GetEpoch(), Address: draw("service", "s:1", "s:2"),
		}}}}
	}
	return c
}

// A sidecar that is not told of a change to what it runs would run what nobody wants any more.
func TestDesired_TellsOfEveryChangeOfWhatASidecarShouldRun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, index := state.New(), uint64(0)
		apply := func(c *statepb.Command) {
			b, err := proto.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			index++
			m.Apply(index, b)
		}
		apply(&statepb.Command{Kind: &statepb.Command_Found{Found: &statepb.Found{ClusterId: "c", Incarnation: 1}}})
		for _, name := range []string{"p", "q"} {
			apply(&statepb.Command{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: []*statepb.PutResource{{Kind: "Pipeline", Namespace: "default", Name: name, Uid: "u"}}}}})
		}
		desired, told := control.NewDesired("a"), []*controlv1.Assignment(nil)
		for range rapid.IntRange(1, 60).Draw(t, "changes") {
			apply(drawChange(t, m.View()))
			if rapid.Bool().Draw(t, "slow") {
				continue // it looks again later
			}
			if assignments, fresh := desired.In(m.View()); fresh {
				told = assignments
			}
			if diff := cmp.Diff(control.Assignments(m.View(), "a"), told, protocmp.Transform()); diff != "" {
				t.Fatalf("the sidecar was not told (-wants +knows): %s", diff)
			}
		}
	})
}

func TestDesired_WhatConcernsOthersIsNoChange(t *testing.T) {
	m := state.New()
	desired := control.NewDesired("a")
	if _, fresh := desired.In(m.View()); !fresh {
		t.Error("the first view is no news")
	}
	b, err := proto.Marshal(&statepb.Command{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: "b", Address: "x:1"}}})
	if err != nil {
		t.Fatal(err)
	}
	m.Apply(1, b)
	if _, fresh := desired.In(m.View()); fresh {
		t.Error("another sidecar's session is news")
	}
}
