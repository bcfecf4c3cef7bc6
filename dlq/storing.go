package dlq

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nuid"
)

const (
	// maxTries is how often a batch is sent when no answer comes.
	maxTries = 3
	// maxRefusals is how often a batch is put together anew because the stream had moved on.
	maxRefusals = 10
	tryPause    = 100 * time.Millisecond
)

// settlement is what became of items: stored up to an ID, or not.
type settlement struct {
	items []*item
	last  uint64
	err   error
}

// storeQueued stores what is queued, one batch at a time and each as large as what has gathered during the one before, until the
// store closes.
func (s *Store) storeQueued() {
	defer close(s.settle)
	for {
		select {
		case <-s.queue.wake:
		case <-s.closing:
			s.settle <- settlement{items: s.queue.end(), err: ErrClosed}
			return
		}
		if batch := s.queue.take(); len(batch) > 0 {
			s.settle <- s.storeBatch(batch)
		}
	}
}

// storeBatch stores a batch, less what the store holds already. It is not bound to any caller's context: a caller that gives up does
// not disturb the others.
func (s *Store) storeBatch(items []*item) settlement {
	done := settlement{items: items}
	salt := ""
	tries, refusals := 0, 0
	for {
		todo, followers, err := s.sift(items, &done.last)
		if err == nil && len(todo) > 0 {
			err = s.publishSifted(todo, salt, &done.last)
		}
		switch {
		case err == nil:
			for it, leader := range followers {
				it.result = Result{ID: leader.result.ID, Duplicate: true}
			}
			s.health.appended(nil)
			return done
		case errors.Is(err, errMoved), errors.Is(err, errRefusedDuplicate):
			// An unclear earlier try has come through after all, someone else wrote, or the server remembers letters that were removed
			// since. In the last case nothing new is found, and the letters must not be taken for duplicates of what is gone.
			before := s.index.end()
			if refusals++; refusals > maxRefusals {
				err = s.unavailable("publish", err)
				break
			}
			moved := errors.Is(err, errMoved)
			if err = s.resync(context.Background()); err == nil {
				if !moved && s.index.end() == before {
					salt = nuid.Next()
				}
				continue
			}
		}
		if errors.Is(err, ErrUnavailable) {
			for _, it := range todo {
				it.attempted = true
			}
			if tries++; tries < maxTries && s.pause(tryPause<<tries) {
				continue
			}
		}
		s.health.appended(err)
		done.err = err
		return done
	}
}

// publishSifted publishes items that are neither stored nor equal to each other, and notes where they are.
func (s *Store) publishSifted(items []*item, salt string, last *uint64) error {
	expect := s.index.end()
	end, err := s.publish(context.Background(), items, expect, salt)
	if err != nil {
		return err
	}
	for i, it := range items {
		it.result = Result{ID: expect + 1 + uint64(i)}
		s.index.add(it.key, it.result.ID)
	}
	s.index.setEnd(end)
	*last = max(*last, end)
	return nil
}

// sift finds out which items have to be published. The others are in the store, and get their result, or follow an equal item of
// the same batch.
func (s *Store) sift(items []*item, last *uint64) (todo []*item, followers map[*item]*item, err error) {
	todo = make([]*item, 0, len(items))
	leaders := make(map[letterKey]*item, len(items))
	for _, it := range items {
		if leader, twice := leaders[it.key]; twice {
			if followers == nil {
				followers = make(map[*item]*item)
			}
			followers[it] = leader
			continue
		}
		leaders[it.key] = it
		id, err := s.stored(it)
		switch {
		case err != nil:
			return nil, nil, err
		case id == 0:
			todo = append(todo, it)
		default:
			it.result = Result{ID: id, Duplicate: !it.attempted}
			*last = max(*last, id)
		}
	}
	return todo, followers, nil
}

// stored returns the ID of the sound letter in the store that equals the item, or 0.
func (s *Store) stored(it *item) (uint64, error) {
	id, ok := s.index.find(it.key)
	if !ok {
		return 0, nil
	}
	e, err := s.read(context.Background(), id)
	switch {
	case errors.Is(err, ErrNotFound):
		s.index.drop(it.key, id)
		return 0, nil
	case err != nil:
		return 0, err
	}
	l, err := e.letter()
	if err != nil {
		// A damaged letter is no proof that this one is kept. It stays where it is, and this one is stored beside it.
		s.noteCorrupt(err)
		s.index.drop(it.key, id)
		return 0, nil
	}
	if l.LetterID != it.id {
		return 0, nil
	}
	return id, nil
}

// settleStored answers the callers, after the mark has reached the disk: what was acknowledged can never be missing unnoticed. Meanwhile the
// next batch is being stored.
func (s *Store) settleStored() {
	for first := range s.settle {
		all, open := []settlement{first}, true
		for more := true; more && open; {
			select {
			case next, ok := <-s.settle:
				if open = ok; ok {
					all = append(all, next)
				}
			default:
				more = false
			}
		}
		var last uint64
		for i := range all {
			if all[i].err == nil {
				last = max(last, all[i].last)
			}
		}
		err := s.mark.advance(last)
		if err != nil {
			s.health.appended(err)
		}
		for i := range all {
			if all[i].err == nil {
				all[i].err = err
			}
			s.answer(all[i].items, all[i].err)
		}
	}
}

func (s *Store) answer(items []*item, err error) {
	for _, it := range items {
		req := it.of
		if req.err == nil {
			req.err = err
		}
		if req.left--; req.left == 0 {
			s.room.Release(req.room)
			close(req.done)
		}
	}
}
