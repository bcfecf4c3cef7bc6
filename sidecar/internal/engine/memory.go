package engine

import (
	"context"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// Memory keeps where lanes were last checkpointed, for a process that starts while no router answers. What it was told is on disk when a
// method has returned without an error. All methods may be called at once.
type Memory interface {
	// Left returns what an earlier process knew of the lanes of a source that it read under this very assignment; false when it read none.
	Left(a *controlv1.Assignment) ([]*controlv1.Checkpoint, bool)
	// Began notes where the lanes of an assigned source begin.
	Began(a *controlv1.Assignment, checkpoints []*controlv1.Checkpoint) error
	// Stored notes checkpoints that the routers took.
	Stored(checkpoints []*controlv1.Checkpoint) error
}

// noMemory is the memory of an engine that is never resumed.
type noMemory struct{}

func (noMemory) Left(*controlv1.Assignment) ([]*controlv1.Checkpoint, bool) { return nil, false }
func (noMemory) Began(*controlv1.Assignment, []*controlv1.Checkpoint) error { return nil }
func (noMemory) Stored([]*controlv1.Checkpoint) error                       { return nil }

// beginnings are the checkpoints at which the lanes of a source begin.
type beginnings struct {
	known map[string]*controlv1.Checkpoint // by partition
	// listed: the partitions were listed before; one without a checkpoint is new.
	listed bool
	// resumed: an earlier process of this sidecar read the lanes in the same epoch.
	resumed bool
	// answer has what the routers say of the partitions that the earlier process did not know; nil when known is all there is.
	answer chan *controlv1.ReadCheckpointsResponse
}

// partial reports whether a partition without a checkpoint may have one in the routers.
func (b *beginnings) partial() bool { return b.answer != nil }

// complete takes in what the routers say, once they answer. What is read already began where the earlier process knew.
func (b *beginnings) complete(resp *controlv1.ReadCheckpointsResponse) {
	for _, c := range resp.GetCheckpoints() {
		if b.known[c.GetPartition()] == nil {
			b.known[c.GetPartition()] = c
		}
	}
	b.listed, b.answer = b.listed || resp.GetListed(), nil
}

// beginnings finds out where to begin: from what an earlier process left under the same assignment, which needs no router, or else from the
// routers, once they answer; false when ctx ended first.
func (w *source) beginnings(ctx context.Context) (*beginnings, bool) {
	b := &beginnings{known: make(map[string]*controlv1.Checkpoint)}
	a := w.s.assignment()
	left, ok := w.s.e.cfg.Memory.Left(a)
	if ok {
		b.resumed, b.answer = true, make(chan *controlv1.ReadCheckpointsResponse, 1)
		for _, c := range left {
			b.known[c.GetPartition()] = c
		}
		b.listed = len(left) > 0
		return b, true
	}
	resp, ok := w.readCheckpoints(ctx)
	if !ok {
		return nil, false
	}
	b.complete(resp)
	b.listed = b.listed || len(b.known) > 0
	if err := w.s.e.cfg.Memory.Began(a, resp.GetCheckpoints()); err != nil {
		w.s.log.Error("where the lanes begin is not remembered: a restart of this sidecar waits for a router", "err", err)
	}
	return b, true
}
