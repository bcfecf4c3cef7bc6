package buffer

import (
	"context"
	"slices"
	"sync"
)

// A Merge reads several queues as one and shares its reader between them fairly by bytes: over time,
// inputs that always have something get equal amounts, or amounts in proportion to their weights,
// however large their items are. Inputs may be added and removed at any time. It is safe for
// concurrent use.
//
// The scheme is surplus round robin: at its turn an input receives its quantum, and is served until
// that is spent. The last item may overspend, which is subtracted from the next turn.
type Merge[T any] struct {
	wake chan struct{} // shared by all inputs

	// mu is taken before the lock of a queue, never after it.
	mu     sync.Mutex
	inputs []*input[T]
	turn   int // index of the input whose turn it is
	quanta int64
	closed bool
}

type input[T any] struct {
	q      *Queue[T]
	weight int64
	budget int64 // bytes it may still take, at most one turn's worth; below zero is debt
}

// minCost is what an item costs at least, so that items without bytes take turns, too.
const minCost = 64

// NewMerge returns a merge without inputs. quantum is what an input of weight 1 may take in one
// turn, in bytes; below 1 KiB it counts as 1 KiB. About the size of a usual item is a good choice.
func NewMerge[T any](quantum int64) *Merge[T] {
	return &Merge[T]{wake: make(chan struct{}, 1), quanta: min(max(quantum, 1<<10), 1<<30)}
}

// Add makes q an input with the given weight (below 1 it counts as 1). From then on only the merge
// reads q. It returns [ErrMerged] if some merge reads q already, and [ErrClosed] after Close.
func (m *Merge[T]) Add(q *Queue[T], weight int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if !q.redirect(m.wake) {
		return ErrMerged
	}
	m.inputs = append(m.inputs, &input[T]{q: q, weight: int64(min(max(weight, 1), 1<<16))})
	return nil
}

// Remove takes q out and reports whether it was an input. What q holds stays in it, for its owner to
// read.
func (m *Merge[T]) Remove(q *Queue[T]) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, in := range m.inputs {
		if in.q == q {
			m.drop(i)
			m.signal() // a reader may be waiting for the last input to go
			return true
		}
	}
	return false
}

// Len returns the number of inputs. Inputs that are closed and drained leave by themselves.
func (m *Merge[T]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.inputs)
}

// Pop removes and returns the next item, with the queue it came from, waiting until there is one or
// ctx ends. Items of one queue keep their order. It returns the cause of ctx's end, or [ErrClosed]
// once the merge is closed and has no inputs left.
func (m *Merge[T]) Pop(ctx context.Context) (T, *Queue[T], error) {
	for {
		v, q, err := m.poll()
		if q != nil || err != nil {
			return v, q, err
		}
		select {
		case <-m.wake:
		case <-ctx.Done():
			return v, nil, context.Cause(ctx)
		}
	}
}

// TryPop removes and returns the next item with the queue it came from; the queue is nil when no
// input has an item.
func (m *Merge[T]) TryPop() (T, *Queue[T]) {
	v, q, _ := m.poll()
	return v, q
}

// Close lets no more inputs in. Pop goes on until all inputs are closed and drained, or removed, and
// then returns [ErrClosed]. It is idempotent.
func (m *Merge[T]) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.signal()
}

// poll takes the next item by the rules of the scheme. q is nil when there is none now.
func (m *Merge[T]) poll() (v T, q *Queue[T], err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if v, q = m.round(); q != nil {
			m.signal() // several items may have left one token: wake another reader
			return v, q, nil
		}
		if !m.forgive() {
			break
		}
	}
	if m.closed && len(m.inputs) == 0 {
		m.signal()
		err = ErrClosed
	}
	return v, nil, err
}

// round gives every input one turn, beginning with the rest of the current one, until one yields an
// item. The lock is held.
func (m *Merge[T]) round() (v T, q *Queue[T]) {
	for visits := len(m.inputs) + 1; visits > 0 && len(m.inputs) > 0; visits-- {
		in := m.inputs[m.turn]
		if in.budget > 0 {
			v, bytes, ok, err := in.q.pollEntry()
			switch {
			case ok:
				in.budget -= max(bytes, minCost)
				return v, in.q
			case err != nil:
				m.drop(m.turn) // closed and drained; the next input moved into its place
				continue
			}
		}
		m.turn++
		m.enter()
	}
	return v, nil
}

// enter gives the input whose turn begins its quantum. The lock is held.
func (m *Merge[T]) enter() {
	if len(m.inputs) == 0 {
		return
	}
	m.turn %= len(m.inputs)
	if in := m.inputs[m.turn]; in.budget <= 0 && !in.q.idle() {
		in.budget += m.quanta * in.weight
	}
}

// forgive is called after a round in which no input could be served. If some have items but are in
// debt, it passes as many rounds at once as the first of them needs, and reports true. The lock is
// held.
func (m *Merge[T]) forgive() bool {
	rounds := int64(-1)
	for _, in := range m.inputs {
		if in.q.idle() {
			continue
		}
		share := m.quanta * in.weight
		need := max(-in.budget, 0)/share + 1
		if rounds < 0 || need < rounds {
			rounds = need
		}
	}
	if rounds < 0 {
		return false
	}
	for _, in := range m.inputs {
		if !in.q.idle() && in.budget <= 0 {
			in.budget += rounds * m.quanta * in.weight
		}
	}
	return true
}

// drop takes input i out and gives its queue back to its own readers. The lock is held.
func (m *Merge[T]) drop(i int) {
	m.inputs[i].q.redirect(nil)
	m.inputs = slices.Delete(m.inputs, i, i+1)
	switch {
	case i < m.turn:
		m.turn--
	case i == m.turn:
		m.enter()
	}
}

func (m *Merge[T]) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
