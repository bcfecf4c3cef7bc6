package dlq_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/dlq"
)

// Saves lose their answers and arrive late, and one store after the other takes over, while those before go on trying.
func TestMark_WhateverIsDelayedOrLostTheLastStoreAloneAcknowledgesAndLosesNothing(t *testing.T) {
	in := open(t, t.TempDir(), dlq.Config{})
	checks := 0
	rapid.Check(t, func(rt *rapid.T) {
		checks++
		p := newTakeovers(rt, in, fmt.Sprint("CHECK_", checks))
		defer p.end()
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(*rapid.T) { p.append(p.any(rt)) },
			"repeat": func(*rapid.T) { p.appendAgain(p.any(rt)) },
			"remove": func(*rapid.T) { p.remove(p.any(rt)) },
			"open":   func(*rapid.T) { p.open() },
		})
		p.settle()
	})
}

// takeovers are the stores that were opened one after the other, and what they have said.
type takeovers struct {
	t       *rapid.T
	in      *instance
	cfg     dlq.Config
	mark    *stateMark
	stores  []*opened
	n       int
	tries   int               // to open a store
	acked   map[string]uint64 // the letters that are to be there
	waiting []string          // those that nobody has acknowledged
}

type opened struct {
	*dlq.Store
	by int
	// covered is how far the mark went when the next store had opened; what it covers the next one knows of.
	covered uint64
}

func newTakeovers(t *rapid.T, in *instance, stream string) *takeovers {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	mark := &stateMark{
		fate: func() fate {
			return []fate{answered, answered, answered, answered, unheard, late, late, forgotten}[rng.IntN(8)]
		},
		arrives: func() bool { return rng.IntN(3) == 0 },
	}
	p := &takeovers{t: t, in: in, mark: mark, acked: map[string]uint64{}, cfg: dlq.Config{Stream: stream, MaxBytes: 64 << 20}}
	for len(p.stores) == 0 {
		p.open()
	}
	return p
}

// open opens one more store, if what it saves is answered.
func (p *takeovers) open() {
	p.tries++
	cfg := p.cfg
	cfg.Mark = markOf{p.mark, p.tries}
	s, err := dlq.Open(bg, p.in.js, cfg)
	switch {
	case err == nil:
		if n := len(p.stores); n > 0 {
			p.stores[n-1].covered = p.mark.last()
		}
		if err := s.Health(); err != nil {
			p.t.Fatalf("store %d misses something: %v", len(p.stores), err)
		}
		p.stores = append(p.stores, &opened{Store: s, by: p.tries})
	case !errors.Is(err, errNoAnswer) && !errors.Is(err, dlq.ErrSuperseded):
		p.t.Fatal(err)
	}
}

// any is the last store, most of the time.
func (p *takeovers) any(t *rapid.T) int {
	return max(len(p.stores)-1-max(rapid.IntRange(-3, 2).Draw(t, "back"), 0), 0)
}

func (p *takeovers) isLast(i int) bool { return i == len(p.stores)-1 }

func (p *takeovers) append(i int) {
	p.n++
	id := fmt.Sprint("letter-", p.n)
	p.waiting = append(p.waiting, id)
	p.put(i, id)
}

func (p *takeovers) appendAgain(i int) {
	ids := slices.Concat(p.waiting, slices.Sorted(maps.Keys(p.acked)))
	if len(ids) > 0 {
		p.put(i, rapid.SampledFrom(ids).Draw(p.t, "letter"))
	}
}

func (p *takeovers) put(i int, id string) {
	r, err := p.stores[i].Append(bg, []dlq.Letter{named(id)})
	p.check(i, err)
	if err != nil {
		return
	}
	if !p.isLast(i) && r[0].ID > p.stores[i].covered {
		p.t.Fatalf("store %d of %d acknowledged letter %d, and the next one took over at %d", i, len(p.stores), r[0].ID, p.stores[i].covered)
	}
	if was, ok := p.acked[id]; ok && was != r[0].ID {
		p.t.Fatalf("%s was letter %d and is %d now", id, was, r[0].ID)
	}
	p.acked[id] = r[0].ID
	p.waiting = slices.DeleteFunc(p.waiting, func(o string) bool { return o == id })
}

// check checks that a store says that it is superseded when it was, and is told nothing that is meant for another one.
func (p *takeovers) check(i int, err error) {
	by, mistaken := p.mark.savedBy()
	switch s := p.stores[i]; {
	case mistaken:
		p.t.Fatal("a store took the mark of another one for its own")
	case superseded(s.Store) && by <= s.by:
		p.t.Fatalf("store %d says that it is superseded, and nobody has saved after it", i)
	case errors.Is(err, dlq.ErrSuperseded) != superseded(s.Store):
		p.t.Fatalf("store %d says that it is superseded: %v, and answers %v", i, superseded(s.Store), err)
	}
}

func (p *takeovers) remove(i int) {
	if len(p.acked) == 0 {
		return
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(p.acked))).Draw(p.t, "letter")
	err := p.stores[i].Discard(bg, p.acked[id])
	switch p.check(i, err); {
	case err == nil && !p.isLast(i):
		p.t.Fatalf("store %d of %d removed a letter", i, len(p.stores))
	case err == nil:
		delete(p.acked, id)
	case !errors.Is(err, errNoAnswer) && !errors.Is(err, dlq.ErrSuperseded):
		p.t.Fatalf("remove: %v", err)
	}
}

// settle lets everything arrive, and checks that letters are stored at once, by a new store only if the last one says that it is superseded.
func (p *takeovers) settle() {
	p.mark.mu.Lock()
	p.mark.fate, p.mark.arrives = nil, func() bool { return true }
	p.mark.mu.Unlock()
	last := p.stores[len(p.stores)-1]
	_, err := last.Append(bg, []dlq.Letter{named("end")})
	p.check(len(p.stores)-1, err)
	if err != nil {
		if !superseded(last.Store) {
			p.t.Fatalf("the last store does not recover: %v", err)
		}
		// What is under way may take the place of the first mark of a new store, and then nothing is any more.
		for n := len(p.stores); len(p.stores) == n; {
			p.open()
		}
	}
	i := len(p.stores) - 1
	for _, id := range slices.Clone(p.waiting) {
		p.put(i, id)
	}
	p.put(i, "end")
	if len(p.waiting) > 0 {
		p.t.Fatalf("letters %v cannot be stored: %v", p.waiting, p.stores[i].Health())
	}
	p.open()
	got := map[string]uint64{}
	for l, err := range p.stores[len(p.stores)-1].List(bg, dlq.Query{}) {
		if err != nil {
			p.t.Fatal(err)
		}
		if was, twice := got[l.RecordID]; twice {
			p.t.Errorf("%s is stored twice, as %d and %d", l.RecordID, was, l.ID)
		}
		got[l.RecordID] = l.ID
	}
	if diff := cmp.Diff(p.acked, got); diff != "" {
		p.t.Errorf("letters (-want +got):\n%.2000s", diff)
	}
}

func (p *takeovers) end() {
	for i, s := range p.stores {
		if err := s.Close(); err != nil {
			p.t.Errorf("close store %d: %v", i, err)
		}
	}
	if err := p.in.js.DeleteStream(bg, p.cfg.Stream); err != nil {
		p.t.Error(err)
	}
}
