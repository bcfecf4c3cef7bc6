package state_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// reader is a pipeline that reads one source after the other, and one all the time that has nothing new.
type reader struct {
	t       *testing.T
	m       *state.Machine
	index   uint64
	session uint64
}

func newReader(t *testing.T) *reader {
	r := &reader{t: t, m: state.New()}
	r.apply(&statepb.Command{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: []*statepb.PutResource{
		{Kind: "Pipeline", Namespace: "default", Name: "p", Uid: "u"},
	}}}})
	r.session = r.apply(&statepb.Command{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{SidecarId: "a"}}})
	return r
}

func (r *reader) apply(c *statepb.Command) uint64 {
	r.t.Helper()
	r.index++
	if refused, ok := r.m.Apply(r.index, encode(r.t, c)).(*state.RejectedError); ok {
		r.t.Fatal(refused)
	}
	return r.index
}

// read changes the pipeline to read these sources, each at a stage of its name, and stores checkpoints of two partitions of those that have something new.
func (r *reader) read(sources []string, news ...string) {
	r.t.Helper()
	plan := &statepb.Plan{}
	for _, s := range sources {
		plan.Stages = append(plan.Stages, &statepb.Stage{Name: s, Service: "default/" + s})
	}
	generation := r.m.View().Pipelines["default/p"].GetGeneration()
	r.apply(&statepb.Command{Kind: &statepb.Command_AdoptPlan{AdoptPlan: &statepb.AdoptPlan{Pipeline: "default/p", Uid: "u", ExpectedGeneration: generation, Plan: plan}}})
	generation++
	for _, s := range sources {
		epoch := r.apply(&statepb.Command{Kind: &statepb.Command_Assign{Assign: &statepb.Assign{Changes: []*statepb.AssignChange{
			{Pipeline: "default/p", Generation: generation, Stage: s, SidecarId: "a", SessionEpoch: r.session},
		}}}})
		for _, name := range news {
			if name != s {
				continue
			}
			for _, partition := range []string{"0", "1"} {
				r.apply(&statepb.Command{Kind: &statepb.Command_StoreCheckpoints{StoreCheckpoints: &statepb.StoreCheckpoints{
					SidecarId: "a", SessionEpoch: r.session,
					Checkpoints: []*statepb.Checkpoint{{Pipeline: "default/p", SourceStage: s, Partition: partition, Generation: generation, Index: epoch, Position: []byte("x")}},
				}}})
			}
		}
	}
	r.apply(&statepb.Command{Kind: &statepb.Command_DrainPipeline{DrainPipeline: &statepb.DrainPipeline{Pipeline: "default/p", Generation: generation}}})
	r.apply(&statepb.Command{Kind: &statepb.Command_CutPipeline{CutPipeline: &statepb.CutPipeline{Pipeline: "default/p", Generation: generation}}})
}

// knows reports whether a source would go on where it was.
func (r *reader) knows(source string) bool {
	r.t.Helper()
	r.read([]string{source})
	return len(r.m.Checkpoints("default/p", source)) == 2
}

func TestCheckpoints_OfSourcesThatComeAndGoAreBounded(t *testing.T) {
	r := newReader(t)
	name := func(i int) string { return fmt.Sprintf("s%d", i) }
	size := func() int { return len(snapshot(t, r.m)) }
	for i := range 100 {
		r.read([]string{name(i)}, name(i))
	}
	after := size()
	for i := range 300 {
		r.read([]string{name(100 + i)}, name(100+i))
	}
	if grown := size() - after; grown > 1000 {
		t.Errorf("three hundred sources that were removed have left %d bytes", grown)
	}
	restored := state.New()
	if err := restored.Restore(bytes.NewReader(snapshot(t, r.m))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshot(t, restored), snapshot(t, r.m)) {
		t.Error("a restored state is another one")
	}
	for _, i := range []int{399, 370, 340} {
		if !r.knows(name(i)) {
			t.Errorf("source %d, of which %d came after it, begins anew", i, 399-i)
		}
	}
	if r.knows(name(0)) {
		t.Error("the oldest source is remembered")
	}
}

func TestCheckpoints_OfAQuietSourceOutliveAChangeThatIsTakenBack(t *testing.T) {
	r := newReader(t)
	r.read([]string{"quiet"}, "quiet")
	for i := range 100 {
		s := fmt.Sprint("s", i)
		r.read([]string{"quiet", s}, s)
	}
	r.read([]string{"other"}, "other")
	if !r.knows("quiet") {
		t.Error("a source that had been removed by mistake begins anew")
	}
}
