package dlq

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// Query selects letters. Empty names match every name.
type Query struct {
	// Namespace, Pipeline and Stage select by name; the server does it, so that a narrow query reads only its own letters.
	Namespace, Pipeline, Stage string
	// After leaves out the letters up to and including this ID: the last ID of one page asks for the next.
	After uint64
	// Limit ends the result after so many letters; 0 means no limit.
	Limit int
	// Match selects among the letters that the names select; nil selects all. It must not keep the letter or change it.
	Match func(*Letter) bool
}

// Result is what became of one appended letter.
type Result struct {
	// ID is the number of the letter in the store.
	ID uint64
	// Duplicate says that the store held a letter of this LetterID already, which is the one ID names.
	Duplicate bool
}

// Stats describes a store.
type Stats struct {
	// Letters is how many letters the store holds, of at most MaxLetters.
	Letters, MaxLetters uint64
	// Bytes is what they take, of at most MaxBytes.
	Bytes, MaxBytes uint64
	// FirstID and LastID are the lowest ID held and the highest ever given.
	FirstID, LastID uint64
	// Stages counts the letters by pipeline and stage, in their order.
	Stages []StageCount
}

// StageCount is how many letters one stage has.
type StageCount struct {
	// Namespace, Pipeline and Stage name the stage.
	Namespace, Pipeline, Stage string
	// Letters is their number.
	Letters uint64
}

// Get returns one letter. The error wraps ErrNotFound if the store does not hold it, and is a *CorruptError if it is damaged.
func (s *Store) Get(ctx context.Context, id uint64) (Letter, error) {
	if err := s.open(); err != nil {
		return Letter{}, err
	}
	e, err := s.read(ctx, id)
	if err != nil {
		return Letter{}, err
	}
	l, err := e.letter()
	if err != nil {
		s.noteCorrupt(err)
	}
	return l, err
}

// List yields the letters that match, in order of their IDs, as they are when the listing begins or later. It holds a few megabytes
// however many there are. A damaged letter comes as its ID with a *CorruptError, whatever Query.Match would say, and the listing goes on;
// any other error ends it.
func (s *Store) List(ctx context.Context, q Query) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		if err := s.list(ctx, &q, yield); err != nil {
			yield(Letter{}, fmt.Errorf("list dead letters: %w", err))
		}
	}
}

func (s *Store) list(ctx context.Context, q *Query, yield func(Letter, error) bool) error {
	if err := s.open(); err != nil {
		return err
	}
	info, err := s.info(ctx)
	if err != nil || q.After >= info.State.LastSeq {
		return err
	}
	filter := ""
	if q.Namespace != "" || q.Pipeline != "" || q.Stage != "" {
		filter = filterOf(s.cfg.Stream, q)
	}
	left := q.Limit
	return s.scanExact(ctx, filter, q.After+1, info.State.LastSeq, func(e *entry) bool {
		l, err := e.letter()
		if err != nil {
			s.noteCorrupt(err)
		} else if q.Match != nil && !q.Match(&l) {
			return true
		}
		if !yield(l, err) {
			return false
		}
		left--
		return left != 0
	})
}

// Count returns how many letters List would yield. Without After, Limit and Match the server knows it; otherwise the letters are read.
func (s *Store) Count(ctx context.Context, q Query) (uint64, error) {
	if err := s.open(); err != nil {
		return 0, err
	}
	var n uint64
	if q.After == 0 && q.Limit == 0 && q.Match == nil {
		info, err := s.info(ctx, jetstream.WithSubjectFilter(filterOf(s.cfg.Stream, &q)))
		if err != nil {
			return 0, fmt.Errorf("count dead letters: %w", err)
		}
		for _, letters := range info.State.Subjects {
			n += letters
		}
		return n, nil
	}
	err := s.list(ctx, &q, func(Letter, error) bool {
		n++
		return true
	})
	if err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	return n, nil
}

// Stats describes the store as it is now.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	if err := s.open(); err != nil {
		return Stats{}, err
	}
	info, err := s.info(ctx, jetstream.WithSubjectFilter(filterOf(s.cfg.Stream, &Query{})))
	if err != nil {
		return Stats{}, fmt.Errorf("describe the dead letters: %w", err)
	}
	st := Stats{
		Letters: info.State.Msgs, MaxLetters: uint64(max(info.Config.MaxMsgs, 0)),
		Bytes: info.State.Bytes, MaxBytes: uint64(max(info.Config.MaxBytes, 0)),
		FirstID: info.State.FirstSeq, LastID: info.State.LastSeq,
	}
	for subject, letters := range info.State.Subjects {
		if ns, pipeline, stage, ok := splitSubject(s.cfg.Stream, subject); ok {
			st.Stages = append(st.Stages, StageCount{Namespace: ns, Pipeline: pipeline, Stage: stage, Letters: letters})
		}
	}
	slices.SortFunc(st.Stages, func(a, b StageCount) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pipeline, b.Pipeline), cmp.Compare(a.Stage, b.Stage))
	})
	return st, nil
}
