package topology

import "github.com/conveyor-etl/conveyor/router/internal/state/statepb"

// Joins reports whether one record may reach the end of an edge over another edge too: the arms of a fan-out meet there. Copies that differ in nothing else
// are then told apart by the edge on which they came.
func Joins(plan *statepb.Plan, e *statepb.Edge) bool {
	var mine map[string]bool
	for _, other := range plan.GetEdges() {
		if other.GetTo() != e.GetTo() || other.GetFrom() == e.GetFrom() {
			continue
		}
		if mine == nil {
			mine = upstream(plan, e.GetFrom())
		}
		for stage := range upstream(plan, other.GetFrom()) {
			if mine[stage] {
				return true
			}
		}
	}
	return false
}

// upstream returns a stage and all from which records reach it.
func upstream(plan *statepb.Plan, stage string) map[string]bool {
	found := map[string]bool{stage: true}
	for next := []string{stage}; len(next) > 0; {
		at := next[len(next)-1]
		next = next[:len(next)-1]
		for _, e := range plan.GetEdges() {
			if e.GetTo() == at && !found[e.GetFrom()] {
				found[e.GetFrom()] = true
				next = append(next, e.GetFrom())
			}
		}
	}
	return found
}
