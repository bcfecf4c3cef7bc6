package control

import (
	"slices"
	"strings"

	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
	"github.com/conveyor-etl/conveyor/router/internal/topology"
)

// lastSlot: a stage is assigned whole.
const lastSlot = 255

func pipelineKey(name string) state.ResourceKey {
	namespace, short, _ := strings.Cut(name, "/")
	return state.ResourceKey{Kind: dsl.KindPipeline, Namespace: namespace, Name: short}
}

// Assignments is everything that a sidecar should run, in the order of pipelines and stages.
func Assignments(view *state.View, sidecar string) []*controlv1.Assignment {
	keys := view.Owned(sidecar)
	out := make([]*controlv1.Assignment, 0, len(keys))
	for _, key := range keys {
		out = append(out, assignment(view, view.Pipelines[key.Pipeline], view.Assignments[key]))
	}
	return out
}

// Desired is what one sidecar should run, in one view of the state after the other. Every watch of a sidecar asks at every change of anything: with a thousand sidecars that is
// a million times when all of them register, so what concerns this one is compared before its assignments are made. It belongs to one goroutine.
type Desired struct {
	sidecar    string
	seen, next []any
}

// NewDesired returns that of a sidecar, with nothing seen.
func NewDesired(sidecar string) *Desired { return &Desired{sidecar: sidecar} }

// In returns the assignments in a view; false if nothing that they are made of has changed since the view before.
func (d *Desired) In(view *state.View) ([]*controlv1.Assignment, bool) {
	d.next = madeOf(d.next[:0], view, d.sidecar)
	if d.seen != nil && slices.Equal(d.seen, d.next) {
		return nil, false
	}
	d.seen, d.next = d.next, d.seen
	return Assignments(view, d.sidecar), true
}

// madeOf appends all values of a view that Assignments looks at for a sidecar, which are replaced when they change.
func madeOf(to []any, view *state.View, sidecar string) []any {
	to = append(to, view.Incarnation)
	owned := view.Owned(sidecar)
	for i, key := range owned {
		to = append(to, key)
		if i > 0 && owned[i-1].Pipeline == key.Pipeline {
			continue // it was looked at, all its stages
		}
		p := view.Pipelines[key.Pipeline]
		to = append(to, p)
		for _, st := range p.GetPlan().GetStages() {
			a := view.Assignments[state.StageKey{Pipeline: key.Pipeline, Stage: st.GetName()}]
			to = append(to, a, view.Sessions[a.GetSidecarId()])
		}
	}
	return to
}

func assignment(view *state.View, p *statepb.Pipeline, a *statepb.Assignment) *controlv1.Assignment {
	out := &controlv1.Assignment{
		Pipeline: p.GetName(), PipelineUid: p.GetUid(), Generation: p.GetGeneration(), Stage: a.GetStage(),
		Epoch: epoch(view, a), LastSlot: lastSlot, Drain: p.GetDraining(), Hold: p.GetHold(),
	}
	for _, st := range p.GetPlan().GetStages() {
		if st.GetName() != a.GetStage() {
			continue
		}
		out.Spec = topology.Spec(st)
		out.Spec.FromStart = p.GetFromStart()
		if w := out.Spec.GetServiceWork(); w != nil {
			w.Address, w.Gateway = a.GetAddress(), a.GetGateway()
		}
		if d := out.Spec.GetDeadLetters(); d != nil {
			d.Finish = othersCompleted(p)
		}
	}
	for _, e := range p.GetPlan().GetEdges() {
		if e.GetTo() == a.GetStage() {
			out.Upstream = append(out.Upstream, peer(view, p, e, e.GetFrom()))
		}
		if e.GetFrom() == a.GetStage() {
			out.Downstream = append(out.Downstream, peer(view, p, e, e.GetTo()))
		}
	}
	return out
}

// othersCompleted reports whether nothing runs any more that could make dead letters of its own.
func othersCompleted(p *statepb.Pipeline) bool {
	return !slices.ContainsFunc(p.GetPlan().GetStages(), func(s *statepb.Stage) bool {
		return !s.GetDeadLetters() && !slices.Contains(p.GetCompletedStages(), s.GetName())
	})
}

func peer(view *state.View, p *statepb.Pipeline, e *statepb.Edge, stage string) *controlv1.Peer {
	out := &controlv1.Peer{Stage: stage, When: e.GetWhen(), BestEffort: e.GetBestEffort(), Joins: topology.Joins(p.GetPlan(), e), Completed: state.Ended(p, stage)}
	if a := view.Assignments[state.StageKey{Pipeline: p.GetName(), Stage: stage}]; a != nil {
		out.SidecarId, out.Epoch = a.GetSidecarId(), epoch(view, a)
		out.Address = view.Sessions[a.GetSidecarId()].GetAddress()
	}
	return out
}

func epoch(view *state.View, a *statepb.Assignment) *conveyorv1.Epoch {
	return &conveyorv1.Epoch{Incarnation: view.Incarnation, Index: a.GetIndex()}
}
