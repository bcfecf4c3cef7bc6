package engine

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// The checkpointer collects for a while between two calls: what settles meanwhile goes in one. That bounds what a crash reads again, and how often a sidecar makes
// the routers sync their disks. Routers that have many sidecars ask for a longer pause than the first.
const (
	checkpointPause    = 250 * time.Millisecond
	minCheckpointPause = 10 * time.Millisecond
	maxCheckpointPause = 10 * time.Second
)

// maxCheckpoints is the most in one call.
const maxCheckpoints = 256

// reporter is a lane that has checkpoints to store.
type reporter interface {
	// checkpoint returns what should be stored now, or nil.
	checkpoint() *controlv1.Checkpoint
	// stored tells what became of it; an error says that it is not known.
	stored(c *controlv1.Checkpoint, result controlv1.CheckpointResult, err error)
}

// checkpointer stores the checkpoints of all lanes of a sidecar, many in one call and one call at a time.
type checkpointer struct {
	control Control
	memory  Memory
	log     *slog.Logger
	wake    chan struct{}
	hurried chan struct{} // a lane waits for its checkpoint: the pause ends
	pause   atomic.Int64  // nanoseconds

	mu    sync.Mutex
	dirty map[reporter]bool
	order []reporter
}

func newCheckpointer(control Control, memory Memory, log *slog.Logger) *checkpointer {
	c := &checkpointer{control: control, memory: memory, log: log, wake: make(chan struct{}, 1), hurried: make(chan struct{}, 1), dirty: make(map[reporter]bool)}
	c.pace(checkpointPause)
	return c
}

// pace sets the pause, from the next one on.
func (c *checkpointer) pace(pause time.Duration) {
	c.pause.Store(int64(min(max(pause, minCheckpointPause), maxCheckpointPause)))
}

// report notes that a lane has something to store. It does not block.
func (c *checkpointer) report(r reporter) {
	c.mu.Lock()
	if !c.dirty[r] {
		c.dirty[r] = true
		c.order = append(c.order, r)
	}
	c.mu.Unlock()
	signal(c.wake)
}

// hurry is report by a lane that does nothing else before it has its answer, such as one that begins or ends.
func (c *checkpointer) hurry(r reporter) {
	c.report(r)
	signal(c.hurried)
}

func (c *checkpointer) take() []reporter {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.order), maxCheckpoints)
	lanes := append([]reporter(nil), c.order[:n]...)
	c.order = append(c.order[:0], c.order[n:]...)
	for _, l := range lanes {
		delete(c.dirty, l)
	}
	return lanes
}

func (c *checkpointer) run(ctx context.Context) {
	for failures := 0; ; {
		lanes := c.take()
		if len(lanes) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-c.wake:
				continue
			}
		}
		var from []reporter
		var points []*controlv1.Checkpoint
		for _, l := range lanes {
			if p := l.checkpoint(); p != nil {
				from, points = append(from, l), append(points, p)
			}
		}
		if len(points) == 0 {
			continue
		}
		results, err := c.control.ReportCheckpoints(ctx, points)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = c.remember(points, results)
		}
		for i, l := range from {
			result := controlv1.CheckpointResult_CHECKPOINT_RESULT_UNSPECIFIED
			if err == nil && i < len(results) {
				result = results[i]
			}
			l.stored(points[i], result, err)
		}
		if err != nil {
			failures++
			c.log.Warn("checkpoints wait", "lanes", len(points), "err", err)
			// Lanes go on meanwhile, and tell their newest then.
			if !sleep(ctx, max(backoff(failures), client.RetryAfter(err))) {
				return
			}
			continue
		}
		failures = 0
		if !c.rest(ctx) {
			return
		}
	}
}

// remember notes what the routers took. I26: before a source hears of it.
func (c *checkpointer) remember(points []*controlv1.Checkpoint, results []controlv1.CheckpointResult) error {
	var taken []*controlv1.Checkpoint
	for i, p := range points {
		if i < len(results) && results[i] == controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED {
			taken = append(taken, p)
		}
	}
	if len(taken) == 0 {
		return nil
	}
	return c.memory.Stored(taken)
}

// rest waits for the pause to end, and returns false when ctx ended.
func (c *checkpointer) rest(ctx context.Context) bool {
	pause := time.NewTimer(time.Duration(c.pause.Load()))
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-c.hurried:
	case <-pause.C:
	}
	return true
}
