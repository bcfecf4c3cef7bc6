package state

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// assign returns the number of changes that were made, as an int.
func (m *Machine) assign(index uint64, c *statepb.Assign) any {
	made := 0
	for _, change := range c.GetChanges() {
		if m.assignOne(index, change) {
			made++
		}
	}
	return made
}

func (m *Machine) assignOne(index uint64, c *statepb.AssignChange) bool {
	key := StageKey{c.GetPipeline(), c.GetStage()}
	p := m.pipelines[key.Pipeline]
	if p == nil || p.GetGeneration() != c.GetGeneration() || m.assignments[key].GetIndex() != c.GetExpectedIndex() || !hasStage(p, key.Stage) {
		return false
	}
	if c.GetWithdraw() {
		delete(m.assignments, key)
		m.settle(key.Pipeline)
		return true
	}
	if _, r := m.session(c.GetSidecarId(), c.GetSessionEpoch()); r != nil {
		return false
	}
	if p.GetCompleted() || Ended(p, key.Stage) {
		return false
	}
	// A pipeline that drains may have a lost stage made good, so that the others can finish; one that has drained is not begun again by a late command.
	if p.GetDraining() && !m.hasAssignments(key.Pipeline) {
		return false
	}
	m.assignments[key] = &statepb.Assignment{
		Pipeline: key.Pipeline, Stage: key.Stage, Generation: p.GetGeneration(), Index: index,
		SidecarId: c.GetSidecarId(), SessionEpoch: c.GetSessionEpoch(), Address: c.GetAddress(), Gateway: c.GetGateway(),
	}
	if !p.GetAssigned() {
		p = proto.CloneOf(p)
		p.Assigned = true
		m.pipelines[key.Pipeline] = p
	}
	return true
}

func hasStage(p *statepb.Pipeline, name string) bool {
	return slices.ContainsFunc(p.GetPlan().GetStages(), func(s *statepb.Stage) bool { return s.GetName() == name })
}

// endAssignments takes reports of what has ended. Those that are out of date are passed over: what they tell of is gone already.
func (m *Machine) endAssignments(c *statepb.EndAssignments) *RejectedError {
	if _, r := m.session(c.GetSidecarId(), c.GetSessionEpoch()); r != nil {
		return r
	}
	for _, e := range c.GetEnded() {
		key := StageKey{e.GetPipeline(), e.GetStage()}
		a, p := m.assignments[key], m.pipelines[key.Pipeline]
		if a == nil || p == nil || a.GetSidecarId() != c.GetSidecarId() || a.GetSessionEpoch() != c.GetSessionEpoch() ||
			a.GetIndex() != e.GetIndex() || m.incarnation != e.GetIncarnation() || a.GetGeneration() != e.GetGeneration() {
			continue
		}
		delete(m.assignments, key)
		p = proto.CloneOf(p)
		m.pipelines[key.Pipeline] = p
		if e.GetCompleted() {
			complete(p, key.Stage)
			count(p, e.GetCounts())
		} else if p.GetDraining() {
			p.DrainedStages = append(p.DrainedStages, key.Stage)
		}
		m.settle(key.Pipeline)
	}
	return nil
}
