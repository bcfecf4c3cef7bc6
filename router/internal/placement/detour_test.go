package placement_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/router/internal/placement"
)

const (
	ttl = 10 * time.Second
	// forgotten and most are what Detours promises: for how long a path is not taken again, and how many stages move within a TTL.
	forgotten = 6 * ttl
	most      = 8
)

// begin is when the tests of detours take place.
var begin = time.Unix(1_000_000, 0)

// able is a sidecar beside connectors for stages of these names: s is a source, t and u are transforms, k is a sink.
func able(id string, stages ...string) placement.Sidecar {
	var abilities []placement.Ability
	for _, s := range stages {
		abilities = append(abilities, placement.Ability{Kind: kindOf(s), Type: s})
	}
	return sidecar(id, "10.0.0.1", service(1, abilities...))
}

func kindOf(stage string) conveyorv1.ServiceKind {
	switch stage {
	case "s":
		return source
	case "k":
		return sink
	}
	return transform
}

// missing is a sidecar that has said for a while that it does not reach others.
func missing(s placement.Sidecar, d time.Duration, others ...string) placement.Sidecar {
	s.Misses = maps.Clone(s.Misses)
	for _, o := range others {
		if s.Misses == nil {
			s.Misses = map[string]time.Duration{}
		}
		s.Misses[o] = d
	}
	return s
}

// line is a pipeline of stages that are beside connectors of their names, one behind the other. A stage named f is built in.
func line(name string, stages ...string) placement.Pipeline {
	p := placement.Pipeline{Name: name}
	for i, s := range stages {
		st := placement.Stage{Name: s, Need: placement.Need{Kind: kindOf(s), Connector: s}}
		if s == "f" {
			st.Need = placement.Need{Kind: transform}
		}
		if i > 0 {
			st.Upstream = []string{stages[i-1]}
		}
		if i < len(stages)-1 {
			st.Downstream = []string{stages[i+1]}
		}
		p.Stages = append(p.Stages, st)
	}
	return p
}

// at are the places of the stages of p: stage, sidecar, ...
func at(stagesAndSidecars ...string) map[placement.Key]placement.Place {
	out := map[placement.Key]placement.Place{}
	for i := 0; i < len(stagesAndSidecars); i += 2 {
		place := placement.Place{Sidecar: stagesAndSidecars[i+1], Address: "127.0.0.1:1"}
		if stagesAndSidecars[i] == "f" {
			place.Address = ""
		}
		out[placement.Key{"p", stagesAndSidecars[i]}] = place
	}
	return out
}

func TestDetours_WhichStageMovesAndWhereTo(t *testing.T) {
	stk := []placement.Pipeline{line("p", "s", "t", "k")}
	stays, spares := line("p", "s", "t", "k"), line("p", "s", "k")
	stays.Stays, spares.Stages[0].Spared = true, []string{"k"}
	between := at("s", "a", "t", "b", "k", "a")
	past := func(ago time.Duration, pipeline string, around placement.Path) []placement.Detour {
		return []placement.Detour{{Change: placement.Change{Key: placement.Key{pipeline, "x"}}, Around: around, At: begin.Add(-ago)}}
	}
	for name, c := range map[string]struct {
		pipelines []placement.Pipeline
		sidecars  []placement.Sidecar
		current   map[placement.Key]placement.Place
		past      []placement.Detour
		want      map[string]string // stage to sidecar
	}{
		"a transform goes to another sidecar that can run it": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), able("b", "t"), able("c", "t")}, between, nil, map[string]string{"t": "c"},
		},
		"to a neighbour's own sidecar before others": {
			stk, []placement.Sidecar{missing(able("a", "s", "k", "t"), ttl, "b"), able("b", "t"), able("c", "t")}, between, nil, map[string]string{"t": "a"},
		},
		"whichever end says so": {
			stk, []placement.Sidecar{able("a", "s", "k"), missing(able("b", "t"), ttl, "a"), able("c", "t")}, between, nil, map[string]string{"t": "c"},
		},
		"not before a TTL has passed": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl-1, "b"), able("b", "t"), able("c", "t")}, between, nil, nil,
		},
		"not where nobody else can run it": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), able("b", "t"), able("c", "u")}, between, nil, nil,
		},
		"not to one that is missed": {
			stk, []placement.Sidecar{missing(able("a", "s"), ttl, "b"), able("b", "t", "k"), missing(able("c", "t"), 0, "b")}, at("s", "a", "t", "b", "k", "b"), nil, nil,
		},
		"not to one that is silent": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), able("b", "t"), silent(able("c", "t"))}, between, nil, nil,
		},
		"not because of what a silent sidecar said": {
			stk, []placement.Sidecar{silent(missing(able("a", "s", "k"), ttl, "b")), able("b", "t"), able("c", "t")}, between, nil, nil,
		},
		"not away from one that is silent, whose session will end": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), silent(able("b", "t")), able("c", "t")}, between, nil, nil,
		},
		"not while the pipeline drains": {
			[]placement.Pipeline{stays}, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), able("b", "t"), able("c", "t")}, between, nil, nil,
		},
		"not because of a path that no edge uses": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "c"), able("b", "t"), able("c", "t")}, between, nil, nil,
		},
		"the source stays when the transform can move": {
			stk, []placement.Sidecar{missing(able("a", "s"), ttl, "b"), able("b", "t", "k"), able("c", "s", "t", "k")}, at("s", "a", "t", "b", "k", "b"), nil, map[string]string{"t": "c"},
		},
		"the source moves when nothing else can": {
			stk, []placement.Sidecar{missing(able("a", "s"), ttl, "b"), able("b", "t", "k"), able("c", "s")}, at("s", "a", "t", "b", "k", "b"), nil, map[string]string{"s": "c"},
		},
		"the sink stays when the transform can move": {
			stk, []placement.Sidecar{missing(able("a", "s", "t"), ttl, "b"), able("b", "k"), able("c", "t", "k")}, at("s", "a", "t", "a", "k", "b"), nil, map[string]string{"t": "c"},
		},
		"the sink moves before a source does": {
			[]placement.Pipeline{line("p", "s", "k")},
			[]placement.Sidecar{missing(able("a", "s"), ttl, "b"), able("b", "k"), able("c", "s", "k")},
			at("s", "a", "k", "b"), nil,
			map[string]string{"k": "c"},
		},
		"a best-effort sink moves": {
			[]placement.Pipeline{spares},
			[]placement.Sidecar{missing(able("a", "s"), ttl, "b"), able("b", "k"), able("c", "s", "k")},
			at("s", "a", "k", "b"), nil,
			map[string]string{"k": "c"},
		},
		"nothing else moves because of a best-effort sink": {
			[]placement.Pipeline{spares},
			[]placement.Sidecar{missing(able("a", "s"), ttl, "b"), able("b", "k"), able("c", "s")},
			at("s", "a", "k", "b"), nil, nil,
		},
		"a built-in stage between two that are cut off from each other is a bridge": {
			[]placement.Pipeline{line("p", "s", "f", "k")},
			[]placement.Sidecar{missing(able("a", "s"), ttl, "b"), able("b", "k"), able("c")},
			at("s", "a", "f", "a", "k", "b"), nil,
			map[string]string{"f": "c"},
		},
		"the later one of two transforms moves": {
			[]placement.Pipeline{line("p", "s", "t", "u", "k")},
			[]placement.Sidecar{missing(able("a", "s", "t"), ttl, "b"), able("b", "u", "k"), able("c", "t", "u")},
			at("s", "a", "t", "a", "u", "b", "k", "b"), nil,
			map[string]string{"u": "c"},
		},
		"the one moves that is cut off from both sides": {
			[]placement.Pipeline{line("p", "s", "t", "u", "k")},
			[]placement.Sidecar{missing(able("a", "s", "u", "k"), ttl, "b"), able("b", "t"), able("c", "t", "u")},
			at("s", "a", "t", "b", "u", "a", "k", "a"), nil,
			map[string]string{"t": "c"},
		},
		"no source moves together with what moves cheaply": {
			[]placement.Pipeline{{Name: "p", Stages: []placement.Stage{
				{Name: "s", Need: placement.Need{Kind: source, Connector: "s"}, Downstream: []string{"t"}},
				{Name: "s2", Need: placement.Need{Kind: source, Connector: "s"}, Downstream: []string{"u"}},
				{Name: "t", Need: placement.Need{Kind: transform, Connector: "t"}, Upstream: []string{"s"}},
				{Name: "u", Need: placement.Need{Kind: transform, Connector: "u"}, Upstream: []string{"s2"}},
			}}},
			[]placement.Sidecar{missing(able("a", "s", "t"), ttl, "b"), able("b", "s", "u"), able("c", "s", "t", "u")},
			at("s", "b", "s2", "a", "t", "a", "u", "b"), nil,
			map[string]string{"u": "c"},
		},
		"all that one path cuts off moves together": {
			[]placement.Pipeline{line("p", "s", "t", "u", "k")},
			[]placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), able("b", "t", "u"), able("c", "t", "u")},
			at("s", "a", "t", "b", "u", "b", "k", "a"), nil,
			map[string]string{"t": "c", "u": "c"},
		},
		"one that many miss gives up its stages": {
			[]placement.Pipeline{line("p", "s", "t", "k")},
			[]placement.Sidecar{able("a", "s"), able("b", "t"), missing(able("c", "k"), ttl, "a"), missing(able("d"), 0, "a"), able("e", "s", "t", "k")},
			at("s", "a", "t", "c", "k", "c"), nil,
			map[string]string{"s": "e"},
		},
		"one that says it misses many moves nobody else": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b", "d"), able("b", "t"), able("c", "t"), able("d")}, between, nil, nil,
		},
		"not within a TTL after an earlier detour of the pipeline": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), able("b", "t"), able("c", "t")}, between, past(ttl-1, "p", placement.Between("x", "y")), nil,
		},
		"again a TTL after it": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), able("b", "t"), able("c", "t")}, between, past(ttl, "p", placement.Between("x", "y")), map[string]string{"t": "c"},
		},
		"not over a path that any pipeline went around a moment ago": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), able("b", "t"), able("c", "t")}, between, past(forgotten-1, "q", placement.Between("c", "a")), nil,
		},
		"over such a path after a while": {
			stk, []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), able("b", "t"), able("c", "t")}, between, past(forgotten, "q", placement.Between("c", "a")), map[string]string{"t": "c"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]string{}
			for _, d := range placement.Detours(c.pipelines, c.sidecars, c.current, c.past, ttl, begin) {
				got[d.Stage] = d.To.Sidecar
				if d.From != c.current[d.Key].Sidecar || d.At != begin || d.Missed != ttl {
					t.Errorf("it says %+v", d)
				}
			}
			if c.want == nil {
				c.want = map[string]string{}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDetours_AnAddressIsThatOfTheServiceBesideTheOtherSidecar(t *testing.T) {
	c := sidecar("c", "10.0.0.1", service(7, placement.Ability{Kind: transform, Type: "t"}))
	sidecars := []placement.Sidecar{missing(able("a", "s", "k"), ttl, "b"), able("b", "t"), c}
	got := placement.Detours([]placement.Pipeline{line("p", "s", "t", "k")}, sidecars, at("s", "a", "t", "b", "k", "a"), nil, ttl, begin)
	if len(got) != 1 || got[0].To != (placement.Place{Sidecar: "c", Address: "127.0.0.1:7"}) || got[0].Around != placement.Between("b", "a") {
		t.Errorf("got %+v", got)
	}
}

func TestPlan_WhatIsPlacedAnewGoesToWhereItsNeighboursAreReached(t *testing.T) {
	sidecars := []placement.Sidecar{missing(able("a", "s", "k"), 0, "b"), able("b", "t"), able("c", "t")}
	got := placement.Plan([]placement.Pipeline{line("p", "s", "t", "k")}, sidecars, at("s", "a", "k", "a"))
	if len(got.Changes) != 1 || got.Changes[0].To.Sidecar != "c" {
		t.Errorf("got %+v", got)
	}
}

func drawLines(t *rapid.T) []placement.Pipeline {
	shapes := [][]string{{"s", "k"}, {"s", "t", "k"}, {"s", "f", "t", "k"}, {"s", "t", "u", "k"}}
	var out []placement.Pipeline
	for i := range rapid.IntRange(1, 12).Draw(t, "pipelines") {
		p := line(fmt.Sprint("p", i), rapid.SampledFrom(shapes).Draw(t, "shape")...)
		p.Stays = rapid.IntRange(0, 9).Draw(t, "stays") == 0
		out = append(out, p)
	}
	return out
}

func drawAble(t *rapid.T, least, most int) []placement.Sidecar {
	var out []placement.Sidecar
	for i := range rapid.IntRange(least, most).Draw(t, "sidecars") {
		var stages []string
		for _, s := range []string{"s", "t", "u", "k"} {
			if rapid.IntRange(0, 2).Draw(t, "can") > 0 {
				stages = append(stages, s)
			}
		}
		out = append(out, able(fmt.Sprint("sc", i), stages...))
	}
	return out
}

// eachEdge calls do with the places of the stages at both ends of every edge.
func eachEdge(pipelines []placement.Pipeline, places map[placement.Key]placement.Place, do func(p *placement.Pipeline, up, down placement.Key, from, to string)) {
	for i := range pipelines {
		for _, s := range pipelines[i].Stages {
			for _, next := range s.Downstream {
				up, down := placement.Key{pipelines[i].Name, s.Name}, placement.Key{pipelines[i].Name, next}
				from, ok := places[up]
				to, okay := places[down]
				if ok && okay {
					do(&pipelines[i], up, down, from.Sidecar, to.Sidecar)
				}
			}
		}
	}
}

func carryOut(places map[placement.Key]placement.Place, detours []placement.Detour) map[placement.Key]placement.Place {
	out := maps.Clone(places)
	for _, d := range detours {
		out[d.Key] = d.To
	}
	return out
}

func TestDetours_Properties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pipelines, sidecars := drawLines(t), drawAble(t, 2, 6)
		places := apply(nil, placement.Plan(pipelines, sidecars, nil))
		missed := map[placement.Path]time.Duration{} // between those that are heard
		for i := range sidecars {
			sidecars[i].Silent = rapid.IntRange(0, 5).Draw(t, "silent") == 0
			for j := range sidecars {
				if d := rapid.SampledFrom([]time.Duration{-1, -1, -1, 0, ttl - 1, ttl, 2 * ttl}).Draw(t, "misses"); d >= 0 && i != j {
					sidecars[i] = missing(sidecars[i], d, sidecars[j].ID)
				}
			}
		}
		heard := map[string]bool{}
		for _, s := range sidecars {
			heard[s.ID] = !s.Silent
		}
		for _, s := range sidecars {
			for o, d := range s.Misses {
				if path := placement.Between(s.ID, o); heard[s.ID] && heard[o] {
					missed[path] = max(missed[path], d)
				}
			}
		}
		detours := placement.Detours(pipelines, sidecars, places, nil, ttl, begin)
		shuffled := rapid.Permutation(sidecars).Draw(t, "shuffled")
		if diff := cmp.Diff(detours, placement.Detours(pipelines, shuffled, places, nil, ttl, begin)); diff != "" {
			t.Fatalf("two plans of the same: %s", diff)
		}
		if len(detours) > most {
			t.Fatalf("%d stages move at once", len(detours))
		}
		first := map[string]placement.Detour{}
		for _, d := range detours {
			was, ok := first[d.Pipeline]
			if !ok {
				first[d.Pipeline] = d
			} else if was.From != d.From || was.Around != d.Around {
				t.Fatalf("%+v and %+v at once", was, d)
			}
			if places[d.Key].Sidecar != d.From || d.To.Sidecar == d.From || !heard[d.To.Sidecar] || !heard[d.From] {
				t.Fatalf("%+v is no move between sidecars that are heard", d)
			}
		}
		after := carryOut(places, detours)
		why := map[placement.Key]bool{}
		eachEdge(pipelines, places, func(p *placement.Pipeline, up, down placement.Key, from, to string) {
			if path := placement.Between(from, to); missed[path] >= ttl && from != to && !p.Stays {
				why[up], why[down] = true, true
			}
		})
		moved := map[placement.Key]bool{}
		for _, d := range detours {
			if moved[d.Key] = true; !why[d.Key] {
				t.Fatalf("%+v though all its neighbours are reached, or have not been missed for long", d)
			}
		}
		eachEdge(pipelines, after, func(_ *placement.Pipeline, up, down placement.Key, from, to string) {
			if _, is := missed[placement.Between(from, to)]; is && (moved[up] || moved[down]) {
				t.Fatalf("%v on %s and %v on %s, of which one has just moved, do not reach each other", up, from, down, to)
			}
		})
		// A plan sees nothing to do where detours lead.
		for _, c := range placement.Plan(pipelines, sidecars, after).Changes {
			if _, placed := after[c.Key]; placed {
				t.Fatalf("%+v though it runs", c)
			}
		}
	})
}

// world is a fleet over time, of which routers know what they are told.
type world struct {
	t         rapid.TB
	pipelines []placement.Pipeline
	sidecars  []placement.Sidecar
	places    map[placement.Key]placement.Place
	now       time.Time
	told      map[string]map[string]time.Time // who misses whom since when
	past      []placement.Detour              // as a leader keeps it
	all       []placement.Detour
}

func newWorld(t *rapid.T, least int) *world {
	w := &world{t: t, pipelines: drawLines(t), sidecars: drawAble(t, least, 6), now: begin, told: map[string]map[string]time.Time{}}
	w.places = apply(nil, placement.Plan(w.pipelines, w.sidecars, nil))
	return w
}

// step lets time pass, hears from every sidecar whom it misses, and carries out the detours.
func (w *world) step(d time.Duration, misses func(from string) []string) []placement.Detour {
	w.now = w.now.Add(d)
	sidecars := slices.Clone(w.sidecars)
	for i, s := range sidecars {
		told := map[string]time.Time{}
		for _, other := range misses(s.ID) {
			told[other] = w.now
			if since, ok := w.told[s.ID][other]; ok {
				told[other] = since
			}
			sidecars[i] = missing(sidecars[i], w.now.Sub(told[other]), other)
		}
		w.told[s.ID] = told
	}
	detours := placement.Detours(w.pipelines, sidecars, w.places, w.past, ttl, w.now)
	w.past = placement.Recent(append(w.past, detours...), ttl, w.now)
	w.places = carryOut(w.places, detours)
	w.all = append(w.all, detours...)
	w.judge(detours)
	return detours
}

// judge holds new detours against all that were made before.
func (w *world) judge(detours []placement.Detour) {
	w.t.Helper()
	recently := 0
	for _, was := range w.all {
		age := w.now.Sub(was.At)
		if age < ttl {
			recently++
		}
		for _, d := range detours {
			if was.Pipeline == d.Pipeline && age < ttl && (was.From != d.From || was.Around != d.Around || was.At != d.At) {
				w.t.Fatalf("%+v and then %+v", was, d)
			}
			// Those that are made at once do not know of each other's paths.
			if was.At.Before(d.At) && age < forgotten {
				for _, p := range w.pipelines {
					for _, s := range p.Stages {
						for _, next := range slices.Concat(s.Upstream, s.Downstream) {
							other := w.places[placement.Key{p.Name, next}].Sidecar
							if p.Name == d.Pipeline && s.Name == d.Stage && placement.Between(other, d.To.Sidecar) == was.Around {
								w.t.Fatalf("%+v leads back over the path of %+v", d, was)
							}
						}
					}
				}
			}
		}
	}
	if recently > most {
		w.t.Fatalf("%d stages moved within a TTL", recently)
	}
}

// cutOff are those that a sidecar has records for and does not reach.
func (w *world) cutOff(from string, cuts map[placement.Path]bool) []string {
	out := map[string]bool{}
	eachEdge(w.pipelines, w.places, func(_ *placement.Pipeline, _, _ placement.Key, a, b string) {
		if a == from && a != b && cuts[placement.Between(a, b)] {
			out[b] = true
		}
	})
	return slices.Sorted(maps.Keys(out))
}

// path draws one between two of the sidecars.
func (w *world) path(t *rapid.T) placement.Path {
	i := rapid.IntRange(0, len(w.sidecars)-1).Draw(t, "one end")
	j := rapid.IntRange(1, len(w.sidecars)-1).Draw(t, "the other end")
	return placement.Between(w.sidecars[i].ID, w.sidecars[(i+j)%len(w.sidecars)].ID)
}

func TestDetours_PathsThatComeAndGoMoveNothingBackAndForth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, 2)
		cuts := map[placement.Path]bool{}
		for range 200 {
			if rapid.IntRange(0, 3).Draw(t, "changes") == 0 {
				if path := w.path(t); cuts[path] {
					delete(cuts, path)
				} else {
					cuts[path] = true
				}
			}
			w.step(ttl/4, func(from string) []string { return w.cutOff(from, cuts) })
		}
	})
}

func TestDetours_CutsThatAreShorterThanATTLMoveNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, 2)
		cuts := map[placement.Path]bool{}
		for i := range 100 {
			clear(cuts)
			for range rapid.IntRange(0, 4).Draw(t, "cuts") {
				cuts[w.path(t)] = i%4 > 0 // each fourth time all is well
			}
			if got := w.step(ttl/4, func(from string) []string { return w.cutOff(from, cuts) }); len(got) > 0 {
				t.Fatalf("moved %+v", got)
			}
		}
	})
}

func TestDetours_OneThatSaysAnythingMovesOnlyItsNeighbours(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, 3)
		const liar = "sc0"
		for range 100 {
			before := w.places
			var says []string
			for _, s := range w.sidecars {
				// It sticks to what it says for long enough to be believed.
				_, said := w.told[liar][s.ID]
				if n := rapid.IntRange(0, 9).Draw(t, "says"); said && n > 0 || n > 7 {
					says = append(says, s.ID)
				}
			}
			detours := w.step(ttl/4, func(from string) []string {
				if from == liar {
					return says
				}
				return nil
			})
			near := map[placement.Key]bool{}
			eachEdge(w.pipelines, before, func(_ *placement.Pipeline, up, down placement.Key, from, to string) {
				if from == liar || to == liar {
					near[up], near[down] = true, true
				}
			})
			for _, d := range detours {
				if !near[d.Key] {
					t.Fatalf("%+v, which is no neighbour of %s", d, liar)
				}
			}
		}
	})
}

func TestDetours_WhoeverCanRunAStageGetsItOnceAndKeepsItWhenThePathIsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "pipelines")
		w, cuts := cutFromLeft(t, n)
		for range rapid.IntRange(12, 40).Draw(t, "steps of the cut") {
			w.step(ttl/4, func(from string) []string { return w.cutOff(from, cuts) })
		}
		if len(w.all) != n {
			t.Fatalf("%d moves in %d pipelines", len(w.all), n)
		}
		clear(cuts)
		for range 100 {
			w.step(ttl/4, func(from string) []string { return w.cutOff(from, cuts) })
		}
		for k, at := range w.places {
			if k.Stage == "t" && at.Sidecar != "right" {
				t.Fatalf("%v is on %s", k, at.Sidecar)
			}
		}
		if len(w.all) != n {
			t.Fatalf("%d moves in %d pipelines, and the path is back", len(w.all), n)
		}
	})
}

// cutFromLeft is a world of so many pipelines whose transforms run on "left", and could run on "right", of which "ends" does not reach the first.
func cutFromLeft(t rapid.TB, n int) (*world, map[placement.Path]bool) {
	w := &world{t: t, now: begin, told: map[string]map[string]time.Time{}, places: map[placement.Key]placement.Place{}}
	w.sidecars = []placement.Sidecar{able("ends", "s", "k"), able("left", "t"), able("right", "t")}
	for i := range n {
		p := line(fmt.Sprint("p", i), "s", "t", "k")
		w.pipelines = append(w.pipelines, p)
		for stage, on := range map[string]string{"s": "ends", "t": "left", "k": "ends"} {
			w.places[placement.Key{p.Name, stage}] = placement.Place{Sidecar: on, Address: "127.0.0.1:1"}
		}
	}
	return w, map[placement.Path]bool{placement.Between("ends", "left"): true}
}

func TestDetours_ManyAtOnceAreSpreadOverTime(t *testing.T) {
	w, cuts := cutFromLeft(t, 3*most)
	var moved []int
	for range 16 {
		moved = append(moved, len(w.step(ttl/4, func(from string) []string { return w.cutOff(from, cuts) })))
	}
	if want := []int{0, 0, 0, 0, most, 0, 0, 0, most, 0, 0, 0, most, 0, 0, 0}; !slices.Equal(moved, want) {
		t.Errorf("moved %v, want %v", moved, want)
	}
}

func TestDetours_APipelineThatHasMovedOftenComesLast(t *testing.T) {
	w, cuts := cutFromLeft(t, most+1)
	for i := range 3 {
		w.past = append(w.past, placement.Detour{
			Change: placement.Change{Key: placement.Key{"p0", "t"}}, Around: placement.Between("x", "y"), At: begin.Add(-time.Duration(i+1) * ttl),
		})
	}
	for len(w.all) == 0 && w.now.Before(begin.Add(2*ttl)) {
		w.step(ttl/4, func(from string) []string { return w.cutOff(from, cuts) })
	}
	if len(w.all) != most || slices.ContainsFunc(w.all, func(d placement.Detour) bool { return d.Pipeline == "p0" }) {
		t.Errorf("moved %+v", w.all)
	}
}
