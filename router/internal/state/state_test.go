package state_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
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

// drawCommand draws a command over a few names, so that commands meet each other. Most fit the state that they meet; guess is near the indexes that exist.
func drawCommand(t *rapid.T, guess uint64, v *state.View) *statepb.Command {
	name := func() string { return rapid.SampledFrom([]string{"p", "q"}).Draw(t, "name") }
	full := func() string { return "default/" + name() }
	sidecar := func() string { return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "sidecar") }
	index := func() uint64 { return rapid.Uint64Range(0, guess).Draw(t, "index") }
	fit := func(right uint64) uint64 {
		if rapid.IntRange(0, 9).Draw(t, "wrong") == 0 {
			return index()
		}
		return right
	}
	stage := func() string { return rapid.SampledFrom([]string{"in", "out"}).Draw(t, "stage") }
	generation := func(pipeline string) uint64 { return fit(v.Pipelines[pipeline].GetGeneration()) }
	session := func(id string) uint64 { return fit(v.Sessions[id].GetEpoch()) }
	c := &statepb.Command{AtUnixNano: int64(index())}
	if rapid.IntRange(0, 4).Draw(t, "client") == 0 {
		c.Client = &statepb.Client{Session: index(), Sequence: rapid.Uint64Range(0, 5).Draw(t, "change"), LowestUnanswered: rapid.Uint64Range(0, 4).Draw(t, "lowest"), Reply: []byte{1}}
	}
	switch rapid.IntRange(0, 20).Draw(t, "kind") {
	case 0:
		c.Kind = &statepb.Command_Found{Found: &statepb.Found{ClusterId: "c", Incarnation: 1}}
	case 1:
		c.Kind = &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: []*statepb.PutResource{
			{Kind: "Pipeline", Namespace: "default", Name: "p", Uid: "u", ExpectedRevision: revision(v, "p"), Manifest: []byte("m"), SpecChanged: true},
			{Kind: "Pipeline", Namespace: "default", Name: "q", Uid: "u", ExpectedRevision: fit(revision(v, "q"))},
		}[:rapid.IntRange(1, 2).Draw(t, "n")]}}
	case 2:
		c.Kind = &statepb.Command_DeleteResource{DeleteResource: &statepb.DeleteResource{Kind: "Pipeline", Namespace: "default", Name: name()}}
	case 3:
		c.Kind = &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: sidecar(), Address: "x:1"}}
	case 4:
		id := sidecar()
		c.Kind = &statepb.Command_EndSession{EndSession: &statepb.EndSession{SidecarId: id, Epoch: session(id)}}
	case 5:
		id := sidecar()
		c.Kind = &statepb.Command_SetEndpoints{SetEndpoints: &statepb.SetEndpoints{SidecarId: id, Epoch: session(id), Endpoints: [][]byte{{1}}}}
	case 6:
		p := full()
		c.Kind = &statepb.Command_AdoptPlan{AdoptPlan: &statepb.AdoptPlan{Pipeline: p, Uid: "u", ExpectedGeneration: generation(p), Plan: &statepb.Plan{
			Hash: name(), Stages: []*statepb.Stage{{Name: "in", Service: "default/" + name()}, {Name: "out"}}, Edges: []*statepb.Edge{{From: "in", To: "out"}},
		}}}
	case 7:
		p := full()
		c.Kind = &statepb.Command_DrainPipeline{DrainPipeline: &statepb.DrainPipeline{Pipeline: p, Generation: generation(p)}}
	case 8:
		p := full()
		c.Kind = &statepb.Command_CutPipeline{CutPipeline: &statepb.CutPipeline{Pipeline: p, Generation: generation(p)}}
	case 9:
		c.Kind = &statepb.Command_RestartPipeline{RestartPipeline: &statepb.RestartPipeline{Pipeline: full(), FromStart: rapid.Bool().Draw(t, "from start"), Hold: rapid.Bool().Draw(t, "hold")}}
	case 10, 13, 14:
		key, id := state.StageKey{Pipeline: full(), Stage: stage()}, sidecar()
		c.Kind = &statepb.Command_Assign{Assign: &statepb.Assign{Changes: []*statepb.AssignChange{{
			Pipeline: key.Pipeline, Generation: generation(key.Pipeline), Stage: key.Stage, ExpectedIndex: fit(v.Assignments[key].GetIndex()),
			Withdraw: rapid.IntRange(0, 9).Draw(t, "withdraw") == 0, SidecarId: id, SessionEpoch: session(id),
		}}}}
	case 11, 15:
		key := state.StageKey{Pipeline: full(), Stage: stage()}
		a := v.Assignments[key]
		c.Kind = &statepb.Command_EndAssignments{EndAssignments: &statepb.EndAssignments{
			SidecarId: a.GetSidecarId(), SessionEpoch: fit(a.GetSessionEpoch()), Ended: []*statepb.EndedAssignment{{
				Pipeline: key.Pipeline, Generation: generation(key.Pipeline), Stage: key.Stage, Incarnation: 1, Index: fit(a.GetIndex()),
				Completed: rapid.Bool().Draw(t, "completed"), Counts: &statepb.Counts{Read: index(), Dead: 1},
			}},
		}}
	case 17:
		c.Kind = &statepb.Command_OpenClientSession{OpenClientSession: &statepb.OpenClientSession{Identity: name()}}
	case 18:
		c.Kind = &statepb.Command_EndClientSession{EndClientSession: &statepb.EndClientSession{Session: index(), LastIndex: index()}}
	case 19:
		c.Kind = &statepb.Command_AnnounceRouter{AnnounceRouter: &statepb.AnnounceRouter{Router: &statepb.Router{ServerId: name(), FeatureLevel: 1}}}
		if rapid.Bool().Draw(t, "forget") {
			c.Kind = &statepb.Command_ForgetRouter{ForgetRouter: &statepb.ForgetRouter{ServerId: name()}}
		}
	case 20:
		c.Kind = &statepb.Command_StoreLetterMark{StoreLetterMark: &statepb.StoreLetterMark{Version: rapid.Uint64Range(0, 4).Draw(t, "version"), Mark: []byte{byte(index())}}}
	case 16:
		p := full()
		c.Kind = &statepb.Command_ReleasePipeline{ReleasePipeline: &statepb.ReleasePipeline{Pipeline: p, Generation: generation(p)}}
	case 12:
		key := state.StageKey{Pipeline: full(), Stage: "in"}
		a := v.Assignments[key]
		c.Kind = &statepb.Command_StoreCheckpoints{StoreCheckpoints: &statepb.StoreCheckpoints{
			SidecarId: a.GetSidecarId(), SessionEpoch: fit(a.GetSessionEpoch()), Checkpoints: []*statepb.Checkpoint{{
				Pipeline: key.Pipeline, SourceStage: "in", Partition: stage(), Generation: generation(key.Pipeline), Incarnation: 1, Index: fit(a.GetIndex()),
				Sequence: rapid.Uint64Range(0, 5).Draw(t, "sequence"), Position: rapid.SliceOfN(rapid.Byte(), 0, 2).Draw(t, "position"),
			}},
		}}
	}
	return c
}

func revision(v *state.View, pipeline string) uint64 {
	return v.Resources[state.ResourceKey{Kind: "Pipeline", Namespace: "default", Name: pipeline}].GetRevision()
}

// prologue makes what most commands need: a cluster, two pipelines and two sidecars.
func prologue() []*statepb.Command {
	put := func(name string) *statepb.PutResource {
		return &statepb.PutResource{Kind: "Pipeline", Namespace: "default", Name: name, Uid: "u"}
	}
	return []*statepb.Command{
		{Kind: &statepb.Command_Found{Found: &statepb.Found{ClusterId: "c", Incarnation: 1}}},
		{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: []*statepb.PutResource{put("p"), put("q")}}}},
		{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: "a"}}},
		{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: "b"}}},
	}
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
		if p.GetCounts() != nil && len(p.GetCompletedStages()) == 0 {
			t.Fatalf("%s counts what no stage of it has read that completed: %v", name, p)
		}
		if p.GetHold() && p.GetCompleted() {
			t.Fatalf("%s is held although it has completed", name)
		}
		if !busy && (p.GetDraining() || p.GetDeleting() || p.GetBeginAnew() || len(p.GetDrainedStages()) > 0) {
			t.Fatalf("%s waits for nothing: %v", name, p)
		}
	}
}

func TestMachine_SameLogSameStateAndSnapshotsRestoreIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, begin := state.New(), state.New(), prologue()
		epochs := map[state.StageKey]uint64{}
		n := rapid.IntRange(1, 120).Draw(t, "commands")
		cut := rapid.IntRange(0, n).Draw(t, "restart")
		for i := range n {
			index := uint64(i) + 1
			var c *statepb.Command
			if i < len(begin) {
				c = begin[i]
			} else {
				c = drawCommand(t, index, a.View())
			}
			cmd, err := proto.Marshal(c)
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

// timeless is a view without the times that are for people.
func timeless(v *state.View) *state.View {
	// The index is left out: a view may be older than the last command that changed nothing in it.
	c := &state.View{
		ClusterID: v.ClusterID, Incarnation: v.Incarnation, Resources: maps.Clone(v.Resources), Sessions: maps.Clone(v.Sessions),
		Pipelines: v.Pipelines, Assignments: v.Assignments, Routers: v.Routers,
	}
	for k, r := range c.Resources {
		r = proto.CloneOf(r)
		r.CreatedAtUnixNano, r.UpdatedAtUnixNano = 0, 0
		c.Resources[k] = r
	}
	for k, s := range c.Sessions {
		s = proto.CloneOf(s)
		s.RegisteredAtUnixNano = 0
		c.Sessions[k] = s
	}
	return c
}

// A leader's clock may be years off, and that of the next one too.
func TestMachine_NoDecisionDependsOnTheTimesOfCommands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, begin := state.New(), state.New(), prologue()
		for i := range rapid.IntRange(1, 80).Draw(t, "commands") {
			index := uint64(i) + 1
			var c *statepb.Command
			if i < len(begin) {
				c = begin[i]
			} else {
				c = drawCommand(t, index, a.View())
			}
			apply := func(m *state.Machine, at int64) string {
				c.AtUnixNano = at
				cmd, err := proto.Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				result := m.Apply(index, cmd)
				if s, ok := result.(*statepb.Session); ok {
					s = proto.CloneOf(s)
					s.RegisteredAtUnixNano = 0
					result = s
				}
				return fmt.Sprint(result)
			}
			if diff := cmp.Diff(apply(a, 0), apply(b, rapid.Int64().Draw(t, "at"))); diff != "" {
				t.Fatalf("results differ: %s", diff)
			}
		}
		if diff := cmp.Diff(timeless(a.View()), timeless(b.View()), protocmp.Transform(), cmpopts.IgnoreUnexported(state.View{})); diff != "" {
			t.Fatalf("states differ: %s", diff)
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

func TestSigningKey_TheFirstStaysAlsoOverASnapshot(t *testing.T) {
	adopt := func(m *state.Machine, index uint64, seed string) any {
		return m.Apply(index, encode(t, &statepb.Command{Kind: &statepb.Command_AdoptSigningKey{AdoptSigningKey: &statepb.AdoptSigningKey{Seed: []byte(seed)}}}))
	}
	m := state.New()
	if refused, _ := adopt(m, 1, "short").(*state.RejectedError); refused == nil || m.SigningKey() != nil {
		t.Errorf("a key made from 5 bytes: %v", refused)
	}
	first, second := strings.Repeat("1", 32), strings.Repeat("2", 32)
	for i, seed := range []string{first, second, first} {
		if got := adopt(m, uint64(i)+2, seed); got != nil {
			t.Errorf("got %v", got)
		}
	}
	restored := state.New()
	if err := restored.Restore(bytes.NewReader(snapshot(t, m))); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]*state.Machine{"as applied": m, "restored": restored} {
		if got := string(m.SigningKey().Seed()); got != first {
			t.Errorf("%s: the key is %q", name, got)
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

// changeLarge changes n resources of 200 KiB each, two at once.
func changeLarge(t *testing.T, m *state.Machine, n int) {
	t.Helper()
	manifest := bytes.Repeat([]byte("x"), 200<<10)
	before := m.Index()
	for i := range uint64(n / 2) {
		expected := uint64(0)
		if i > 0 {
			expected = before + i
		}
		var both []*statepb.PutResource
		for _, name := range []string{"a", "b"} {
			both = append(both, &statepb.PutResource{Kind: "Source", Namespace: "n", Name: name, ExpectedRevision: expected, Manifest: manifest})
		}
		if refused := m.Apply(before+i+1, encode(t, &statepb.Command{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: both}}})); refused != nil {
			t.Fatal(refused)
		}
	}
}

func TestEvents_OfLargeResourcesAreForgottenBeforeTheyFillTheMemory(t *testing.T) {
	m := state.New()
	changeLarge(t, m, 600) // 117 MiB
	newest := m.Index()
	held := func(revision uint64) (size int, err error) {
		for {
			events, through, err := m.EventsAfter(revision)
			if err != nil || len(events) == 0 {
				return size, err
			}
			for _, e := range events {
				size += len(e.Resource.GetManifest())
			}
			revision = through
		}
	}
	oldest := uint64(0)
	for ; oldest < newest; oldest++ {
		if _, _, err := m.EventsAfter(oldest); err == nil {
			break
		}
	}
	if size, err := held(oldest); err != nil || size > 64<<20 || size < 60<<20 {
		t.Errorf("events of %d bytes are kept, %v", size, err)
	}
	if _, err := held(oldest - 1); !errors.Is(err, state.ErrCompacted) {
		t.Errorf("behind them: %v", err)
	}
	// What one reader holds is kept besides.
	events, through, err := m.EventsAfter(oldest)
	if err != nil || len(events) != 2 || through != oldest+1 || events[0].Revision != through || events[1].Revision != through {
		t.Errorf("%d events through %d after %d, %v", len(events), through, oldest, err)
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
