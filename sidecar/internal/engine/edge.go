package engine

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/conveyor-etl/conveyor/buffer"
	"github.com/conveyor-etl/conveyor/dsl/expr"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// target is where the records of an edge go: a stage of this sidecar, or a link to another one.
type target interface {
	// deliver hands over a batch whose credit is taken. It does not block.
	deliver(b *flow.Batch)
	// end tells that no batch will follow.
	end(completed bool)
	// endKnown reports whether the other end has taken note of the end.
	endKnown() bool
	// close gives the target up and blocks until it uses nothing that was delivered.
	close()
	// stale says that the target can deliver nothing more, and that a new one of the same epoch can.
	stale() bool
	// problem says why nothing moves, or is empty.
	problem() string
	// unreachable is the sidecar that does not answer, or "".
	unreachable() string
}

// localTarget is a stage of the same sidecar.
type localTarget struct {
	to   *stage
	from string
}

func (t localTarget) deliver(b *flow.Batch) { t.to.in.push(b) }
func (t localTarget) end(completed bool)    { t.to.in.end(t.from, completed) }
func (t localTarget) endKnown() bool        { return true }
func (t localTarget) close()                {}
func (t localTarget) stale() bool           { return false }
func (t localTarget) problem() string       { return "" }
func (t localTarget) unreachable() string   { return "" }

// held is a batch on an edge, kept until it has settled so that it can be given to another target.
type held struct {
	batch   *flow.Batch
	records *wire.Batch
	indexes []int // of the records that are kept, once not all are
}

// thin keeps only the records that have not settled, so that a few that take long do not pin the memory of all that came with them.
func (h *held) thin() {
	open := h.batch.Unsettled()
	if len(open) == 0 {
		return
	}
	var w wire.Builder
	at := 0
	for _, i := range open {
		if h.indexes == nil {
			at = i
		}
		for h.indexes != nil && h.indexes[at] != i {
			at++
		}
		w.AppendEncoded(h.records.Record(at))
	}
	h.records.Free()
	h.records, h.indexes = w.Finish(), open
}

// edge is the sending end of one edge. It pays for what it delivers from its window, gets it back as the records settle, and delivers
// what has not settled again when its target changes.
type edge struct {
	to         string
	from       string
	when       *expr.Program
	bestEffort bool
	joins      bool // arms of one fan-out meet at its end
	window     *buffer.Window
	sent       atomic.Uint64
	sentBytes  atomic.Uint64

	mu        sync.Mutex
	asg       *controlv1.Peer
	target    target // nil while there is none
	epoch     flow.Epoch
	held      list.List // of *held, in the order of delivery
	places    map[*flow.Batch]*list.Element
	ended     bool
	completed bool
	closed    bool
}

func newEdge(from string, p *controlv1.Peer, records int, bytes int64) (*edge, error) {
	e := &edge{from: from, to: p.GetStage(), bestEffort: p.GetBestEffort(), joins: p.GetJoins(), asg: p, window: buffer.New(records, bytes), places: make(map[*flow.Batch]*list.Element)}
	if when := p.GetWhen(); when != "" {
		program, err := expr.Compile(expr.Condition, when)
		if err != nil {
			return nil, fmt.Errorf("condition of the edge to stage %s: %w", e.to, err)
		}
		e.when = program
	}
	return e, nil
}

func (e *edge) peer() *controlv1.Peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asg
}

func (e *edge) setPeer(p *controlv1.Peer) {
	e.mu.Lock()
	e.asg = p
	e.mu.Unlock()
}

// put takes credit for a batch, waiting for it, and delivers it. The edge takes the batch over. On an error the batch was not delivered.
func (e *edge) put(ctx context.Context, b *flow.Batch) error {
	if e.joins {
		named, err := e.nameArm(b)
		if err != nil {
			return err
		}
		b = named
	}
	records, bytes := e.window.Size()
	for b.Len() > 1 && (b.Len() > records || b.Bytes(0, b.Len()) > bytes) {
		n := fitting(b, records, bytes)
		part, rest := b.Part(0, n), b.Part(n, b.Len())
		b.Drop()
		if err := e.putWhole(ctx, part); err != nil {
			return err
		}
		b = rest
	}
	return e.putWhole(ctx, b)
}

// nameArm adds the edge to the ids of the records.
func (e *edge) nameArm(b *flow.Batch) (*flow.Batch, error) {
	records, err := renamed(b.Records, func(_ int, id []byte) (string, error) { return string(id) + "/" + e.from, nil })
	if err != nil {
		return nil, fmt.Errorf("add the edge from stage %s to the ids of records: %w", e.from, err)
	}
	w := flow.NewBuilder(b.Lane, b.Len())
	w.Same(b, 0, b.Len())
	b.Drop()
	return w.Finish(records), nil
}

// fitting returns how many of a batch's first records fit a window; at least one.
func fitting(b *flow.Batch, records int, bytes int64) int {
	n := 1
	for total := b.Bytes(0, 1); n < b.Len() && n < records; n++ {
		if total += b.Bytes(n, n+1); total > bytes {
			break
		}
	}
	return n
}

func (e *edge) putWhole(ctx context.Context, b *flow.Batch) error {
	n, bytes := b.Len(), b.Bytes(0, b.Len())
	if e.bestEffort {
		if !e.window.TryAcquire(n, bytes) {
			return e.shed(ctx, b)
		}
	} else if err := e.window.Acquire(ctx, n, bytes); err != nil {
		return fmt.Errorf("wait for credit on the edge to stage %s: %w", e.to, err)
	}
	e.sent.Add(uint64(n))
	e.sentBytes.Add(uint64(bytes))
	b.Charge(e)
	b.From = e.from
	e.mu.Lock()
	e.hold(b)
	if e.target != nil {
		e.target.deliver(b)
	}
	e.mu.Unlock()
	return nil
}

// shed puts on a best-effort edge what it has room for. The rest is shed, and so is, as far as the lanes are concerned, what the edge
// holds already: it may still arrive, but no lane waits for it.
func (e *edge) shed(ctx context.Context, b *flow.Batch) error {
	records, bytes := e.window.Available()
	if records > 0 && b.Len() > 1 && b.Bytes(0, 1) <= bytes {
		n := min(fitting(b, records, bytes), b.Len()-1)
		part, rest := b.Part(0, n), b.Part(n, b.Len())
		b.Drop()
		if err := e.putWhole(ctx, part); err != nil {
			return err
		}
		b = rest
	}
	b.Settle(0, b.Len(), flow.Shed)
	b.Drop()
	e.mu.Lock()
	var holding []*flow.Batch
	for place := e.held.Front(); place != nil; place = place.Next() {
		holding = append(holding, place.Value.(*held).batch)
	}
	e.mu.Unlock()
	for _, b := range holding {
		b.Detach(flow.Shed) // I11: no lane waits for it.
	}
	return nil
}

// hold keeps a batch until it has settled. Called with the lock.
func (e *edge) hold(b *flow.Batch) {
	b.Records.Ref()
	e.places[b] = e.held.PushBack(&held{batch: b, records: b.Records})
}

// Release takes back the credit of records that have settled, and lets go of what is kept of them.
func (e *edge) Release(b *flow.Batch, records int, bytes int64, left int) {
	e.mu.Lock()
	if place := e.places[b]; place != nil {
		h := place.Value.(*held)
		if left == 0 {
			h.records.Free()
			e.held.Remove(place)
			delete(e.places, b)
		} else if kept := h.records.Len(); kept > 8 && left*4 <= kept {
			h.thin()
		}
	}
	e.mu.Unlock()
	e.window.Release(records, bytes)
}

// attach makes a target the edge's own, unless it has the one of that epoch already and that is not stale. What has not settled goes to the new one.
func (e *edge) attach(newTarget func() target, epoch flow.Epoch) {
	e.mu.Lock()
	old := e.target
	if e.closed || old == nil && newTarget == nil || old != nil && newTarget != nil && e.epoch == epoch && !old.stale() {
		e.mu.Unlock()
		return
	}
	e.target = nil
	e.mu.Unlock()
	if old != nil {
		old.close()
	}
	if newTarget == nil {
		return
	}
	t := newTarget()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.target, e.epoch = t, epoch
	var again []*flow.Batch
	for _, h := range e.letGo() {
		if b := h.batch.Reclaim(h.records, h.indexes); b != nil {
			again = append(again, b)
		}
		h.records.Free()
	}
	for _, b := range again {
		e.hold(b)
		t.deliver(b)
	}
	if e.ended {
		t.end(e.completed)
	}
}

// end tells the target, this one or the next, that nothing will follow.
func (e *edge) end(completed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return
	}
	e.ended, e.completed = true, completed
	if e.target != nil {
		e.target.end(completed)
	}
}

// endKnown reports whether whoever must knows that the edge has ended. That a drained edge has ended the router tells a stage that has no
// sidecar now.
func (e *edge) endKnown() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.asg.GetCompleted(), e.asg.GetSidecarId() == "" && !e.completed:
		return true
	case e.target == nil:
		return false
	}
	return e.target.endKnown()
}

// idle reports whether everything that was put on the edge has settled.
func (e *edge) idle() bool {
	records, _ := e.window.Outstanding()
	return records == 0
}

// close gives up what has not settled: its sender has lost the assignment, or ends.
func (e *edge) close() {
	e.mu.Lock()
	t := e.target
	e.target, e.closed = nil, true
	e.mu.Unlock()
	if t != nil {
		t.close()
	}
	e.window.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range e.letGo() {
		h.batch.Abandon()
		h.records.Free()
	}
}

// letGo returns what is kept, in the order of delivery, and keeps nothing. Called with the lock.
func (e *edge) letGo() []*held {
	var all []*held
	for place := e.held.Front(); place != nil; place = place.Next() {
		all = append(all, place.Value.(*held))
	}
	e.held.Init()
	clear(e.places)
	return all
}

// problem says why nothing moves on the edge, or is empty.
func (e *edge) problem() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.asg.GetCompleted():
		return ""
	case e.asg.GetSidecarId() == "":
		return fmt.Sprintf("stage %s has no sidecar", e.to)
	case e.target == nil:
		return fmt.Sprintf("stage %s is not yet assigned to sidecar %s", e.to, e.asg.GetSidecarId())
	}
	return e.target.problem()
}

// unreachable is the sidecar behind the edge while it does not answer, or "".
func (e *edge) unreachable() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.target == nil {
		return ""
	}
	return e.target.unreachable()
}
