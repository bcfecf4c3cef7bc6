package state

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

func (m *Machine) adoptPlan(c *statepb.AdoptPlan) *RejectedError {
	name := c.GetPipeline()
	namespace, short, _ := strings.Cut(name, "/")
	if r := m.resources[ResourceKey{kindPipeline, namespace, short}]; r == nil || r.GetUid() != c.GetUid() {
		return reject(NotFound, "the pipeline %s is gone", name)
	}
	old := m.pipelines[name]
	if old.GetGeneration() != c.GetExpectedGeneration() || old.GetDeleting() || old.GetDraining() || old.GetBeginAnew() || m.hasAssignments(name) {
		return reject(Conflict, "the pipeline %s has changed meanwhile", name)
	}
	m.pipelines[name] = &statepb.Pipeline{
		Name: name, Uid: c.GetUid(), Generation: old.GetGeneration() + 1, Plan: c.GetPlan(),
		// A beginning that nobody has acted on yet is still owed.
		FromStart: old.GetFromStart() && !old.GetAssigned(),
	}
	// Nothing of the pipeline is assigned, so that nobody can report checkpoints of an older plan any more.
	m.forgetRemoved(name, old.GetPlan(), c.GetPlan())
	return nil
}

func (m *Machine) drainPipeline(c *statepb.DrainPipeline) *RejectedError {
	p := m.pipelines[c.GetPipeline()]
	if p == nil || p.GetGeneration() != c.GetGeneration() {
		return reject(Conflict, "generation %d of the pipeline %s is gone", c.GetGeneration(), c.GetPipeline())
	}
	p = proto.CloneOf(p)
	p.Draining = true
	m.pipelines[c.GetPipeline()] = p
	m.settle(c.GetPipeline())
	return nil
}

func (m *Machine) cutPipeline(c *statepb.CutPipeline) *RejectedError {
	p := m.pipelines[c.GetPipeline()]
	if p == nil || p.GetGeneration() != c.GetGeneration() || !p.GetDraining() {
		return reject(Conflict, "generation %d of the pipeline %s is not draining", c.GetGeneration(), c.GetPipeline())
	}
	for _, s := range p.GetPlan().GetStages() {
		delete(m.assignments, StageKey{c.GetPipeline(), s.GetName()})
	}
	m.settle(c.GetPipeline())
	return nil
}

func (m *Machine) restartPipeline(c *statepb.RestartPipeline) *RejectedError {
	name := c.GetPipeline()
	p := m.pipelines[name]
	switch {
	case p == nil:
		return reject(NotFound, "the pipeline %s has not begun", name)
	case p.GetDeleting():
		return reject(Conflict, "the pipeline %s is being deleted", name)
	case !c.GetFromStart() && !p.GetCompleted():
		return reject(Conflict, "the pipeline %s is not completed, so there is nothing to go on with", name)
	}
	p = proto.CloneOf(p)
	m.pipelines[name] = p
	if c.GetFromStart() {
		p.Draining, p.BeginAnew = true, true
		m.settle(name)
		return nil
	}
	reopen(p)
	p.FromStart, p.Hold = false, c.GetHold()
	return nil
}

func (m *Machine) releasePipeline(c *statepb.ReleasePipeline) *RejectedError {
	p := m.pipelines[c.GetPipeline()]
	if p == nil || p.GetGeneration() != c.GetGeneration() || !p.GetHold() {
		return reject(Conflict, "generation %d of the pipeline %s is not held", c.GetGeneration(), c.GetPipeline())
	}
	p = proto.CloneOf(p)
	p.Hold = false
	m.pipelines[c.GetPipeline()] = p
	return nil
}

// reopen begins a generation of the same plan.
func reopen(p *statepb.Pipeline) {
	p.Generation++
	p.Completed, p.CompletedStages, p.Counts, p.Assigned, p.Hold = false, nil, nil, false, false
}

// settle moves a pipeline on that waited for its last assignment to end. It must be called after every step that takes assignments away.
func (m *Machine) settle(name string) {
	p := m.pipelines[name]
	if p == nil || !p.GetDraining() || m.hasAssignments(name) {
		return
	}
	if p.GetDeleting() {
		delete(m.pipelines, name)
		delete(m.lanes, name)
		return
	}
	p = proto.CloneOf(p)
	m.pipelines[name] = p
	p.Draining, p.DrainedStages = false, nil
	switch {
	case p.GetBeginAnew():
		delete(m.lanes, name)
		reopen(p)
		p.BeginAnew, p.FromStart = false, true
	case !p.GetCompleted():
		// Some stages may have ended as completed while the others were drained. What goes on, goes on whole.
		p.CompletedStages, p.Counts = nil, nil
	}
}

func (m *Machine) hasAssignments(name string) bool {
	for _, s := range m.pipelines[name].GetPlan().GetStages() {
		if m.assignments[StageKey{name, s.GetName()}] != nil {
			return true
		}
	}
	return false
}

// complete marks a stage that has completed, and the pipeline with its last one.
func complete(p *statepb.Pipeline, stage string) {
	if !slices.Contains(p.GetCompletedStages(), stage) {
		p.CompletedStages = append(p.CompletedStages, stage)
	}
	for _, s := range p.GetPlan().GetStages() {
		if !slices.Contains(p.GetCompletedStages(), s.GetName()) {
			return
		}
	}
	p.Completed, p.Hold = true, false
}

// count adds what a stage has read that has completed, which happens once in a generation.
func count(p *statepb.Pipeline, c *statepb.Counts) {
	if c == nil {
		return
	}
	was := p.GetCounts()
	p.Counts = &statepb.Counts{
		Read: was.GetRead() + c.GetRead(), Acknowledged: was.GetAcknowledged() + c.GetAcknowledged(), Dead: was.GetDead() + c.GetDead(),
		Filtered: was.GetFiltered() + c.GetFiltered(), Unrouted: was.GetUnrouted() + c.GetUnrouted(), Shed: was.GetShed() + c.GetShed(),
	}
}

// Ended reports whether a stage of the present generation runs nowhere and will not again: it has completed, or was drained.
func Ended(p *statepb.Pipeline, stage string) bool {
	return slices.Contains(p.GetCompletedStages(), stage) || slices.Contains(p.GetDrainedStages(), stage)
}
