package engine

import (
	"sync"
	"sync/atomic"

	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// inbox is what has arrived at a stage. Pushing never blocks, since everything that arrives was paid for with the credit of an edge.
type inbox struct {
	ready chan struct{}

	mu      sync.Mutex
	batches []*flow.Batch
	ended   map[string]bool // upstream stages that have ended, and whether completed
	closed  bool
}

func newInbox() *inbox { return &inbox{ready: make(chan struct{}, 1), ended: make(map[string]bool)} }

// push adds a batch; it is ignored once the stage has stopped, since the sender takes back what is not settled.
func (in *inbox) push(b *flow.Batch) {
	in.mu.Lock()
	if !in.closed {
		in.batches = append(in.batches, b)
	}
	in.mu.Unlock()
	signal(in.ready)
}

// end notes that nothing more comes from an upstream stage.
func (in *inbox) end(from string, completed bool) {
	in.mu.Lock()
	in.ended[from] = completed
	in.mu.Unlock()
	signal(in.ready)
}

// reopen notes that an upstream stage has a new owner, who has not ended.
func (in *inbox) reopen(from string) {
	in.mu.Lock()
	delete(in.ended, from)
	in.mu.Unlock()
}

// gone notes that an upstream stage runs nowhere any more, unless it has told of its end itself.
func (in *inbox) gone(from string, completed bool) {
	in.mu.Lock()
	if _, told := in.ended[from]; !told {
		in.ended[from] = completed
	}
	in.mu.Unlock()
	signal(in.ready)
}

// take returns what has arrived, and adds the number of its records to busy, so that at every moment they are here or there.
func (in *inbox) take(busy *atomic.Int64) []*flow.Batch {
	in.mu.Lock()
	defer in.mu.Unlock()
	b := in.batches
	for _, b := range b {
		busy.Add(int64(b.Len()))
	}
	in.batches = nil
	return b
}

// over reports whether all the named upstream stages have ended and nothing is left here; completed, whether all ended by themselves.
func (in *inbox) over(upstream []string) (over, completed bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.batches) > 0 || len(upstream) == 0 {
		return false, false
	}
	completed = true
	for _, name := range upstream {
		c, ended := in.ended[name]
		if !ended {
			return false, false
		}
		completed = completed && c
	}
	return true, completed
}

func (in *inbox) close() {
	in.mu.Lock()
	in.closed = true
	in.batches = nil
	in.mu.Unlock()
}

// empty reports whether nothing waits.
func (in *inbox) empty() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.batches) == 0
}
