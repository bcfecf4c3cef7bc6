package buffer

import (
	"context"
	"sync"
)

// A Queue is a first-in first-out queue that is bounded in items and in bytes. It is safe for any
// number of concurrent writers and readers. What was pushed is the reader's once popped; the queue
// keeps no reference to it.
type Queue[T any] struct {
	mu    sync.Mutex
	limit counts
	size  counts
	ring  []entry[T]
	first int // index of the oldest item in ring

	pushers waiters[T]    // with their values, so that these enter in the order of the calls
	wake    chan struct{} // holds a token while a waiting reader should look
	own     chan struct{} // wake while no merge reads the queue
	closed  bool
}

type entry[T any] struct {
	v     T
	bytes int64
}

// NewQueue returns a queue for so many items and bytes. Negative sizes count as zero; whatever the
// sizes, an empty queue takes one item.
func NewQueue[T any](items int, bytes int64) *Queue[T] {
	own := make(chan struct{}, 1)
	return &Queue[T]{limit: counts{max(items, 0), max(bytes, 0)}, own: own, wake: own}
}

// Push appends v, which counts as so many bytes, waiting until there is room or ctx ends. Values
// enter in the order of the calls. An item larger than the queue enters when the queue is empty. It
// returns nil when v is in the queue, else [ErrClosed] or the cause of ctx's end. Negative bytes panic.
func (q *Queue[T]) Push(ctx context.Context, v T, bytes int64) error {
	checkAmount(1, bytes)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return ErrClosed
	}
	if q.pushers.empty() && q.fits(bytes) {
		q.add(v, bytes)
		q.signal()
		q.mu.Unlock()
		return nil
	}
	me := q.pushers.push(counts{1, bytes}, v)
	q.mu.Unlock()
	return q.pushers.wait(ctx, &q.mu, me, q.admit)
}

// TryPush appends v if there is room now and nobody waits for some, and reports whether it did.
func (q *Queue[T]) TryPush(v T, bytes int64) bool {
	checkAmount(1, bytes)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || !q.pushers.empty() || !q.fits(bytes) {
		return false
	}
	q.add(v, bytes)
	q.signal()
	return true
}

// Pop removes and returns the oldest item, waiting until there is one or ctx ends. After Close it
// returns what is left and then [ErrClosed]. A queue that a [Merge] reads must not be popped directly.
func (q *Queue[T]) Pop(ctx context.Context) (T, error) {
	for {
		v, ok, err := q.poll()
		if ok || err != nil {
			return v, err
		}
		if err := q.await(ctx); err != nil {
			return v, err
		}
	}
}

// TryPop removes and returns the oldest item; ok is false when there is none.
func (q *Queue[T]) TryPop() (v T, ok bool) {
	v, ok, _ = q.poll()
	return v, ok
}

// PopUpTo moves the oldest items to dst, as many as there are and fit, and returns their number. It
// waits for the first item only. Like Pop it ends with [ErrClosed] or the cause of ctx's end.
func (q *Queue[T]) PopUpTo(ctx context.Context, dst []T) (int, error) {
	if len(dst) == 0 {
		return 0, nil
	}
	for {
		n, err := q.pollUpTo(dst)
		if n > 0 || err != nil {
			return n, err
		}
		if err := q.await(ctx); err != nil {
			return 0, err
		}
	}
}

// PopAll appends all items to dst, oldest first, and returns the extended slice. It does not wait.
// Items of writers that were waiting for room may be among them or may follow.
func (q *Queue[T]) PopAll(dst []T) []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n := q.size.records; n > 0; n-- {
		v, _ := q.take()
		dst = append(dst, v)
	}
	q.admit()
	q.pass()
	return dst
}

// Close ends the queue: no more items enter, writers that wait get [ErrClosed], readers get what is
// left and then [ErrClosed]. It is idempotent.
func (q *Queue[T]) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.pushers.failAll(ErrClosed)
	q.signal()
}

// Len returns the number of items in the queue.
func (q *Queue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size.records
}

// Bytes returns the sum of the bytes that the queued items were pushed with.
func (q *Queue[T]) Bytes() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size.bytes
}

// Stats returns how often and how long writers had to wait for room so far.
func (q *Queue[T]) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pushers.stats()
}

// poll takes the oldest item. err is ErrClosed when there will never be one.
func (q *Queue[T]) poll() (v T, ok bool, err error) {
	v, _, ok, err = q.pollEntry()
	return v, ok, err
}

func (q *Queue[T]) pollEntry() (v T, bytes int64, ok bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size.records > 0 {
		v, bytes = q.take()
		q.admit()
		ok = true
	} else if q.closed {
		err = ErrClosed
	}
	q.pass()
	return v, bytes, ok, err
}

func (q *Queue[T]) pollUpTo(dst []T) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size.records == 0 && q.closed {
		err = ErrClosed
	}
	for n < len(dst) && q.size.records > 0 {
		dst[n], _ = q.take()
		n++
	}
	q.admit()
	q.pass()
	return n, err
}

// await blocks until a reader should look again.
func (q *Queue[T]) await(ctx context.Context) error {
	q.mu.Lock()
	wake := q.wake
	q.mu.Unlock()
	select {
	case <-wake:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// redirect changes whom new items wake: a merge, or with nil the queue's own readers. It reports
// whether the change is allowed, since only one merge may read a queue.
func (q *Queue[T]) redirect(wake chan struct{}) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if wake == nil {
		wake = q.own
	} else if q.wake != q.own {
		return false
	}
	q.wake = wake
	q.signal()
	return true
}

// The methods below are called with the lock held.

func (q *Queue[T]) fits(bytes int64) bool {
	return q.size.records == 0 || q.size.records < q.limit.records && bytes <= q.limit.bytes-q.size.bytes
}

func (q *Queue[T]) add(v T, bytes int64) {
	if q.size.records == len(q.ring) {
		grown := make([]entry[T], max(8, 2*len(q.ring)))
		n := copy(grown, q.ring[q.first:])
		copy(grown[n:], q.ring[:q.first])
		q.ring, q.first = grown, 0
	}
	q.ring[(q.first+q.size.records)%len(q.ring)] = entry[T]{v, bytes}
	q.size.records++
	q.size.bytes += bytes
}

func (q *Queue[T]) take() (T, int64) {
	e := q.ring[q.first]
	q.ring[q.first] = entry[T]{}
	q.first = (q.first + 1) % len(q.ring)
	q.size.records--
	q.size.bytes -= e.bytes
	return e.v, e.bytes
}

// admit lets waiting writers in, in their order, as far as there is room.
func (q *Queue[T]) admit() {
	q.pushers.serve(func(w *waiter[T]) (bool, error) {
		if !q.fits(w.amount.bytes) {
			return false, nil
		}
		q.add(w.v, w.amount.bytes)
		return true, nil
	})
}

// pass hands the wake-up on when there is something left for another reader.
func (q *Queue[T]) pass() {
	if q.size.records > 0 || q.closed {
		q.signal()
	}
}

func (q *Queue[T]) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// idle reports whether there is nothing to read and that may change: false also when the queue is
// closed and drained, which its merge has to notice.
func (q *Queue[T]) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size.records == 0 && !q.closed
}
