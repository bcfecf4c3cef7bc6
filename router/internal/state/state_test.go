package state_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

func encode(t testing.TB, c *statepb.Command) []byte {
	t.Helper()
	b, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type fataler interface {
	Helper()
	Fatal(args ...any)
}

func snapshot(t fataler, m *state.Machine) []byte {
	t.Helper()
	write, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// drawCommand draws a command over a few names, so that commands meet each other. guess is near the indexes that exist.
func drawCommand(t *rapid.T, guess uint64) *statepb.Command {
	name := func() string { return rapid.SampledFrom([]string{"p", "q"}).Draw(t, "name") }
	full := func() string { return "default/" + name() }
	sidecar := func() string { return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "sidecar") }
	index := func() uint64 { return rapid.Uint64Range(0, guess).Draw(t, "index") }
	stage := func() string { return rapid.SampledFrom([]string{"in", "out"}).Draw(t, "stage") }
	generation := func() uint64 { return rapid.Uint64Range(0, 3).Draw(t, "generation") }
	c := &statepb.Command{AtUnixNano: int64(index())}
	switch rapid.IntRange(0, 12).Draw(t, "kind") {
	case 0:
		c.Kind = &statepb.Command_Found{Found: &statepb.Found{ClusterId: "c", Incarnation: 1}}
	case 1:
		c.Kind = &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: []*statepb.PutResource{
			{Kind: "Pipeline", Namespace: "default", Name: name(), Uid: "u", ExpectedRevision: index(), Manifest: []byte("m"), SpecChanged: true},
			{Kind: "Source", Namespace: "default", Name: name(), Uid: "u", ExpectedRevision: index()},
		}[:rapid.IntRange(1, 2).Draw(t, "n")]}}
	case 2:
		c.Kind = &statepb.Command_DeleteResource{DeleteResource: &statepb.DeleteResource{Kind: "Pipeline", Namespace: "default", Name: name()}}
	case 3:
		c.Kind = &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: sidecar(), Address: "x:1"}}
	case 4:
		c.Kind = &statepb.Command_EndSession{EndSession: &statepb.EndSession{SidecarId: sidecar(), Epoch: index()}}
	case 5:
		c.Kind = &statepb.Command_SetEndpoints{SetEndpoints: &statepb.SetEndpoints{SidecarId: sidecar(), Epoch: index(), Endpoints: [][]byte{{1}}}}
	case 6:
		c.Kind = &statepb.Command_AdoptPlan{AdoptPlan: &statepb.AdoptPlan{Pipeline: full(), Uid: "u", ExpectedGeneration: generation(), Plan: &statepb.Plan{
			Hash: name(), Stages: []*statepb.Stage{{Name: "in", Service: "default/" + name()}, {Name: "out"}}, Edges: []*statepb.Edge{{From: "in", To: "out"}},
		}}}
	case 7:
		c.Kind = &statepb.Command_DrainPipeline{DrainPipeline: &statepb.DrainPipeline{Pipeline: full(), Generation: generation()}}
	case 8:
		c.Kind = &statepb.Command_CutPipeline{CutPipeline: &statepb.CutPipeline{Pipeline: full(), Generation: generation()}}
	case 9:
		c.Kind = &statepb.Command_RestartPipeline{RestartPipeline: &statepb.RestartPipeline{Pipeline: full(), FromStart: rapid.Bool().Draw(t, "from start")}}
	case 10:
		c.Kind = &statepb.Command_Assign{Assign: &statepb.Assign{Changes: []*statepb.AssignChange{{
			Pipeline: full(), Generation: generation(), Stage: stage(), ExpectedIndex: rapid.SampledFrom([]uint64{0, index()}).Draw(t, "expected"),
			Withdraw: rapid.IntRange(0, 4).Draw(t, "withdraw") == 0, SidecarId: sidecar(), SessionEpoch: index(),
		}}}}
	case 11:
		c.Kind = &statepb.Command_EndAssignments{EndAssignments: &statepb.EndAssignments{SidecarId: sidecar(), SessionEpoch: index(), Ended: []*statepb.EndedAssignment{{
			Pipeline: full(), Generation: generation(), Stage: stage(), Incarnation: 1, Index: index(), Completed: rapid.Bool().Draw(t, "completed"),
		}}}}
	case 12:
		c.Kind = &statepb.Command_StoreCheckpoints{StoreCheckpoints: &statepb.StoreCheckpoints{SidecarId: sidecar(), SessionEpoch: index(), Checkpoints: []*statepb.Checkpoint{{
			Pipeline: full(), SourceStage: "in", Partition: stage(), Generation: generation(), Incarnation: 1, Index: index(),
			Sequence: rapid.Uint64Range(0, 5).Draw(t, "sequence"), Position: rapid.SliceOfN(rapid.Byte(), 0, 2).Draw(t, "position"),
		}}}}
	}
	return c
}

// check looks for what must hold in every state.
func check(t *rapid.T, m *state.Machine) {
	v := m.View()
	for key, a := range v.Assignments {
		p, s := v.Pipelines[key.Pipeline], v.Sessions[a.GetSidecarId()]
		switch {
		case p == nil:
			t.Fatalf("%v is assigned, and its pipeline is gone", key)
		case a.GetGeneration() != p.GetGeneration():
			t.Fatalf("%v is assigned in generation %d of %d", key, a.GetGeneration(), p.GetGeneration())
		case s == nil || s.GetEpoch() != a.GetSessionEpoch():
			t.Fatalf("%v is assigned to a session that has ended", key)
		case state.Ended(p, key.Stage):
			t.Fatalf("%v is assigned although it has ended", key)
		case p.GetCompleted():
			t.Fatalf("%v is assigned although its pipeline has completed", key)
		}
	}
	for name, p := range v.Pipelines {
		busy := false
		for _, s := range p.GetPlan().GetStages() {
			busy = busy || v.Assignments[state.StageKey{Pipeline: name, Stage: s.GetName()}] != nil
		}
		if !busy && (p.GetDraining() || p.GetDeleting() || p.GetBeginAnew() || len(p.GetDrainedStages()) > 0) {
			t.Fatalf("%s waits for nothing: %v", name, p)
		}
	}
}

func TestMachine_SameLogSameStateAndSnapshotsRestoreIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := state.New(), state.New()
		epochs := map[state.StageKey]uint64{}
		n := rapid.IntRange(1, 120).Draw(t, "commands")
		cut := rapid.IntRange(0, n).Draw(t, "restart")
		for i := range n {
			index := uint64(i) + 1
			cmd, err := proto.Marshal(drawCommand(t, index))
			if err != nil {
				t.Fatal(err)
			}
			ra, rb := a.Apply(index, cmd), b.Apply(index, cmd)
			if diff := cmp.Diff(fmt.Sprint(ra), fmt.Sprint(rb)); diff != "" {
				t.Fatalf("results differ: %s", diff)
			}
			if i == cut { // b goes on from a snapshot, a from its log
				restored := state.New()
				if err := restored.Restore(bytes.NewReader(snapshot(t, b))); err != nil {
					t.Fatal(err)
				}
				b = restored
			}
			check(t, a)
			for key, as := range a.View().Assignments {
				if as.GetIndex() < epochs[key] {
					t.Fatalf("the epoch of %v went back from %d to %d", key, epochs[key], as.GetIndex())
				}
				epochs[key] = as.GetIndex()
			}
		}
		if !bytes.Equal(snapshot(t, a), snapshot(t, b)) {
			t.Fatal("states differ")
		}
	})
}

func TestMachine_ASnapshotIsOfItsMomentAndWhole(t *testing.T) {
	m := state.New()
	m.Apply(1, encode(t, &statepb.Command{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: "a"}}}))
	write, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	m.Apply(2, encode(t, &statepb.Command{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: "b"}}}))
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	r := state.New()
	if err := r.Restore(bytes.NewReader(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	if v := r.View(); len(v.Sessions) != 1 || v.Index != 1 {
		t.Errorf("restored %v", v)
	}
	for cut := range b.Len() {
		if err := r.Restore(io.LimitReader(bytes.NewReader(b.Bytes()), int64(cut))); err == nil {
			t.Fatalf("a snapshot cut to %d of %d bytes was taken", cut, b.Len())
		}
	}
}

func TestMachine_StopsAtACommandItDoesNotKnow(t *testing.T) {
	unknown := protowire.AppendTag(nil, 99, protowire.BytesType)
	unknown = protowire.AppendBytes(unknown, []byte("later"))
	if _, ok := state.New().Apply(1, unknown).(raftstore.Halt); !ok {
		t.Error("an unknown command was passed over")
	}
}

func TestEvents_AreForgottenFromTheOldestOn(t *testing.T) {
	m := state.New()
	revision := uint64(0)
	for i := range uint64(10_000) {
		m.Apply(i+1, encode(t, &statepb.Command{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{
			Resources: []*statepb.PutResource{{Kind: "Source", Namespace: "n", Name: "s", ExpectedRevision: revision}},
		}}}))
		revision = i + 1
	}
	if _, _, err := m.EventsAfter(1); err == nil {
		t.Error("forgotten events were told")
	}
	events, through, err := m.EventsAfter(revision - 100)
	if err != nil || len(events) != 100 || through != revision || events[0].Revision != revision-99 {
		t.Errorf("%d events through %d, %v", len(events), through, err)
	}
}

func FuzzMachine_AnyBytesAreHarmless(f *testing.F) {
	f.Add([]byte{})
	f.Add(encode(f, &statepb.Command{Kind: &statepb.Command_Assign{Assign: &statepb.Assign{Changes: []*statepb.AssignChange{{}}}}}))
	f.Add(encode(f, &statepb.Command{Kind: &statepb.Command_AdoptPlan{AdoptPlan: &statepb.AdoptPlan{Pipeline: "default/p", Uid: "u"}}}))
	f.Add(encode(f, &statepb.Command{Kind: &statepb.Command_StoreCheckpoints{StoreCheckpoints: &statepb.StoreCheckpoints{Checkpoints: []*statepb.Checkpoint{{}}}}}))
	f.Fuzz(func(t *testing.T, cmd []byte) {
		m := state.New()
		m.Apply(1, encode(t, &statepb.Command{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: []*statepb.PutResource{{Kind: "Pipeline", Namespace: "default", Name: "p", Uid: "u"}}}}}))
		m.Apply(2, encode(t, &statepb.Command{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: "a"}}}))
		m.Apply(3, cmd)
		m.Apply(4, cmd)
		if err := state.New().Restore(bytes.NewReader(snapshot(t, m))); err != nil {
			t.Fatal(err)
		}
		state.New().Restore(bytes.NewReader(cmd)) // an error, never a panic
	})
}
