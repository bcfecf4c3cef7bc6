package dlq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// health holds what is wrong with the store.
type health struct {
	mu      sync.Mutex
	corrupt map[uint64]*CorruptError
	append  error
}

// maxCorruptReported bounds how many damaged letters Health names; all of them are counted where they are read.
const maxCorruptReported = 100

func (h *health) damaged(e *CorruptError) (fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.corrupt[e.ID]; known || len(h.corrupt) >= maxCorruptReported {
		return false
	}
	if h.corrupt == nil {
		h.corrupt = make(map[uint64]*CorruptError)
	}
	h.corrupt[e.ID] = e
	return true
}

func (h *health) removed(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.corrupt, id)
}

func (h *health) appended(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.append = err
}

// Health returns nil when all is well. Otherwise it joins everything that an operator must know: a [*LostError] for letters that
// vanished, until AcceptLoss; a [*CorruptError] for each damaged letter that was met, up to 100, until it is discarded; and
// the error of the last Append while it was ErrFull or ErrUnavailable. It does not ask the server.
func (s *Store) Health() error {
	var errs []error
	for _, lost := range s.mark.snapshot().Lost {
		errs = append(errs, &lost)
	}
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	ids := make([]uint64, 0, len(s.health.corrupt))
	for id := range s.health.corrupt {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		errs = append(errs, s.health.corrupt[id])
	}
	return errors.Join(append(errs, s.health.append)...)
}

// AcceptLoss ends the report of the losses known so far: the operator has seen them. Nothing else changes.
func (s *Store) AcceptLoss(context.Context) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.mark.change(func(m *markState) { m.Lost = nil }); err != nil {
		return fmt.Errorf("accept the loss of dead letters: %w", err)
	}
	return nil
}

// noteCorrupt records a damaged letter and logs it once.
func (s *Store) noteCorrupt(err error) {
	if c, ok := errors.AsType[*CorruptError](err); ok && s.health.damaged(c) {
		s.log.Error("dead letter is corrupt", "letter", c.ID, "err", c)
	}
}

// noteLost logs losses, and makes them and the edit of the mark durable.
func (s *Store) noteLost(lost []LostError, edit func(*markState)) error {
	for i := range lost {
		s.log.Error("dead letters were lost", "err", &lost[i])
	}
	return s.mark.change(func(m *markState) {
		m.lose(lost)
		edit(m)
	})
}
