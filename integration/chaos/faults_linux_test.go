package chaos_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/cluster"
	"github.com/conveyor-etl/conveyor/integration/disk"
)

// kind is one way in which something goes wrong at ONE of three routers; the NEXT and the THIRD are the others.
type kind struct {
	// counted is what a run counts it as, and said what is told of it.
	counted, said string
	// begin makes it, and what it returns ends it.
	begin func(s *storm, one, next, third *cluster.Host) (end func())
}

// kinds are all that there are.
var kinds = []kind{
	{"router killed", "kill ONE", func(_ *storm, one, _, _ *cluster.Host) func() {
		one.Kill()
		return one.Start
	}},
	{"router paused", "pause ONE", func(_ *storm, one, _, _ *cluster.Host) func() {
		one.Pause()
		return one.Resume
	}},
	{"path cut", "unplug ONE", func(_ *storm, one, _, _ *cluster.Host) func() {
		one.Unplug()
		return one.Plug
	}},
	{"path cut", "cut ONE from NEXT, both reach THIRD", func(s *storm, one, next, _ *cluster.Host) func() {
		s.net.CutBoth(one.Host, next.Host)
		return s.net.Heal
	}},
	{"path cut", "ONE sends, and hears no other", func(s *storm, one, next, third *cluster.Host) func() {
		s.net.Cut(next.Host, one.Host)
		s.net.Cut(third.Host, one.Host)
		return s.net.Heal
	}},
	{"path cut", "lose what ONE sends to NEXT", func(s *storm, one, next, _ *cluster.Host) func() {
		s.net.Cut(one.Host, next.Host)
		return s.net.Heal
	}},
	{"path cut", "ONE is alone, but for its clients", func(s *storm, one, next, third *cluster.Host) func() {
		s.net.CutBoth(one.Host, next.Host)
		s.net.CutBoth(one.Host, third.Host)
		return s.net.Heal
	}},
	{"power lost", "cut the power of ONE", func(s *storm, one, _, _ *cluster.Host) func() { return s.powerLoss(one) }},
	{"power lost everywhere", "cut the power of ONE, NEXT and THIRD", func(s *storm, one, next, third *cluster.Host) func() {
		return s.powerLoss(one, next, third)
	}},
	{"disk full", "fill the disk of ONE", func(s *storm, one, _, _ *cluster.Host) func() {
		s.diskOf(one).Fill()
		return func() {
			s.diskOf(one).Free()
			s.back(one) // it may have ended for want of room
		}
	}},
	{"disk slow", "slow down the disk of ONE", func(s *storm, one, _, _ *cluster.Host) func() {
		return disk.Inject(s.t, one.Process, s.logOf(one), disk.Slow)
	}},
	{"disk fails", "the disk of ONE fails", func(s *storm, one, _, _ *cluster.Host) func() { return s.broken(one, disk.Fails) }},
	{"disk hangs", "the disk of ONE hangs", func(s *storm, one, _, _ *cluster.Host) func() { return s.broken(one, disk.Hangs) }},
}

// A fault lasts for so many milliseconds: the others elect a leader in 1500 to 2500, so some faults end while they do, and most after that.
const lastsAtLeast, lastsAtMost = 1500, 3500

// fault is one as it was drawn.
type fault struct {
	kind kind
	// leader is whether it hits the router that leads when it begins, and number which one otherwise.
	leader bool
	number int
	lasts  time.Duration
}

// say tells which routers it is about.
func (f fault) say(one, next, third *cluster.Host) string {
	return strings.NewReplacer("ONE", one.Name(), "NEXT", next.Name(), "THIRD", third.Name()).Replace(f.kind.said)
}

// faults are drawn one after the other. All draws for one are made before it begins, so that a seed makes one sequence of them whatever the cluster does.
type faults struct {
	random *rand.Rand
	deck   *chaos.Deck[kind]
}

func newFaults(seed uint64) *faults {
	random := chaos.Generator(seed, "faults")
	return &faults{random: random, deck: chaos.NewDeck(random, kinds...)}
}

func (f *faults) next() fault {
	return fault{
		kind: f.deck.Deal(), leader: f.random.IntN(2) == 0, number: f.random.IntN(founders),
		lasts: time.Duration(lastsAtLeast+f.random.IntN(lastsAtMost-lastsAtLeast)) * time.Millisecond,
	}
}

// missing are the kinds that were never drawn.
func (f *faults) missing() (said []string) {
	for _, k := range f.deck.Left() {
		said = append(said, k.said)
	}
	return said
}

func TestFaults_ASeedMakesOneSequenceOfThemWithEveryKindInEachRound(t *testing.T) {
	type drawn struct {
		Said   string
		Leader bool
		Number int
		Lasts  time.Duration
	}
	draw := func(seed uint64) (out []drawn) {
		f := newFaults(seed)
		for range 3 * len(kinds) {
			n := f.next()
			out = append(out, drawn{n.kind.said, n.leader, n.number, n.lasts})
		}
		return out
	}
	one := draw(7)
	if diff := cmp.Diff(one, draw(7)); diff != "" {
		t.Errorf("one seed makes two sequences: %s", diff)
	}
	if cmp.Equal(one, draw(8)) {
		t.Error("two seeds make one sequence")
	}
	for round := range slices.Chunk(one, len(kinds)) {
		for _, k := range kinds {
			if !slices.ContainsFunc(round, func(d drawn) bool { return d.Said == k.said }) {
				t.Errorf("a round is without %q: %v", k.said, round)
			}
		}
	}
}
