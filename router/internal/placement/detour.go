package placement

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

const (
	// maxDetours are made within a TTL, in all pipelines together: when a network has broken into parts, or reports are wrong, to move all stages would be the larger harm.
	maxDetours = 8
	// remembered is for how many TTLs no detour leads over a path that an earlier one was made around. Nobody uses that path meanwhile, so nobody says whether it is back.
	remembered = 6
)

// Path is between two sidecars, of which A has the lesser id.
type Path struct{ A, B string }

// Between returns the path between two sidecars.
func Between(a, b string) Path { return Path{min(a, b), max(a, b)} }

// String names both ends.
func (p Path) String() string { return fmt.Sprintf("%s and %s", p.A, p.B) }

// Detour is a move of a stage that runs, since it and a neighbour do not reach each other.
type Detour struct {
	Change
	// From is the sidecar that it leaves.
	From string
	// Around is the path that was missed, for as long as Missed.
	Around Path
	Missed time.Duration
	// At is when it was planned.
	At time.Time
}

// Recent returns those of earlier detours, in their order, that Detours still asks for.
func Recent(past []Detour, ttl time.Duration, now time.Time) []Detour {
	return slices.DeleteFunc(past, func(d Detour) bool { return now.Sub(d.At) >= remembered*ttl })
}

// Detours moves stages that run and do not reach a neighbour, although both sidecars are heard: when one of the two has said for a whole TTL, each time, that it does
// not reach the other one, a stage of that edge goes to a sidecar which neither misses a neighbour of the stage nor is missed by one. Where there is none, nothing moves.
//
// Of the two stages that one moves which can. When both can, a source stays, since its lanes would be read again from their checkpoints, and then a sink, since the
// sidecar that it leaves may still be writing; then the one moves that is rid of more missed paths, then the later one. But a sidecar that many others miss, or that
// says so of many, is taken for what is broken: its stages may move, and those at the other ends stay.
//
// What sidecars say may be wrong, and may change all the time. So what moves in a pipeline within a TTL leaves one sidecar because of one path; no stage goes to where it
// would use a path that a detour was made around within the last six TTLs; and eight stages at most move within a TTL, those first whose pipeline has moved least.
// past are the detours that were made before. It is a pure function, like Plan.
func Detours(pipelines []Pipeline, sidecars []Sidecar, current map[Key]Place, past []Detour, ttl time.Duration, now time.Time) []Detour {
	if !slices.ContainsFunc(sidecars, func(s Sidecar) bool { return len(s.Misses) > 0 }) {
		return nil
	}
	p := &detourer{planner: newPlanner(pipelines, sidecars, current), ttl: ttl, around: map[Path]bool{}}
	p.broken = p.suspects()
	left, just, often := maxDetours, map[string]bool{}, map[string]int{}
	for _, d := range past {
		switch age := now.Sub(d.At); {
		case age < ttl:
			left--
			just[d.Pipeline] = true
			fallthrough
		case age < remembered*ttl:
			often[d.Pipeline]++
			p.around[d.Around] = true
		}
	}
	order := make([]*Pipeline, 0, len(pipelines))
	for i := range pipelines {
		if !pipelines[i].Stays && !just[pipelines[i].Name] {
			order = append(order, &pipelines[i])
		}
	}
	slices.SortStableFunc(order, func(a, b *Pipeline) int { return cmp.Compare(often[a.Name], often[b.Name]) })
	var out []Detour
	for _, pl := range order {
		// Stages that one path cuts off move together: a record may have to go over it more than once.
		for first := (*Detour)(nil); left > 0; left-- {
			d := p.detour(pl, first)
			if d == nil {
				break
			}
			d.At = now
			p.set(d.Key, d.To)
			out = append(out, *d)
			first = d
		}
	}
	return out
}

type detourer struct {
	*planner
	ttl    time.Duration
	around map[Path]bool   // those that past detours were made around
	broken map[string]bool // sidecars that miss many, or are missed by many
}

// missed are the paths between sidecars that are heard of which one end says that it does not reach the other one. Who is silent may be gone, which is another matter.
func missed(sidecars map[string]*Sidecar) map[Path]time.Duration {
	out := map[Path]time.Duration{}
	for id, s := range sidecars {
		for other, d := range s.Misses {
			if o := sidecars[other]; o != nil && other != id && !s.Silent && !o.Silent {
				out[Between(id, other)] = max(out[Between(id, other)], d)
			}
		}
	}
	return out
}

// misses counts the neighbours of a stage that a sidecar misses, or that miss it.
func (p *planner) misses(pipeline, sidecar string, s *Stage) int {
	n := 0
	for _, names := range [][]string{s.Upstream, s.Downstream} {
		for _, name := range names {
			at, ok := p.places[Key{pipeline, name}]
			if _, is := p.missed[Between(at.Sidecar, sidecar)]; ok && is {
				n++
			}
		}
	}
	return n
}

// suspects are the sidecars at the ends of missed paths to several others, and to more than half of all that have such a path.
func (p *planner) suspects() map[string]bool {
	others := map[string]int{}
	for path := range p.missed {
		others[path.A]++
		others[path.B]++
	}
	out := map[string]bool{}
	for id, n := range others {
		out[id] = n > 1 && 2*n >= len(others) // itself is one of them
	}
	return out
}

// detour returns the best move of a stage in a pipeline, or nil; after a first one, only a further one off the same path and sidecar, and of no source: the other end may be
// the one to move.
func (p *detourer) detour(pl *Pipeline, first *Detour) *Detour {
	var best *Detour
	var bestCost [4]int
	for i := range pl.Stages {
		s := &pl.Stages[i]
		k := Key{pl.Name, s.Name}
		at, ok := p.places[k]
		isSource := s.Need.Kind == conveyorv1.ServiceKind_SERVICE_KIND_SOURCE
		if !ok || first != nil && (isSource || at.Sidecar != first.From) {
			continue
		}
		around, far := p.cut(k, s, at, first)
		if !far {
			continue
		}
		home := p.home(k, s, at)
		if home == nil {
			continue
		}
		cost := [4]int{0, 0, -p.misses(k.Pipeline, at.Sidecar, s), -i}
		if isSource {
			cost[0] = 1
		}
		if s.Need.Kind == conveyorv1.ServiceKind_SERVICE_KIND_SINK {
			cost[1] = 1
		}
		if best == nil || slices.Compare(cost[:], bestCost[:]) < 0 {
			best, bestCost = &Detour{Change: Change{Key: k, To: *home}, From: at.Sidecar, Around: around, Missed: p.missed[around]}, cost
		}
	}
	return best
}

// cut returns the path to a neighbour that has been missed for the longest, if that is long enough to move the stage because of it.
func (p *detourer) cut(k Key, s *Stage, at Place, first *Detour) (around Path, far bool) {
	for _, names := range [][]string{s.Upstream, s.Downstream} {
		for _, name := range names {
			next, ok := p.places[Key{k.Pipeline, name}]
			path := Between(at.Sidecar, next.Sidecar)
			since, is := p.missed[path]
			switch {
			case !ok || !is || since < p.ttl || slices.Contains(s.Spared, name):
			case p.broken[next.Sidecar] && !p.broken[at.Sidecar]: // it is the other one's to move
			case first != nil && path != first.Around:
			case !far || since > p.missed[around]:
				around, far = path, true
			}
		}
	}
	return around, far
}

// home returns the best place for a stage from which it reaches all its neighbours, or nil.
func (p *detourer) home(k Key, s *Stage, at Place) *Place {
	h := p.homes(s)
	if h.none != "" {
		return nil
	}
	best := p.best(k, s, func(c *Sidecar) bool { return c.ID != at.Sidecar && !c.Silent && h.fits(c) && p.reaches(k, s, c) })
	if best == nil {
		return nil
	}
	to := h.on(best)
	return &to
}

// reaches reports whether nothing is known against the paths between a sidecar and the neighbours of a stage.
func (p *detourer) reaches(k Key, s *Stage, c *Sidecar) bool {
	return p.misses(k.Pipeline, c.ID, s) == 0 && !slices.ContainsFunc(slices.Concat(s.Upstream, s.Downstream), func(name string) bool {
		return p.around[Between(c.ID, p.places[Key{k.Pipeline, name}].Sidecar)]
	})
}
