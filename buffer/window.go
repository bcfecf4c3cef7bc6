package buffer

import (
	"context"
	"sync"
)

// A Window bounds what is outstanding between an Acquire and its Release, in records and in bytes.
// It is safe for concurrent use; without contention Acquire and Release allocate nothing.
type Window struct {
	mu      sync.Mutex
	limit   counts
	out     counts
	waiting waiters[struct{}]
	closed  bool
}

// counts is an amount in both units.
type counts struct {
	records int
	bytes   int64
}

// New returns a window of so many records and bytes. Negative sizes count as zero; a window of zero
// still lets one record through at a time.
func New(records int, bytes int64) *Window {
	return &Window{limit: counts{max(records, 0), max(bytes, 0)}}
}

// Acquire takes credit for records and bytes, waiting until it is free or ctx ends. Callers are
// served in the order in which they came. It returns nil when the credit is held, [ErrTooLarge] for
// several records that exceed the whole window, [ErrClosed], or the cause of ctx's end. Negative
// amounts panic.
func (w *Window) Acquire(ctx context.Context, records int, bytes int64) error {
	checkAmount(records, bytes)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w.mu.Lock()
	if w.waiting.empty() {
		ok, err := w.take(records, bytes)
		if ok || err != nil {
			w.mu.Unlock()
			return err
		}
	} else if err := w.refuse(records, bytes); err != nil {
		w.mu.Unlock()
		return err
	}
	me := w.waiting.push(counts{records, bytes}, struct{}{})
	w.mu.Unlock()
	return w.waiting.wait(ctx, &w.mu, me, w.serve)
}

// TryAcquire takes the credit if it is free now and nobody waits for some, and reports whether it did.
func (w *Window) TryAcquire(records int, bytes int64) bool {
	checkAmount(records, bytes)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.waiting.empty() {
		return false
	}
	ok, _ := w.take(records, bytes)
	return ok
}

// Release returns credit. It never blocks, and works on a closed window. Returning more than is
// outstanding is a fault of the caller and panics.
func (w *Window) Release(records int, bytes int64) {
	checkAmount(records, bytes)
	w.mu.Lock()
	if records > w.out.records || bytes > w.out.bytes {
		w.mu.Unlock()
		panic("buffer: released more than is outstanding")
	}
	w.out.records -= records
	w.out.bytes -= bytes
	if !w.waiting.empty() {
		w.serve()
	}
	w.mu.Unlock()
}

// Resize changes the window. Credit already taken stays valid: after shrinking, more may be
// outstanding than the window holds until it is released. Waiting requests that fit now go ahead,
// those that can never fit any more get [ErrTooLarge].
func (w *Window) Resize(records int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = counts{max(records, 0), max(bytes, 0)}
	for me := w.waiting.head; me != nil; {
		next := me.next
		if err := w.refuse(me.amount.records, me.amount.bytes); err != nil {
			w.waiting.decide(me, err)
		}
		me = next
	}
	w.serve()
}

// Close ends the window: waiting and later calls of Acquire get [ErrClosed]. It is idempotent.
func (w *Window) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.waiting.failAll(ErrClosed)
}

// Outstanding returns what is acquired and not released.
func (w *Window) Outstanding() (records int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.records, w.out.bytes
}

// Available returns the free credit, never below zero.
func (w *Window) Available() (records int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(w.limit.records-w.out.records, 0), max(w.limit.bytes-w.out.bytes, 0)
}

// Size returns the window's size as last set.
func (w *Window) Size() (records int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limit.records, w.limit.bytes
}

// Stats returns how often and how long callers of Acquire had to wait so far.
func (w *Window) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting.stats()
}

// serve lets waiting requests go ahead. The lock is held.
func (w *Window) serve() {
	w.waiting.serve(func(me *waiter[struct{}]) (bool, error) {
		return w.take(me.amount.records, me.amount.bytes)
	})
}

// take takes credit if the window has it. The lock is held.
func (w *Window) take(records int, bytes int64) (bool, error) {
	// The differences cannot overflow: all four values are non-negative.
	if !w.closed &&
		(records <= w.limit.records-w.out.records && bytes <= w.limit.bytes-w.out.bytes ||
			records == 1 && w.out == counts{}) {
		w.out.records += records
		w.out.bytes += bytes
		return true, nil
	}
	return false, w.refuse(records, bytes)
}

// refuse returns why a request can never succeed, or nil. The lock is held.
func (w *Window) refuse(records int, bytes int64) error {
	switch {
	case w.closed:
		return ErrClosed
	case records != 1 && (records > w.limit.records || bytes > w.limit.bytes):
		return ErrTooLarge
	}
	return nil
}

// checkAmount keeps a caller's negative amount from turning into free credit.
func checkAmount(records int, bytes int64) {
	if records < 0 || bytes < 0 {
		panic("buffer: negative amount")
	}
}
