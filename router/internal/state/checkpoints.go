package state

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// removedKept is of how many sources that a pipeline reads no more the checkpoints are kept, so that one which comes back goes on where it was.
const removedKept = 64

// CheckpointResult tells what became of one checkpoint.
type CheckpointResult int

// The results.
const (
	Accepted CheckpointResult = iota + 1
	// Fenced: the generation or the epoch is no longer current.
	Fenced
	// Stale: the sequence is lower than the one stored.
	Stale
)

// storeCheckpoints returns a []CheckpointResult, or a *RejectedError when the session has ended.
func (m *Machine) storeCheckpoints(c *statepb.StoreCheckpoints) any {
	if _, r := m.session(c.GetSidecarId(), c.GetSessionEpoch()); r != nil {
		return r
	}
	results := make([]CheckpointResult, len(c.GetCheckpoints()))
	for i, cp := range c.GetCheckpoints() {
		results[i] = m.storeCheckpoint(c, cp)
	}
	return results
}

func (m *Machine) storeCheckpoint(c *statepb.StoreCheckpoints, cp *statepb.Checkpoint) CheckpointResult {
	a := m.assignments[StageKey{cp.GetPipeline(), cp.GetSourceStage()}]
	if a == nil || a.GetSidecarId() != c.GetSidecarId() || a.GetSessionEpoch() != c.GetSessionEpoch() ||
		a.GetGeneration() != cp.GetGeneration() || a.GetIndex() != cp.GetIndex() || m.incarnation != cp.GetIncarnation() {
		return Fenced
	}
	lanes := m.lanes[cp.GetPipeline()]
	if lanes == nil {
		lanes = map[laneKey]*statepb.Checkpoint{}
		m.lanes[cp.GetPipeline()] = lanes
	}
	key := laneKey{cp.GetSourceStage(), m.sourceOf(cp.GetPipeline(), cp.GetSourceStage()), cp.GetPartition()}
	old := lanes[key]
	// Sequences count within one epoch; an accepted epoch is never older than the stored one.
	if old != nil && old.GetIncarnation() == cp.GetIncarnation() && old.GetIndex() == cp.GetIndex() && cp.GetSequence() < old.GetSequence() {
		return Stale
	}
	stored := proto.CloneOf(cp)
	stored.Source = key.source
	if len(stored.GetPosition()) == 0 {
		stored.Position = old.GetPosition()
	}
	lanes[key] = stored
	return Accepted
}

// sourceOf is the manifest that a source stage reads: a stage that reads another one has other positions.
func (m *Machine) sourceOf(pipeline, stage string) string {
	for _, s := range m.pipelines[pipeline].GetPlan().GetStages() {
		if s.GetName() == stage {
			return s.GetService()
		}
	}
	return ""
}

// Checkpoints returns those of a source stage for the manifest that it reads now, by partition.
func (m *Machine) Checkpoints(pipeline, stage string) []*statepb.Checkpoint {
	m.mu.RLock()
	defer m.mu.RUnlock()
	source := m.sourceOf(pipeline, stage)
	var out []*statepb.Checkpoint
	for _, key := range slices.SortedFunc(maps.Keys(m.lanes[pipeline]), compareLanes) {
		if key.stage == stage && key.source == source {
			out = append(out, m.lanes[pipeline][key])
		}
	}
	return out
}

// laneSource is what a pipeline reads: a manifest at a stage.
type laneSource struct{ stage, source string }

// forgetRemoved bounds the checkpoints of sources that a pipeline reads no more: those go whose checkpoints are the oldest. What one of the given plans reads stays,
// however old: the plan before is what a mistaken change is taken back to.
func (m *Machine) forgetRemoved(pipeline string, plans ...*statepb.Plan) {
	newest := map[laneSource]*statepb.Checkpoint{}
	for key, cp := range m.lanes[pipeline] {
		of := laneSource{key.stage, key.source}
		if was := newest[of]; was == nil || compareEpochs(cp, was) > 0 {
			newest[of] = cp
		}
	}
	for _, plan := range plans {
		for _, s := range plan.GetStages() {
			delete(newest, laneSource{s.GetName(), s.GetService()})
		}
	}
	if len(newest) <= removedKept {
		return
	}
	removed := slices.SortedFunc(maps.Keys(newest), func(a, b laneSource) int {
		return cmp.Or(compareEpochs(newest[b], newest[a]), compare(a.stage, b.stage), compare(a.source, b.source))
	})
	gone := map[laneSource]bool{}
	for _, of := range removed[removedKept:] {
		gone[of] = true
	}
	maps.DeleteFunc(m.lanes[pipeline], func(key laneKey, _ *statepb.Checkpoint) bool { return gone[laneSource{key.stage, key.source}] })
}

func compareEpochs(a, b *statepb.Checkpoint) int {
	return cmp.Or(cmp.Compare(a.GetIncarnation(), b.GetIncarnation()), cmp.Compare(a.GetIndex(), b.GetIndex()))
}

func compareLanes(a, b laneKey) int {
	if a.stage != b.stage {
		return compare(a.stage, b.stage)
	}
	if a.source != b.source {
		return compare(a.source, b.source)
	}
	return compare(a.partition, b.partition)
}
