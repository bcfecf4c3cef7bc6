package dlq_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/conveyor-etl/conveyor/dlq"
)

var errNoAnswer = errors.New("the outcome is unknown")

// fate is what becomes of one Save.
type fate int

const (
	answered  fate = iota
	unheard        // it is saved, and the answer is lost
	late           // it is under way still, and may be saved at any later time
	forgotten      // it is never saved
)

// stateMark keeps a mark as the state of the routers does, over a way on which calls and answers are delayed and lost.
type stateMark struct {
	mu       sync.Mutex
	bytes    []byte
	version  uint64
	fate     func() fate // nil answers all
	underWay []markSave
	by       int         // which store has saved it, of those that are told apart
	mistaken bool        // a store was told that its mark is saved, and it was that of another one
	arrives  func() bool // whether what is under way arrives now; nil keeps it there
}

type markSave struct {
	bytes   []byte
	version uint64
	by      int
}

// markOf is the mark as one of several stores has it.
type markOf struct {
	*stateMark
	by int
}

func (m markOf) Save(_ context.Context, mark []byte, version uint64) error {
	return m.save(markSave{slices.Clone(mark), version, m.by})
}

func (m *stateMark) Load(context.Context) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.arrive()
	return m.bytes, nil
}

func (m *stateMark) Save(_ context.Context, mark []byte, version uint64) error {
	return m.save(markSave{slices.Clone(mark), version, 0})
}

func (m *stateMark) save(s markSave) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.arrive()
	is := answered
	if m.fate != nil {
		is = m.fate()
	}
	switch is {
	case answered:
		return m.apply(s)
	case unheard:
		_ = m.apply(s)
	case late:
		m.underWay = append(m.underWay, s)
	}
	return errNoAnswer
}

func (m *stateMark) apply(s markSave) error {
	if s.version == m.version && bytes.Equal(s.bytes, m.bytes) {
		m.mistaken = m.mistaken || s.by != m.by
		return nil
	}
	if s.version != m.version+1 {
		return fmt.Errorf("%w: version %d does not follow %d", dlq.ErrSuperseded, s.version, m.version)
	}
	m.bytes, m.version, m.by = s.bytes, s.version, s.by
	return nil
}

func (m *stateMark) arrive() {
	if m.arrives == nil {
		return
	}
	m.underWay = slices.DeleteFunc(m.underWay, func(s markSave) bool {
		arrives := m.arrives()
		if arrives {
			_ = m.apply(s)
		}
		return arrives
	})
}

// once gives the next Save a fate, and answers those after it.
func (m *stateMark) once(f fate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fate = func() fate {
		m.fate = nil
		return f
	}
}

// savedBy says which store has saved the mark, and whether all were told the truth.
func (m *stateMark) savedBy() (by int, mistaken bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.by, m.mistaken
}

func (m *stateMark) last() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var state struct{ Last uint64 }
	_ = json.Unmarshal(m.bytes, &state)
	return state.Last
}

func TestMark_TheStoreGoesOnWhateverBecameOfASaveWithoutAnAnswer(t *testing.T) {
	for name, f := range map[string]fate{"saved": unheard, "saved later": late, "never saved": forgotten} {
		t.Run(name, func(t *testing.T) {
			mark := &stateMark{}
			in := open(t, t.TempDir(), dlq.Config{Mark: mark})
			add(t, in.store, named("a"))
			mark.once(f)
			if _, err := in.store.Append(bg, []dlq.Letter{named("b")}); !errors.Is(err, dlq.ErrUnavailable) {
				t.Fatalf("append without an answer: %v", err)
			}
			add(t, in.store, named("c"))
			mark.arrives = func() bool { return true }
			if r := add(t, in.store, named("b"), named("d")); r[0].ID != 2 || r[1].ID != 4 {
				t.Errorf("letters of the next append are %v", r)
			}
			if err := in.store.Health(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMark_OnlyAStoreThatWasSupersededSaysSo(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{Mark: &stateMark{}})
	add(t, in.store, named("a"))
	next := another(t, in)
	for what, try := range map[string]func() error{
		"stored":    func() error { _, err := in.store.Append(bg, []dlq.Letter{named("b")}); return err },
		"removed":   func() error { return in.store.Discard(bg, 1) },
		"took over": func() error { return in.store.AcceptLoss(bg) },
	} {
		if err := try(); !errors.Is(err, dlq.ErrSuperseded) || !errors.Is(err, dlq.ErrUnavailable) {
			t.Errorf("the superseded store %s: %v", what, err)
		}
	}
	if _, err := in.store.Append(bg, []dlq.Letter{named("a")}); !errors.Is(err, dlq.ErrSuperseded) {
		t.Errorf("the superseded store acknowledged again what it had before: %v", err)
	}
	if !superseded(in.store) || superseded(next) {
		t.Errorf("superseded: the first %v, the second %v", superseded(in.store), superseded(next))
	}
	add(t, next, named("b"))
}

// A mark that says the same as another store's is still not that store's.
func TestMark_ASaveWithoutAnAnswerIsNotMistakenForThatOfAnotherStore(t *testing.T) {
	mark := &stateMark{}
	in := open(t, t.TempDir(), dlq.Config{Mark: mark})
	mark.once(forgotten)
	if _, err := in.store.Append(bg, []dlq.Letter{named("a")}); !errors.Is(err, dlq.ErrUnavailable) {
		t.Fatalf("append without an answer: %v", err)
	}
	another(t, in)
	if _, err := in.store.Append(bg, []dlq.Letter{named("a")}); !errors.Is(err, dlq.ErrSuperseded) {
		t.Fatalf("the superseded store answered %v", err)
	}
}

// another opens one more store over the stream of an instance, and with its mark.
func another(t *testing.T, in *instance) *dlq.Store {
	t.Helper()
	s, err := dlq.Open(bg, in.js, in.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func superseded(s *dlq.Store) bool {
	select {
	case <-s.Superseded():
		return true
	default:
		return false
	}
}

func TestMark_ADiscardThatArrivesAfterAnotherStoreHasOpenedIsNoLoss(t *testing.T) {
	for name, arrives := range map[string]bool{"arrives": true, "never arrives": false} {
		t.Run(name, func(t *testing.T) {
			in := open(t, t.TempDir(), dlq.Config{Mark: &stateMark{}})
			add(t, in.store, named("a"), named("b"), named("c"))
			if err := in.store.BeginDiscard(2); err != nil {
				t.Fatal(err)
			}
			another(t, in)
			if arrives {
				stream, err := in.js.Stream(bg, dlq.DefaultStream)
				if err != nil {
					t.Fatal(err)
				}
				if err := stream.DeleteMsg(bg, 2); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the count is right from then on
				next := another(t, in)
				if err := next.Health(); err != nil {
					t.Errorf("a letter that was discarded is missed: %v", err)
				}
				if err := next.Discard(bg, 1); err != nil && !errors.Is(err, dlq.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
}
