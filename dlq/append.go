package dlq

import (
	"context"
	"fmt"
	"sync"
)

const (
	// maxBatchLetters and maxBatchBytes bound one atomic batch, and with it what a reader of the stream may have to wait for.
	maxBatchLetters = 500
	maxBatchBytes   = 8 << 20
	// roomBytes bounds the encoded letters that wait to be stored.
	roomBytes = 64 << 20
)

// item is one letter on its way into the store.
type item struct {
	id      string // the LetterID
	key     letterKey
	subject string
	data    []byte
	// attempted says that it was published without a clear answer, so that finding it stored is no surprise.
	attempted bool
	result    Result
	of        *request
}

// request is one caller's letters, waiting together.
type request struct {
	left int // how many are not settled yet; only the settling goroutine touches it, and err
	err  error
	room int64 // what it holds of Store.room
	done chan struct{}
}

// queue holds what waits to be stored, in order of arrival.
type queue struct {
	mu    sync.Mutex
	items []*item
	ended bool
	wake  chan struct{} // holds a token when there may be items
}

// put adds items; false means that nobody will take them any more.
func (q *queue) put(items []*item) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return false
	}
	q.items = append(q.items, items...)
	q.signal()
	return true
}

// end takes all that is left and refuses what comes.
func (q *queue) end() []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	rest := q.items
	q.items, q.ended = nil, true
	return rest
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes the next batch.
func (q *queue) take() []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.items) && n < maxBatchLetters {
		size += len(q.items[n].data)
		if n > 0 && size > maxBatchBytes {
			break
		}
		n++
	}
	batch := q.items[:n:n]
	if q.items = q.items[n:]; len(q.items) == 0 {
		q.items = nil
	} else {
		q.signal()
	}
	return batch
}

// Append stores letters and returns one result each, in their order. When it returns nil, all of them are on stable storage. On an
// error none may be taken as stored, although some can be: appending the same letters again is always safe, since what is stored
// already is answered as a duplicate. Letters of concurrent calls are stored together. The store keeps no reference to the letters.
//
// Errors wrap ErrFull, ErrUnavailable, ErrTooLarge or ErrClosed, or are those of ctx.
func (s *Store) Append(ctx context.Context, letters []Letter) ([]Result, error) {
	results := make([]Result, len(letters))
	for next := 0; next < len(letters); {
		n, err := s.appendSome(ctx, letters[next:], results[next:])
		if err != nil {
			return nil, fmt.Errorf("append dead letters: %w", err)
		}
		next += n
	}
	return results, nil
}

// appendSome stores as many of the letters as make one batch and returns how many.
func (s *Store) appendSome(ctx context.Context, letters []Letter, results []Result) (int, error) {
	if err := s.open(); err != nil {
		return 0, err
	}
	n, size := 0, int64(0)
	for n < len(letters) && n < maxBatchLetters {
		l := &letters[n]
		if len(l.Record) > MaxRecordBytes {
			return 0, fmt.Errorf("record of %d bytes: %w", len(l.Record), ErrTooLarge)
		}
		context := contextSize(l)
		if context > envelopeOverhead {
			return 0, fmt.Errorf("error context of %d bytes: %w", context, ErrTooLarge)
		}
		size += int64(len(l.Record) + context)
		if n > 0 && size > maxBatchBytes {
			break
		}
		n++
	}
	size = min(size, roomBytes)
	if err := s.room.Acquire(ctx, size); err != nil {
		return 0, err
	}
	// The letters take their room until they are settled, also when the caller does not wait for that.
	req := &request{left: n, room: size, done: make(chan struct{})}
	items := s.itemsOf(letters[:n], req)
	if !s.queue.put(items) {
		s.room.Release(size)
		return 0, ErrClosed
	}
	select {
	case <-req.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if req.err != nil {
		return 0, req.err
	}
	for i, it := range items {
		results[i] = it.result
	}
	return n, nil
}

// itemsOf encodes letters, in the caller's goroutine.
func (s *Store) itemsOf(letters []Letter, req *request) []*item {
	items := make([]item, len(letters))
	queued := make([]*item, len(letters))
	for i := range letters {
		l := letters[i]
		if l.LetterID == "" {
			l.LetterID = l.Identity()
		}
		items[i] = item{
			id:      l.LetterID,
			key:     keyOf(l.LetterID),
			subject: subjectOf(s.cfg.Stream, l.Namespace, l.Pipeline, l.Stage),
			data:    encode(make([]byte, 0, len(l.Record)+contextSize(&l)), &l),
			of:      req,
		}
		queued[i] = &items[i]
	}
	return queued
}
