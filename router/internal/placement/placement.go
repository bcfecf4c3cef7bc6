// Package placement decides which sidecar runs which stage.
package placement

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// Pipeline is what is to be placed.
type Pipeline struct {
	// Name is namespace/name.
	Name string
	// Stages in topological order; those that have completed are left out.
	Stages []Stage
	// Stays: what runs of it makes no detour, as it drains or is held open for letters.
	Stays bool
}

// Stage is one node with what it needs.
type Stage struct {
	Name string
	Need Need
	// Upstream and Downstream are the names of its neighbours.
	Upstream, Downstream []string
	// Spared are those of Downstream that get what they can take: this stage does not wait for them, so it makes no detour because of them.
	Spared []string
}

// Need is what a stage needs beside it: an Endpoint, a Connector, or, when both are empty, nothing.
type Need struct {
	Kind conveyorv1.ServiceKind
	// Endpoint is where the user's service listens; nil for other stages.
	Endpoint *Endpoint
	// Connector is the type of a ready-made service.
	Connector string
}

func (n Need) builtIn() bool { return n.Endpoint == nil && n.Connector == "" }

// Endpoint is an address of a manifest.
type Endpoint struct {
	// Address as it is written: host:port.
	Address string
	Port    uint32
	// Loopback: the host is a name or an address of whoever dials.
	Loopback bool
	// Resolved addresses of the host; empty when it is unknown.
	Resolved []netip.Addr
}

// Sidecar is a live session.
type Sidecar struct {
	ID string
	// Silent: it may be gone. It keeps what it has, and gets nothing more where another one can have it: sidecars that are lost together are missed one after the other.
	Silent bool
	// Misses are the sidecars that this one says it does not reach, and for how long it has said so without a break.
	Misses map[string]time.Duration
	// Addresses of its host.
	Addresses []netip.Addr
	Services  []Service
}

// Service is something that a sidecar has found beside it.
type Service struct {
	// Address that the sidecar dials.
	Address   string
	Port      uint32
	Abilities []Ability
}

// Ability is one thing that a service does.
type Ability struct {
	Kind conveyorv1.ServiceKind
	Type string
}

// Key names a stage.
type Key struct{ Pipeline, Stage string }

// Place is where a stage runs.
type Place struct {
	Sidecar string
	// Address of the service that the sidecar dials; empty for a built-in stage.
	Address string
	// Gateway: the service is not beside the sidecar.
	Gateway bool
	// Idle is given by the caller for stages that are placed: the stage is not open, so that moving it disturbs nobody.
	Idle bool
}

// Change moves a stage, or places it for the first time.
type Change struct {
	Key
	To Place
}

// Result of Plan.
type Result struct {
	// Changes in the order of pipelines and stages.
	Changes []Change
	// Unplaced says, for each stage that has no place, why.
	Unplaced map[Key]string
}

// Plan places every stage that can be placed. A stage that runs stays where it is; one that is idle moves only to where its service is. Among equal places it
// takes the one that misses the fewest neighbours, then that which runs the most of them, then the most stages of the pipeline, then the fewest stages at all.
// It is a pure function: equal arguments give equal results, and a plan that is carried out needs no further change.
func Plan(pipelines []Pipeline, sidecars []Sidecar, current map[Key]Place) Result {
	p := newPlanner(pipelines, sidecars, current)
	each := func(do func(Key, *Stage)) { eachStage(pipelines, do) }
	each(p.review)
	// What has the least choice is placed first, so that the others can join it.
	each(func(k Key, s *Stage) { p.place(k, s, !s.Need.builtIn() && p.served(s)) })
	each(func(k Key, s *Stage) { p.place(k, s, !s.Need.builtIn()) })
	each(func(k Key, s *Stage) { p.place(k, s, s.Need.builtIn()) })
	r := Result{Unplaced: p.unplaced}
	each(func(k Key, _ *Stage) {
		if p.moved[k] {
			r.Changes = append(r.Changes, Change{Key: k, To: p.places[k]})
		}
	})
	return r
}

type planner struct {
	sidecars []Sidecar
	byID     map[string]*Sidecar
	load     map[string]int
	places   map[Key]Place
	moved    map[Key]bool
	unplaced map[Key]string
	names    map[string][]string // of the stages of each pipeline
	missed   map[Path]time.Duration
}

func newPlanner(pipelines []Pipeline, sidecars []Sidecar, current map[Key]Place) *planner {
	p := &planner{
		byID: map[string]*Sidecar{}, load: map[string]int{}, places: map[Key]Place{}, moved: map[Key]bool{}, unplaced: map[Key]string{}, names: map[string][]string{},
	}
	p.sidecars = slices.Clone(sidecars)
	slices.SortFunc(p.sidecars, func(a, b Sidecar) int { return cmp.Compare(a.ID, b.ID) })
	for i := range p.sidecars {
		p.byID[p.sidecars[i].ID] = &p.sidecars[i]
	}
	p.missed = missed(p.byID)
	eachStage(pipelines, func(k Key, _ *Stage) {
		p.names[k.Pipeline] = append(p.names[k.Pipeline], k.Stage)
		if at, ok := current[k]; ok && p.byID[at.Sidecar] != nil {
			p.set(k, at)
		}
	})
	return p
}

func eachStage(pipelines []Pipeline, do func(Key, *Stage)) {
	for i := range pipelines {
		for j := range pipelines[i].Stages {
			do(Key{pipelines[i].Name, pipelines[i].Stages[j].Name}, &pipelines[i].Stages[j])
		}
	}
}

func (p *planner) set(k Key, at Place) {
	if old, ok := p.places[k]; ok {
		p.load[old.Sidecar]--
	}
	p.places[k] = at
	p.load[at.Sidecar]++
}

// review moves an idle stage whose service is elsewhere.
func (p *planner) review(k Key, s *Stage) {
	at, ok := p.places[k]
	if !ok || !at.Idle || s.Need.builtIn() {
		return
	}
	addresses := p.byID[at.Sidecar].offers(s.Need)
	if slices.Contains(addresses, at.Address) || (len(addresses) > 0 && at.Gateway) || !p.served(s) {
		return
	}
	p.load[at.Sidecar]--
	delete(p.places, k)
	best := p.best(k, s, func(c *Sidecar) bool { return len(c.offers(s.Need)) > 0 })
	p.load[at.Sidecar]++
	p.places[k] = at
	p.move(k, Place{Sidecar: best.ID, Address: best.offers(s.Need)[0]})
}

func (p *planner) move(k Key, to Place) {
	p.set(k, to)
	p.moved[k] = true
}

// served reports whether some sidecar has what the stage needs beside it.
func (p *planner) served(s *Stage) bool {
	return slices.ContainsFunc(p.sidecars, func(c Sidecar) bool { return len(c.offers(s.Need)) > 0 })
}

func (p *planner) place(k Key, s *Stage, now bool) {
	if _, ok := p.places[k]; ok || !now {
		return
	}
	h := p.homes(s)
	if h.none != "" {
		p.unplaced[k] = h.none
		return
	}
	p.move(k, h.on(p.best(k, s, h.fits)))
}

// homes are where a stage can run.
type homes struct {
	// none says why there is no sidecar, or is empty.
	none string
	fits func(*Sidecar) bool
	on   func(*Sidecar) Place
}

func (p *planner) homes(s *Stage) homes {
	n := s.Need
	switch {
	case len(p.sidecars) == 0:
		return homes{none: "no sidecar is connected: start conveyor-sidecar"}
	case n.builtIn():
		return homes{fits: anySidecar, on: func(c *Sidecar) Place { return Place{Sidecar: c.ID} }}
	case p.served(s):
		return homes{
			fits: func(c *Sidecar) bool { return len(c.offers(n)) > 0 },
			on:   func(c *Sidecar) Place { return Place{Sidecar: c.ID, Address: c.offers(n)[0]} },
		}
	case n.Connector != "":
		return homes{none: fmt.Sprintf("no connector of type %s found that is a %s: start conveyor-connect", n.Connector, KindName(n.Kind))}
	case n.Endpoint.Loopback && !p.oneHost():
		return homes{none: fmt.Sprintf("no sidecar has a service on port %d of kind %s", n.Endpoint.Port, KindName(n.Kind))}
	}
	own := func(c *Sidecar) bool { return c.isHost(n.Endpoint) }
	if !slices.ContainsFunc(p.sidecars, func(c Sidecar) bool { return own(&c) }) {
		own = anySidecar
	}
	return homes{fits: own, on: func(c *Sidecar) Place { return Place{Sidecar: c.ID, Address: n.Endpoint.Address, Gateway: true} }}
}

func anySidecar(*Sidecar) bool { return true }

// oneHost reports whether loopback means the same to all sidecars, so that any of them can dial it.
func (p *planner) oneHost() bool {
	first := sorted(p.sidecars[0].Addresses)
	return !slices.ContainsFunc(p.sidecars, func(c Sidecar) bool { return !slices.Equal(sorted(c.Addresses), first) })
}

func sorted(addrs []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
}

// best returns the best sidecar of those that fit, or nil when there is none.
func (p *planner) best(k Key, s *Stage, fits func(*Sidecar) bool) *Sidecar {
	var best *Sidecar
	var bestScore [6]int
	for i := range p.sidecars {
		c := &p.sidecars[i]
		if !fits(c) {
			continue
		}
		up, down := p.neighbours(k.Pipeline, c.ID, s.Upstream), p.neighbours(k.Pipeline, c.ID, s.Downstream)
		same := p.stages(k.Pipeline, c.ID)
		heard := 1
		if c.Silent {
			heard = 0
		}
		away := p.misses(k.Pipeline, c.ID, s)
		score := [6]int{heard, -away, up + down, 0, same, -p.load[c.ID]}
		if s.Need.builtIn() {
			// Its input is the larger side more often than not.
			score = [6]int{heard, -away, up, down, same, -p.load[c.ID]}
		}
		if best == nil || slices.Compare(score[:], bestScore[:]) > 0 {
			best, bestScore = c, score
		}
	}
	return best
}

func (p *planner) neighbours(pipeline, sidecar string, names []string) int {
	n := 0
	for _, name := range names {
		if at, ok := p.places[Key{pipeline, name}]; ok && at.Sidecar == sidecar {
			n++
		}
	}
	return n
}

// stages counts those of a pipeline on a sidecar: what lies between them can join them.
func (p *planner) stages(pipeline, sidecar string) int {
	n := 0
	for _, s := range p.names[pipeline] {
		if at, ok := p.places[Key{pipeline, s}]; ok && at.Sidecar == sidecar {
			n++
		}
	}
	return n
}

// offers returns the addresses at which the sidecar has what is needed, in order.
func (c *Sidecar) offers(n Need) []string {
	if n.builtIn() || (n.Endpoint != nil && !n.Endpoint.Loopback && !c.isHost(n.Endpoint)) {
		return nil
	}
	var out []string
	for _, s := range c.Services {
		if n.Endpoint != nil && s.Port != n.Endpoint.Port {
			continue
		}
		if slices.ContainsFunc(s.Abilities, func(a Ability) bool { return a.Kind == n.Kind && (n.Connector == "" || a.Type == n.Connector) }) {
			out = append(out, s.Address)
		}
	}
	slices.Sort(out)
	return out
}

func (c *Sidecar) isHost(e *Endpoint) bool {
	return slices.ContainsFunc(e.Resolved, func(a netip.Addr) bool {
		return slices.ContainsFunc(c.Addresses, func(b netip.Addr) bool { return a.Unmap() == b.Unmap() })
	})
}

// KindName is the word for a kind: source, transform or sink.
func KindName(k conveyorv1.ServiceKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "SERVICE_KIND_"))
}
