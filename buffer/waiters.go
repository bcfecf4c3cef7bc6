package buffer

import (
	"context"
	"sync"
	"time"
)

// Stats counts how often and how long callers had to wait for credit.
type Stats struct {
	// Waits is the number of calls that could not go ahead at once.
	Waits uint64
	// Blocked is the total time during which at least one call was waiting, the present wait
	// included; over an interval it grows by no more than that interval, however many calls wait.
	Blocked time.Duration
}

// waiter is one blocked call, with the value it brings if it is a Push. It is decided (err set, ready
// closed) by whoever changes the credit, under the lock of its owner, and is out of the list from
// then on.
type waiter[T any] struct {
	amount     counts
	v          T
	err        error
	decided    bool
	ready      chan struct{}
	next, prev *waiter[T]
}

// waiters is the first-come first-served list of blocked calls. The owner's lock guards it.
type waiters[T any] struct {
	head, tail *waiter[T]
	waits      uint64
	blocked    time.Duration
	since      time.Time // when the list last became non-empty
}

func (l *waiters[T]) empty() bool { return l.head == nil }

func (l *waiters[T]) push(amount counts, v T) *waiter[T] {
	w := &waiter[T]{amount: amount, v: v, ready: make(chan struct{}), prev: l.tail}
	if l.tail == nil {
		l.head = w
		l.since = time.Now()
	} else {
		l.tail.next = w
	}
	l.tail = w
	l.waits++
	return w
}

func (l *waiters[T]) remove(w *waiter[T]) {
	if w.prev == nil {
		l.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.next, w.prev = nil, nil
	if l.head == nil {
		l.blocked += time.Since(l.since)
	}
}

func (l *waiters[T]) decide(w *waiter[T], err error) {
	l.remove(w)
	w.err, w.decided = err, true
	close(w.ready)
}

// serve decides waiters from the front for as long as take does: nobody overtakes the first, so a
// large request cannot starve behind small ones.
func (l *waiters[T]) serve(take func(w *waiter[T]) (bool, error)) {
	for l.head != nil {
		ok, err := take(l.head)
		if !ok && err == nil {
			return
		}
		l.decide(l.head, err)
	}
}

func (l *waiters[T]) failAll(err error) {
	for l.head != nil {
		l.decide(l.head, err)
	}
}

func (l *waiters[T]) stats() Stats {
	s := Stats{Waits: l.waits, Blocked: l.blocked}
	if l.head != nil {
		s.Blocked += time.Since(l.since)
	}
	return s
}

// wait blocks until w is decided or ctx ends. A decision that races with the end of ctx stands, so
// that a nil error always means success. gone runs under mu after w gave up its place, since those
// behind it may go ahead now.
func (l *waiters[T]) wait(ctx context.Context, mu *sync.Mutex, w *waiter[T], gone func()) error {
	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	if w.decided {
		return w.err
	}
	l.remove(w)
	gone()
	return context.Cause(ctx)
}
