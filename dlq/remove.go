package dlq

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/nats-io/nats.go/jetstream"
)

// maxRemoving bounds how many letters one write of the mark announces.
const maxRemoving = 500

// Discard removes letters for good, damaged ones too, and returns when that is on stable storage. Letters that the store does not
// hold do not keep it from removing the others; they are then named in an error that wraps ErrNotFound. On other errors some of the
// letters may be gone.
func (s *Store) Discard(ctx context.Context, ids ...uint64) error {
	if err := s.open(); err != nil {
		return fmt.Errorf("discard dead letters: %w", err)
	}
	s.removing.Lock()
	defer s.removing.Unlock()
	var missing []error
	for len(ids) > 0 {
		n := min(len(ids), maxRemoving)
		gone, err := s.remove(ctx, ids[:n])
		if err != nil {
			return fmt.Errorf("discard dead letters: %w", err)
		}
		missing, ids = append(missing, gone...), ids[n:]
	}
	if err := errors.Join(missing...); err != nil {
		return fmt.Errorf("discard dead letters: %w", err)
	}
	return nil
}

// remove announces the removal of those letters that are there, and removes them. The others are returned as errors.
func (s *Store) remove(ctx context.Context, ids []uint64) (missing []error, err error) {
	if err := s.finishRemoving(ctx); err != nil {
		return nil, err
	}
	keys := make(map[uint64]letterKey, len(ids))
	there := make([]uint64, 0, len(ids))
	for _, id := range ids {
		if _, twice := keys[id]; twice {
			continue
		}
		e, err := s.read(ctx, id)
		if errors.Is(err, ErrNotFound) {
			missing = append(missing, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		keys[id] = letterKey{}
		if l, err := e.letter(); err == nil {
			keys[id] = keyOf(l.LetterID)
		}
		there = append(there, id)
	}
	if len(there) == 0 {
		return missing, nil
	}
	if err := s.mark.begin(there); err != nil {
		return nil, err
	}
	for _, id := range there {
		if err := s.removeOne(ctx, id); err != nil {
			return nil, err
		}
		s.index.drop(keys[id], id)
		s.health.removed(id)
	}
	return missing, nil
}

// finishRemoving finds out what became of removals whose outcome an earlier call did not learn.
func (s *Store) finishRemoving(ctx context.Context) error {
	for id := range s.mark.snapshot().Removing {
		switch _, err := s.read(ctx, id); {
		case err == nil:
			s.mark.kept(id)
		case errors.Is(err, ErrNotFound):
			s.mark.removed(id)
		default:
			return err
		}
	}
	return nil
}

func (s *Store) removeOne(ctx context.Context, id uint64) error {
	within, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	err := s.stream.DeleteMsg(within, id)
	switch {
	case err == nil:
		s.mark.removed(id)
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	// The server does not say by a code of its own that the letter is gone already, for which a concurrent try can be the reason.
	if _, gone := s.read(ctx, id); errors.Is(gone, ErrNotFound) {
		s.mark.removed(id)
		return nil
	}
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return fmt.Errorf("remove dead letter %d: %w", id, err)
	}
	return s.unavailable(fmt.Sprintf("remove dead letter %d", id), err)
}

// Replace stores letter and then removes the letter old, whose replay failed again: at every moment one of the two is stored. It returns
// the new letter's ID. Repeating a Replace that was interrupted completes it.
//
// The new letter must be one of its own, which a raised Replays makes it: if it has the identity of the old one, or if the store
// holds a letter of its identity with another record, the error wraps ErrDuplicate and the old letter stays.
func (s *Store) Replace(ctx context.Context, old uint64, letter Letter) (uint64, error) {
	if letter.LetterID == "" {
		letter.LetterID = letter.Identity()
	}
	was, err := s.Get(ctx, old)
	switch {
	case err == nil && was.LetterID == letter.LetterID:
		return 0, fmt.Errorf("replace dead letter %d by one of the same identity: %w", old, ErrDuplicate)
	case err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCorrupt):
		return 0, fmt.Errorf("replace dead letter %d: %w", old, err)
	}
	results, err := s.Append(ctx, []Letter{letter})
	if err != nil {
		return 0, fmt.Errorf("replace dead letter %d: %w", old, err)
	}
	id := results[0].ID
	if results[0].Duplicate {
		// Only the letter that an interrupted Replace stored may stand for this one.
		held, err := s.Get(ctx, id)
		if err != nil {
			return 0, fmt.Errorf("replace dead letter %d: %w", old, err)
		}
		if id == old || held.Checksum != crc32.Checksum(letter.Record, castagnoli) {
			return 0, fmt.Errorf("replace dead letter %d, letter %d has the same identity: %w", old, id, ErrDuplicate)
		}
	}
	if err := s.Discard(ctx, old); err != nil && !errors.Is(err, ErrNotFound) {
		return 0, fmt.Errorf("replace dead letter %d by %d: %w", old, id, err)
	}
	return id, nil
}
