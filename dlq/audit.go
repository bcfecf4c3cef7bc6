package dlq

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
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
	held, acknowledged, there, err := s.takeStock(ctx, info, &mark)
	if err != nil {
		return err
	}
	s.index.setEnd(last)
	if !marked {
		return s.mark.change(func(m *markState) { m.Last, m.Removed = last, last-held })
	}
	// What is left of Removing is gone: the removal happened before the mark could say so. What is there still may be on its way to be removed, by the store before this one.
	for id := range there {
		delete(mark.Removing, id)
	}
	return s.compare(&mark, last, held, acknowledged, there)
}

// takeStock builds the index and counts the letters that are there, those that were acknowledged by themselves. It returns those of the mark's Removing that are there still.
func (s *Store) takeStock(ctx context.Context, info *jetstream.StreamInfo, mark *markState) (held, acknowledged uint64, there map[uint64]bool, err error) {
	there = map[uint64]bool{}
	count := func(e *entry) {
		held++
		if e.id <= mark.Last {
			acknowledged++
		}
		if mark.Removing[e.id] {
			there[e.id] = true
		}
	}
	if err := s.load(ctx, 1, info.State.LastSeq, count); err != nil {
		return 0, 0, nil, err
	}
	if s.copied() && held != info.State.Msgs {
		// Pages come from any copy, which can lack what was removed or stored moments ago, or be damaged where the leader's is sound.
		s.index.reset()
		held, acknowledged = 0, 0
		clear(there)
		if err := s.loadBy(ctx, 1, info.State.LastSeq, count, s.scanLeader); err != nil {
			return 0, 0, nil, err
		}
	}
	return held, acknowledged, there, nil
}

// compare notes the losses if letters are missing, at the end of the stream or within it, and writes the new mark.
func (s *Store) compare(mark *markState, last, held, acknowledged uint64, there map[uint64]bool) error {
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
		m.Last, m.Removed, m.Removing = last, last-held, there
	})
}

// load adds letters from..to of the stream to the index and checks them.
func (s *Store) load(ctx context.Context, from, to uint64, visit func(*entry)) error {
	return s.loadBy(ctx, from, to, visit, func(ctx context.Context, filter string, from, to uint64, visit func(*entry) bool) error {
		return s.scan(ctx, filter, from, to, largePage, visit)
	})
}

type scanner func(ctx context.Context, filter string, from, to uint64, visit func(*entry) bool) error

func (s *Store) loadBy(ctx context.Context, from, to uint64, visit func(*entry), scan scanner) error {
	return scan(ctx, "", from, to, func(e *entry) bool {
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
