package state_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// What completed is counted by nobody any more, and a leader that was replaced has forgotten what it was told.
func TestCounts_OfStagesThatCompletedAreKeptUntilTheNextGeneration(t *testing.T) {
	m, index := state.New(), uint64(0)
	do := func(c *statepb.Command) any { index++; return m.Apply(index, encode(t, c)) }
	for _, c := range prologue() {
		do(c)
	}
	do(&statepb.Command{Kind: &statepb.Command_AdoptPlan{AdoptPlan: &statepb.AdoptPlan{
		Pipeline: "default/p", Uid: "u", Plan: &statepb.Plan{Hash: "h", Stages: []*statepb.Stage{{Name: "in"}, {Name: "two"}, {Name: "out"}}},
	}}})
	run := func(stage string) {
		p := m.View().Pipelines["default/p"]
		do(&statepb.Command{Kind: &statepb.Command_Assign{Assign: &statepb.Assign{Changes: []*statepb.AssignChange{{
			Pipeline: "default/p", Generation: p.GetGeneration(), Stage: stage, SidecarId: "a", SessionEpoch: m.View().Sessions["a"].GetEpoch(),
		}}}}})
	}
	end := func(stage string, completed bool, counts *statepb.Counts) {
		a := m.View().Assignments[state.StageKey{Pipeline: "default/p", Stage: stage}]
		do(&statepb.Command{Kind: &statepb.Command_EndAssignments{EndAssignments: &statepb.EndAssignments{
			SidecarId: "a", SessionEpoch: a.GetSessionEpoch(), Ended: []*statepb.EndedAssignment{{
				Pipeline: "default/p", Generation: a.GetGeneration(), Stage: stage, Incarnation: 1, Index: a.GetIndex(), Completed: completed, Counts: counts,
			}},
		}}})
	}
	counts := func(want *statepb.Counts) {
		t.Helper()
		if diff := cmp.Diff(want, m.View().Pipelines["default/p"].GetCounts(), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
	for _, stage := range []string{"in", "two", "out"} {
		run(stage)
	}
	end("in", true, &statepb.Counts{Read: 9, Acknowledged: 7, Dead: 1, Filtered: 1})
	end("in", true, &statepb.Counts{Read: 9}) // a late copy
	counts(&statepb.Counts{Read: 9, Acknowledged: 7, Dead: 1, Filtered: 1})
	end("two", true, &statepb.Counts{Read: 3, Unrouted: 1, Shed: 2})
	end("out", true, nil)
	whole := &statepb.Counts{Read: 12, Acknowledged: 7, Dead: 1, Filtered: 1, Unrouted: 1, Shed: 2}
	counts(whole)

	saved, other := snapshot(t, m), state.New()
	if err := other.Restore(bytes.NewReader(saved)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(whole, other.View().Pipelines["default/p"].GetCounts(), protocmp.Transform()); diff != "" {
		t.Errorf("after a snapshot: %s", diff)
	}

	do(&statepb.Command{Kind: &statepb.Command_RestartPipeline{RestartPipeline: &statepb.RestartPipeline{Pipeline: "default/p"}}})
	counts(nil)
	// A drain takes back that a stage has completed: it begins again, and counts its records again.
	run("in")
	run("out")
	end("in", true, &statepb.Counts{Read: 5})
	do(&statepb.Command{Kind: &statepb.Command_DrainPipeline{DrainPipeline: &statepb.DrainPipeline{Pipeline: "default/p", Generation: 2}}})
	end("out", false, nil)
	counts(nil)
}
