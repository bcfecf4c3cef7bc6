package sdk

import (
	"sync"

	"github.com/conveyor-etl/conveyor/protos/wire"
)

const (
	// inboxRequests and inboxBytes bound what a stream has received and not begun. One request of any size always fits.
	inboxRequests = 16
	inboxBytes    = 2 << 20
)

// inbox is a bounded queue from the receiver of a stream to its handler.
type inbox[T any] struct {
	mu      sync.Mutex
	changed sync.Cond
	items   []inboxItem[T]
	bytes   int
	err     error // behind the items
	closed  bool
}

type inboxItem[T any] struct {
	head  T
	batch *wire.Batch
}

func newInbox[T any]() *inbox[T] {
	q := &inbox[T]{}
	q.changed.L = &q.mu
	return q
}

// put blocks while the queue is full. It owns the batch. It reports false when nothing more is taken.
func (q *inbox[T]) put(head T, batch *wire.Batch) bool {
	size := 0
	if batch != nil {
		size = batch.Bytes()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && !q.closed && len(q.items) > 0 && (len(q.items) >= inboxRequests || q.bytes+size > inboxBytes) {
		q.changed.Wait()
	}
	if q.closed || q.err != nil {
		if batch != nil {
			batch.Free()
		}
		return false
	}
	q.items = append(q.items, inboxItem[T]{head, batch})
	q.bytes += size
	q.changed.Broadcast()
	return true
}

// end says that nothing follows, and why; what is queued is still handed out.
func (q *inbox[T]) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	q.changed.Broadcast()
}

// abort says that nothing follows, and forgets what is queued.
func (q *inbox[T]) abort(err error) {
	q.end(err)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.drop()
}

// get blocks until there is a request, which the caller then owns, or the error of end.
func (q *inbox[T]) get() (T, *wire.Batch, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 {
		if q.err != nil {
			var none T
			return none, nil, q.err
		}
		q.changed.Wait()
	}
	item := q.items[0]
	q.items[0] = inboxItem[T]{}
	q.items = q.items[1:]
	if item.batch != nil {
		q.bytes -= item.batch.Bytes()
	}
	q.changed.Broadcast()
	return item.head, item.batch, nil
}

// empty reports whether get would block or err.
func (q *inbox[T]) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) == 0
}

// close refuses more and frees what is queued.
func (q *inbox[T]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.drop()
	q.changed.Broadcast()
}

func (q *inbox[T]) drop() {
	for _, item := range q.items {
		if item.batch != nil {
			item.batch.Free()
		}
	}
	q.items = nil
}
