package dlq

import (
	"context"
)

// audit builds the index from the stream, checks every letter, and compares what is there with what the mark says was acknowledged.
func (s *Store) audit(ctx context.Context, marked bool) error {
	info, err := s.info(ctx)
	if err != nil {
		return err
	}
	last := info.State.LastSeq
	mark := s.mark.snapshot()
	if !marked && last > 0 {
		s.log.Warn("the dead letters have no high-water mark: letters lost before now go unnoticed",
			"stream", s.cfg.Stream, "letters", info.State.Msgs, "last", last)
	}
	var held, acknowledged uint64
	err = s.load(ctx, 1, last, func(e *entry) {
		held++
		if e.id <= mark.Last {
			acknowledged++
			delete(mark.Removing, e.id)
		}
	})
	if err != nil {
		return err
	}
	s.index.setEnd(last)
	// What is left of Removing is gone: the removal happened before the mark could say so.
	if !marked {
		return s.mark.change(func(m *markState) { m.Last, m.Removed = last, last-held })
	}
	return s.compare(&mark, last, held, acknowledged)
}

// compare notes the losses if letters are missing, at the end of the stream or within it, and writes the new mark.
func (s *Store) compare(mark *markState, last, held, acknowledged uint64) error {
	end := min(mark.Last, last)
	var lost []LostError
	// The server keeps the number of the last letter when that letter is removed. A lower one than was acknowledged is always a loss.
	cut := mark.Last - end
	if there := acknowledged + mark.Removed + uint64(len(mark.Removing)) + cut; there < mark.Last {
		lost = append(lost, LostError{From: 1, To: end, Count: mark.Last - there})
	}
	if cut > 0 {
		lost = append(lost, LostError{From: end + 1, To: mark.Last, Count: cut})
	}
	return s.noteLost(lost, func(m *markState) {
		// From here on the mark agrees with the stream again, so that a loss is reported once and the next one too.
		m.Last, m.Removed, m.Removing = last, last-held, nil
	})
}

// load adds letters from..to of the stream to the index and checks them.
func (s *Store) load(ctx context.Context, from, to uint64, visit func(*entry)) error {
	return s.scan(ctx, "", from, to, largePage, func(e *entry) bool {
		l, err := e.letter()
		switch {
		case err != nil:
			s.noteCorrupt(err)
		default:
			s.index.add(keyOf(l.LetterID), e.id)
		}
		if !e.unreadable {
			visit(e)
		}
		return true
	})
}

// resync brings the index up to the end of the stream after something happened to it that this store did not do or did not see.
func (s *Store) resync(ctx context.Context) error {
	info, err := s.info(ctx)
	if err != nil {
		return err
	}
	last, known := info.State.LastSeq, s.index.end()
	if last < known {
		// The stream was replaced behind our back.
		s.index.reset()
		var held uint64
		if err := s.load(ctx, 1, last, func(*entry) { held++ }); err != nil {
			return err
		}
		s.index.setEnd(last)
		return s.noteLost([]LostError{{From: last + 1, To: known, Count: known - last}}, func(m *markState) {
			m.Last, m.Removed = last, last-held
		})
	}
	if err := s.load(ctx, known+1, last, func(*entry) {}); err != nil {
		return err
	}
	s.index.setEnd(last)
	return nil
}
