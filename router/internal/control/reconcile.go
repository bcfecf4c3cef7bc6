package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router/internal/placement"
	"github.com/conveyor-etl/conveyor/router/internal/session"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
	"github.com/conveyor-etl/conveyor/router/internal/topology"
)

// maxChanges bounds one command; what is left follows in the next.
const maxChanges = 500

// reconcile compares what is asked for with what runs, and proposes the next steps. Every step fits the state that it was made for or is refused, so a step that
// comes too late does no harm.
func (c *Controller) reconcile(ctx context.Context) error {
	view := c.machine.View()
	c.housekeep(view)
	errs := []error{c.endIdleClients(ctx, c.machine)}
	for _, key := range slices.SortedFunc(maps.Keys(view.Resources), state.CompareResources) {
		if key.Kind != dsl.KindPipeline {
			continue
		}
		if cmd := c.step(view, key); cmd != nil {
			errs = append(errs, c.try(ctx, cmd))
		}
	}
	for _, name := range c.overdue(view) {
		p := view.Pipelines[name]
		c.cfg.Logger.Warn("pipeline did not finish draining in time: it is cut off, and what was not checkpointed will be read again", "pipeline", name)
		errs = append(errs, c.try(ctx, &statepb.Command{Kind: &statepb.Command_CutPipeline{
			CutPipeline: &statepb.CutPipeline{Pipeline: name, Generation: p.GetGeneration()},
		}}))
	}
	for _, cmd := range c.releases(view) {
		errs = append(errs, c.try(ctx, cmd))
	}
	// The steps above have changed the state.
	view = c.machine.View()
	// A generation drains again only after it was placed again.
	c.forgetDrains(view)
	errs = append(errs, c.place(ctx, view))
	return errors.Join(errs...)
}

// try proposes a step; a refusal only says that the state has moved on.
func (c *Controller) try(ctx context.Context, cmd *statepb.Command) error {
	_, err := c.Propose(ctx, cmd)
	if rejection := (*state.RejectedError)(nil); errors.As(err, &rejection) {
		return nil
	}
	return err
}

// reportBack says when ends of sessions are held back, and when that is over.
func (c *Controller) reportBack(sidecars []string) {
	c.mu.Lock()
	was := c.back
	c.back = len(sidecars)
	c.mu.Unlock()
	switch {
	case len(sidecars) > 0 && was == 0:
		c.cfg.Logger.Warn("many sidecars have fallen silent at once: their sessions are kept for a while, since it may be this router that does not hear them",
			"silent", len(sidecars), "first", sidecars[0], "ttl", c.cfg.SessionTTL)
	case len(sidecars) == 0 && was > 0:
		c.cfg.Logger.Info("no session is kept over its time any more")
	}
}

func (c *Controller) housekeep(view *state.View) {
	sessions := make(map[string]session.Tracked, len(view.Sessions))
	for id, s := range view.Sessions {
		sessions[id] = session.Tracked{Epoch: s.GetEpoch(), Machine: s.GetHostName()}
	}
	c.leases.Sync(sessions)
	c.reportBack(c.leases.Back())
	c.reports.Forget(func(name string) bool { return view.Pipelines[name] != nil })
	c.compiler.Forget(view)
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.since, func(k conditionKey, _ conditionState) bool {
		return view.Pipelines[k.pipeline] == nil && view.Resources[pipelineKey(k.pipeline)] == nil
	})
}

// step is the next change of a pipeline's life, or nil.
func (c *Controller) step(view *state.View, key state.ResourceKey) *statepb.Command {
	name := key.Namespace + "/" + key.Name
	p := view.Pipelines[name]
	desired := c.compiler.Compile(view, key)
	uid := view.Resources[key].GetUid()
	switch {
	case p == nil:
		if desired.Plan == nil || !desired.Enabled {
			return nil
		}
		return adopt(name, uid, 0, desired.Plan)
	case p.GetUid() != uid || p.GetDraining():
		return nil // an earlier life, or generation, must end first
	case desired.Problem != "":
		return nil // what runs is not stopped by manifests that cannot be
	}
	changed := desired.Plan.GetHash() != p.GetPlan().GetHash()
	if !changed && desired.Enabled {
		return nil
	}
	if hasAssignments(view, p) {
		return &statepb.Command{Kind: &statepb.Command_DrainPipeline{DrainPipeline: &statepb.DrainPipeline{Pipeline: name, Generation: p.GetGeneration()}}}
	}
	if changed && desired.Plan != nil && desired.Enabled {
		return adopt(name, uid, p.GetGeneration(), desired.Plan)
	}
	return nil
}

func adopt(name, uid string, generation uint64, plan *statepb.Plan) *statepb.Command {
	return &statepb.Command{Kind: &statepb.Command_AdoptPlan{
		AdoptPlan: &statepb.AdoptPlan{Pipeline: name, Uid: uid, ExpectedGeneration: generation, Plan: plan},
	}}
}

func hasAssignments(view *state.View, p *statepb.Pipeline) bool {
	return slices.ContainsFunc(p.GetPlan().GetStages(), func(s *statepb.Stage) bool {
		return view.Assignments[state.StageKey{Pipeline: p.GetName(), Stage: s.GetName()}] != nil
	})
}

// overdue returns the pipelines that have been draining for too long on this leader's clock.
func (c *Controller) overdue(view *state.View) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var out []string
	for _, name := range state.SortedKeys(view.Pipelines) {
		p := view.Pipelines[name]
		if !p.GetDraining() {
			continue
		}
		d := drain{name, p.GetGeneration()}
		if began, ok := c.drains[d]; !ok {
			c.drains[d] = now
		} else if now.Sub(began) > c.cfg.DrainTimeout {
			out = append(out, name)
		}
	}
	return out
}

// forgetDrains forgets when those began that have ended.
func (c *Controller) forgetDrains(view *state.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.drains, func(d drain, _ time.Time) bool {
		p := view.Pipelines[d.pipeline]
		return !p.GetDraining() || p.GetGeneration() != d.generation
	})
}

// place gives stages to sidecars.
func (c *Controller) place(ctx context.Context, view *state.View) error {
	pipelines := c.toPlace(ctx, view)
	current, reports := map[placement.Key]placement.Place{}, map[placement.Key]*controlv1.StageStatus{}
	for key, a := range view.Assignments {
		report := c.reports.Stage(key.Pipeline, a.GetGeneration(), key.Stage, a.GetSidecarId())
		reports[placement.Key(key)] = report
		current[placement.Key(key)] = placement.Place{
			Sidecar: a.GetSidecarId(), Address: a.GetAddress(), Gateway: a.GetGateway(),
			// A stage that has not been heard of yet is not known to be idle.
			Idle: report != nil && !report.GetOpen(),
		}
	}
	sidecars := c.sidecars(view)
	result := placement.Plan(pipelines, sidecars, current)
	c.mu.Lock()
	c.unplaced = result.Unplaced
	c.mu.Unlock()
	changes := c.confirmed(result.Changes, reports)
	if len(changes) == 0 { // else it is looked again with these
		changes = c.detour(pipelines, sidecars, current)
	}
	for part := range slices.Chunk(changes, maxChanges) {
		assign := &statepb.Assign{}
		for _, change := range part {
			key := state.StageKey(change.Key)
			assign.Changes = append(assign.Changes, &statepb.AssignChange{
				Pipeline: key.Pipeline, Generation: view.Pipelines[key.Pipeline].GetGeneration(), Stage: key.Stage,
				ExpectedIndex: view.Assignments[key].GetIndex(),
				SidecarId:     change.To.Sidecar, SessionEpoch: view.Sessions[change.To.Sidecar].GetEpoch(),
				Address: change.To.Address, Gateway: change.To.Gateway,
			})
			c.cfg.Logger.Info("stage assigned", "pipeline", key.Pipeline, "stage", key.Stage, "sidecar", change.To.Sidecar, "address", change.To.Address)
		}
		if err := c.try(ctx, &statepb.Command{Kind: &statepb.Command_Assign{Assign: assign}}); err != nil {
			return fmt.Errorf("assign stages: %w", err)
		}
	}
	return nil
}

// confirmed leaves out the moves of stages that may have opened since they were said to be idle. What makes a better place for such a stage is often what opens it where it is,
// such as its service that starts: a move waits for a report that is younger than the wish for it. A stage that was at work and is moved reads again what was not settled.
func (c *Controller) confirmed(changes []placement.Change, reports map[placement.Key]*controlv1.StageStatus) []placement.Change {
	wished := map[placement.Key]*controlv1.StageStatus{}
	changes = slices.DeleteFunc(slices.Clone(changes), func(change placement.Change) bool {
		now := reports[change.Key]
		if now == nil {
			return false // it was nowhere
		}
		since, before := c.wished[change.Key]
		if !before {
			since = now
		}
		wished[change.Key] = since
		return now == since
	})
	c.wished = wished
	return changes
}

// detour moves stages off paths that are cut. A move counts as made whatever becomes of the command: what is not known must not be tried without bound.
func (c *Controller) detour(pipelines []placement.Pipeline, sidecars []placement.Sidecar, current map[placement.Key]placement.Place) []placement.Change {
	now := time.Now()
	detours := placement.Detours(pipelines, sidecars, current, c.detours, c.cfg.SessionTTL, now)
	c.detours = placement.Recent(append(c.detours, detours...), c.cfg.SessionTTL, now)
	changes := make([]placement.Change, len(detours))
	for i, d := range detours {
		changes[i] = d.Change
		c.cfg.Logger.Warn("a stage moves, since its sidecar and that of a neighbour do not reach each other", "pipeline", d.Pipeline, "stage", d.Stage,
			"from", d.From, "sidecar", d.To.Sidecar, "missed", d.Around.String(), "for", d.Missed.Round(time.Millisecond))
	}
	return changes
}

// toPlace returns the stages that should run now, with what they need.
func (c *Controller) toPlace(ctx context.Context, view *state.View) []placement.Pipeline {
	var out []placement.Pipeline
	var names []string
	var endpoints []*placement.Endpoint
	for _, name := range state.SortedKeys(view.Pipelines) {
		p := view.Pipelines[name]
		if !c.runs(view, p) {
			continue
		}
		pp := placement.Pipeline{Name: name, Stays: p.GetDraining() || p.GetHold()}
		for _, st := range p.GetPlan().GetStages() {
			if state.Ended(p, st.GetName()) {
				continue
			}
			s := placement.Stage{Name: st.GetName(), Need: need(topology.Spec(st))}
			for _, e := range p.GetPlan().GetEdges() {
				if e.GetTo() == s.Name {
					s.Upstream = append(s.Upstream, e.GetFrom())
				}
				if e.GetFrom() == s.Name {
					s.Downstream = append(s.Downstream, e.GetTo())
					if e.GetBestEffort() {
						s.Spared = append(s.Spared, e.GetTo())
					}
				}
			}
			if e := s.Need.Endpoint; e != nil && !e.Loopback {
				host, _, _ := net.SplitHostPort(e.Address)
				names, endpoints = append(names, host), append(endpoints, e)
			}
			pp.Stages = append(pp.Stages, s)
		}
		out = append(out, pp)
	}
	c.hosts.resolve(ctx, names)
	for i, e := range endpoints {
		e.Resolved = c.hosts.addresses(names[i])
	}
	return out
}

// runs reports whether the stages of a pipeline should be somewhere. While a pipeline drains, a stage that was lost is made good, so that the others can finish.
func (c *Controller) runs(view *state.View, p *statepb.Pipeline) bool {
	if p.GetDraining() {
		return hasAssignments(view, p)
	}
	return !p.GetCompleted() && c.wanted(view, p)
}

// wanted reports whether the manifests still ask for the plan of a pipeline.
func (c *Controller) wanted(view *state.View, p *statepb.Pipeline) bool {
	key := pipelineKey(p.GetName())
	r := view.Resources[key]
	if p.GetDeleting() || r == nil || r.GetUid() != p.GetUid() {
		return false
	}
	desired := c.compiler.Compile(view, key)
	if desired.Problem != "" {
		return true
	}
	return desired.Enabled && desired.Plan.GetHash() == p.GetPlan().GetHash()
}

func need(spec *controlv1.StageSpec) placement.Need {
	n := placement.Need{Kind: spec.GetKind()}
	work := spec.GetServiceWork()
	if work == nil {
		return n
	}
	if n.Connector = work.GetType(); n.Connector != "" {
		return n
	}
	n.Endpoint = &placement.Endpoint{Address: work.GetAddress()}
	host, port, err := net.SplitHostPort(work.GetAddress())
	if err != nil {
		return n
	}
	if number, err := strconv.ParseUint(port, 10, 16); err == nil {
		n.Endpoint.Port = uint32(number)
	}
	n.Endpoint.Loopback = isLoopback(host)
	return n
}

// sidecars are those that can be given stages.
func (c *Controller) sidecars(view *state.View) []placement.Sidecar {
	var out []placement.Sidecar
	for _, id := range state.SortedKeys(view.Sessions) {
		s := view.Sessions[id]
		sc := placement.Sidecar{ID: id, Silent: c.leases.Silent(id), Misses: c.leases.Misses(id)}
		for _, a := range s.GetHostAddresses() {
			if addr, err := netip.ParseAddr(a); err == nil {
				sc.Addresses = append(sc.Addresses, addr)
			}
		}
		for _, e := range Endpoints(s) {
			service := placement.Service{Address: e.GetAddress(), Port: e.GetPort()}
			for _, a := range e.GetAbilities() {
				service.Abilities = append(service.Abilities, placement.Ability{Kind: a.GetKind(), Type: a.GetType()})
			}
			sc.Services = append(sc.Services, service)
		}
		out = append(out, sc)
	}
	return out
}

// Endpoints decodes the endpoints of a session.
func Endpoints(s *statepb.Session) []*controlv1.Endpoint {
	var out []*controlv1.Endpoint
	for _, b := range s.GetEndpoints() {
		var e controlv1.Endpoint
		if proto.Unmarshal(b, &e) == nil {
			out = append(out, &e)
		}
	}
	return out
}
