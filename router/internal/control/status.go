package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router/internal/placement"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
	"github.com/conveyor-etl/conveyor/router/internal/status"
	"github.com/conveyor-etl/conveyor/router/internal/topology"
)

type conditionKey struct{ pipeline, condition string }

// conditionState is what must stay the same for a condition to be as old as it was.
type conditionState struct {
	status bool
	reason string
	since  time.Time
}

// reading is everything that a status is made of.
type reading struct {
	name     string
	view     *state.View
	resource *statepb.Resource // nil when it was deleted
	pipeline *statepb.Pipeline // nil before its first generation
	desired  topology.Desired
	running  bool // something is assigned
	leads    bool // sidecars report here
}

// Status tells what a pipeline does now; ok is false when there is no such pipeline. While this router does not lead, it tells only what all routers know: what
// sidecars reported to it when it led would look like the present.
func (c *Controller) Status(namespace, short string) (_ *controlv1.PipelineStatus, ok bool) {
	r := reading{name: namespace + "/" + short, view: c.machine.View()}
	_, r.leads = c.Leading()
	r.resource, r.pipeline = r.view.Resources[pipelineKey(r.name)], r.view.Pipelines[r.name]
	if r.resource == nil && r.pipeline == nil {
		return nil, false
	}
	if r.resource != nil {
		r.desired = c.compiler.Compile(r.view, pipelineKey(r.name))
	}
	r.running = r.pipeline != nil && hasAssignments(r.view, r.pipeline)
	out := &controlv1.PipelineStatus{
		Namespace: namespace, Name: short, Generation: r.pipeline.GetGeneration(), Stages: c.stages(&r), ReportsUnknown: !r.leads,
	}
	if r.pipeline != nil {
		out.Guarantee = topology.Guarantee(r.pipeline.GetPlan())
	}
	out.Lanes, out.Counts = c.lanes(&r)
	out.Phase = r.phase(out)
	out.Conditions = c.conditions(&r, out)
	return out, true
}

// lanes are those of the present generation, and what was counted in it in all; nil counts are not known. What has completed is counted in the state, whoever leads by now.
func (c *Controller) lanes(r *reading) ([]*controlv1.LaneStatus, *controlv1.Counts) {
	p := r.pipeline
	if !r.leads {
		if p.GetCompleted() {
			return nil, showCounts(p.GetCounts())
		}
		return nil, nil
	}
	if p == nil {
		return nil, &controlv1.Counts{}
	}
	lanes, sum := c.reports.Lanes(r.name, p.GetGeneration(), func(stage string) bool {
		return !ofDeadLetters(p, stage) && (p.GetCounts() == nil || !slices.Contains(p.GetCompletedStages(), stage))
	})
	switch kept := showCounts(p.GetCounts()); {
	case kept != nil:
		status.Add(sum, kept)
	case p.GetCompleted() && len(lanes) == 0: // whoever was told leads no more
		return nil, nil
	}
	return lanes, sum
}

// StageCounts is what a source stage has read in a generation, by what this router was told; nil when it was told nothing, or nothing that counts for the pipeline.
func (c *Controller) StageCounts(pipeline string, generation uint64, stage string) *statepb.Counts {
	if ofDeadLetters(c.machine.View().Pipelines[pipeline], stage) {
		return nil
	}
	told := false
	_, n := c.reports.Lanes(pipeline, generation, func(source string) bool {
		told = told || source == stage
		return source == stage
	})
	if !told {
		return nil
	}
	return &statepb.Counts{
		Read: n.GetRead(), Acknowledged: n.GetAcknowledged(), Dead: n.GetDead(), Filtered: n.GetFiltered(), Unrouted: n.GetUnrouted(), Shed: n.GetShed(),
	}
}

func showCounts(c *statepb.Counts) *controlv1.Counts {
	if c == nil {
		return nil
	}
	return &controlv1.Counts{
		Read: c.GetRead(), Acknowledged: c.GetAcknowledged(), Dead: c.GetDead(), Filtered: c.GetFiltered(), Unrouted: c.GetUnrouted(), Shed: c.GetShed(),
	}
}

// ofDeadLetters reports whether a stage is one of those that deliver the letters of a pipeline: its records were counted when they failed.
func ofDeadLetters(p *statepb.Pipeline, stage string) bool {
	return slices.ContainsFunc(p.GetPlan().GetStages(), func(s *statepb.Stage) bool { return s.GetDeadLetters() && s.GetName() == stage })
}

func (r *reading) changed() bool {
	return r.pipeline == nil || r.desired.Plan.GetHash() != r.pipeline.GetPlan().GetHash()
}

func (r *reading) phase(s *controlv1.PipelineStatus) controlv1.Phase {
	p := r.pipeline
	switch {
	case r.resource == nil, p != nil && (p.GetUid() != r.resource.GetUid() || p.GetDraining()):
		return controlv1.Phase_PHASE_DRAINING
	case r.desired.Problem != "" && !r.running:
		return controlv1.Phase_PHASE_FAILED
	case r.desired.Problem == "" && r.running && (r.changed() || !r.desired.Enabled):
		return controlv1.Phase_PHASE_DRAINING
	case !r.desired.Enabled && r.desired.Problem == "":
		return controlv1.Phase_PHASE_PAUSED
	case r.desired.Problem == "" && r.changed():
		return controlv1.Phase_PHASE_PENDING
	case p.GetCompleted():
		return controlv1.Phase_PHASE_COMPLETED
	case !r.leads:
		return controlv1.Phase_PHASE_UNSPECIFIED
	case slices.ContainsFunc(s.GetLanes(), func(l *controlv1.LaneStatus) bool { return l.GetProblem() != "" && !l.GetReadsOn() }):
		return controlv1.Phase_PHASE_FAILED
	}
	for _, st := range s.GetStages() {
		if !st.GetOpen() && !slices.Contains(p.GetCompletedStages(), st.GetName()) {
			return controlv1.Phase_PHASE_PENDING
		}
	}
	return controlv1.Phase_PHASE_RUNNING
}

// stages are those of the plan that runs, or of the manifests before there is one.
func (c *Controller) stages(r *reading) []*controlv1.StageStatus {
	var out []*controlv1.StageStatus
	if r.pipeline == nil || (!r.running && !r.pipeline.GetCompleted() && r.changed() && r.resource != nil) {
		for _, s := range r.desired.Stages {
			st := &controlv1.StageStatus{Name: s.Name, Kind: s.Kind, Service: s.Service}
			switch {
			case s.Missing:
				st.WaitingFor = fmt.Sprintf("%s %s has not been applied", s.Kind, s.Service)
			case len(r.desired.Missing) > 0:
				st.WaitingFor = "the pipeline waits for " + strings.Join(r.desired.Missing, ", ")
			case r.desired.Enabled && r.leads:
				st.WaitingFor = "the pipeline is about to start"
			}
			out = append(out, st)
		}
		return out
	}
	for _, planned := range r.pipeline.GetPlan().GetStages() {
		out = append(out, c.stage(r, planned))
	}
	return out
}

func (c *Controller) stage(r *reading, planned *statepb.Stage) *controlv1.StageStatus {
	p, name := r.pipeline, planned.GetName()
	out := &controlv1.StageStatus{Name: name}
	a := r.view.Assignments[state.StageKey{Pipeline: p.GetName(), Stage: name}]
	if a != nil && r.leads {
		if report := c.reports.Stage(p.GetName(), p.GetGeneration(), name, a.GetSidecarId()); report != nil {
			out = proto.CloneOf(report)
		} else {
			out.WaitingFor = fmt.Sprintf("sidecar %s has not reported on it yet", a.GetSidecarId())
		}
	}
	out.SidecarId = a.GetSidecarId()
	out.Kind, out.Service = placement.KindName(topology.Spec(planned).GetKind()), planned.GetService()
	if a != nil || p.GetCompleted() || slices.Contains(p.GetCompletedStages(), name) || (r.resource != nil && !r.desired.Enabled) {
		return out
	}
	c.mu.Lock()
	reason, known := c.unplaced[placement.Key{Pipeline: p.GetName(), Stage: name}]
	c.mu.Unlock()
	switch {
	case !r.leads && !p.GetDraining():
		out.WaitingFor = "a sidecar; why none has it is known to the router that leads"
	case !r.leads:
	case known:
		out.WaitingFor = reason
	case p.GetDraining():
		out.WaitingFor = ""
	default:
		out.WaitingFor = "a sidecar is about to be chosen"
	}
	return out
}

func (c *Controller) conditions(r *reading, s *controlv1.PipelineStatus) []*controlv1.Condition {
	var out []*controlv1.Condition
	add := func(kind string, is bool, reason, message string) {
		if !r.leads { // nor has this router seen since when it is so
			out = append(out, &controlv1.Condition{Type: kind, Status: is, Reason: reason, Message: message})
			return
		}
		key := conditionKey{r.name, kind}
		c.mu.Lock()
		was, ok := c.since[key]
		if !ok || was.status != is || was.reason != reason {
			was = conditionState{status: is, reason: reason, since: time.Now()}
			c.since[key] = was
		}
		c.mu.Unlock()
		out = append(out, &controlv1.Condition{Type: kind, Status: is, Reason: reason, Message: message, Since: timestamppb.New(was.since)})
	}
	switch {
	case r.resource == nil:
		add("Accepted", false, "Deleted", "the pipeline was deleted and ends")
	case r.desired.Problem != "":
		add("Accepted", false, "Invalid", r.desired.Problem)
	case len(r.desired.Missing) > 0:
		add("Accepted", false, "MissingServices", "not applied yet: "+strings.Join(r.desired.Missing, ", "))
	default:
		add("Accepted", true, "Valid", "")
	}
	c.runConditions(r, s, add)
	n := s.GetCounts()
	if n.GetUnrouted() > 0 {
		add("Unrouted", true, "NoEdgeTook", fmt.Sprintf("%d records met no condition of any edge and went nowhere", n.GetUnrouted()))
	}
	if n.GetShed() > 0 {
		add("Shed", true, "BestEffort", fmt.Sprintf("%d records were shed before best-effort sinks", n.GetShed()))
	}
	if n.GetDead() > 0 {
		add("DeadLetters", true, "RecordsFailed", fmt.Sprintf("%d records are in the dead letters: see conveyor dlq ls -p %s", n.GetDead(), s.GetName()))
	}
	return out
}

func (c *Controller) runConditions(r *reading, s *controlv1.PipelineStatus, add func(kind string, status bool, reason, message string)) {
	var homeless, waiting, held, unwell []string
	for _, st := range s.GetStages() {
		done := slices.Contains(r.pipeline.GetCompletedStages(), st.GetName())
		switch {
		case done:
		case st.GetSidecarId() == "":
			homeless = append(homeless, st.GetName()+": "+st.GetWaitingFor())
		case !r.leads:
		case !st.GetOpen():
			waiting = append(waiting, st.GetName()+": "+st.GetWaitingFor())
		case st.GetWaitingFor() != "":
			held = append(held, st.GetName()+": "+st.GetWaitingFor())
		}
	}
	for _, l := range s.GetLanes() {
		problem := fmt.Sprintf("%s partition %q: %s", l.GetSourceStage(), l.GetPartition(), l.GetProblem())
		switch {
		case l.GetProblem() == "":
		case l.GetReadsOn():
			unwell = append(unwell, problem)
		default:
			waiting = append(waiting, problem)
		}
	}
	phase := s.GetPhase()
	switch {
	case phase == controlv1.Phase_PHASE_PAUSED || phase == controlv1.Phase_PHASE_COMPLETED:
		reason := strings.TrimPrefix(phase.String(), "PHASE_")
		reason = reason[:1] + strings.ToLower(reason[1:])
		add("Running", false, reason, "")
		return
	case len(homeless) > 0:
		add("Assigned", false, "StagesWithoutSidecar", strings.Join(homeless, "; "))
	case len(s.GetStages()) > 0:
		add("Assigned", true, "AllAssigned", "")
	}
	switch {
	case phase == controlv1.Phase_PHASE_RUNNING:
		add("Running", true, "AllOpen", "")
		switch { // as when a path between sidecars is cut: it goes on by itself
		case len(held) > 0:
			add("Degraded", true, "StagesWait", strings.Join(append(held, unwell...), "; "))
		case len(unwell) > 0:
			add("Degraded", true, "LanesHaveProblems", strings.Join(unwell, "; "))
		}
	case phase == controlv1.Phase_PHASE_UNSPECIFIED:
	case phase == controlv1.Phase_PHASE_DRAINING:
		add("Running", false, "Draining", "what is in flight is being finished")
	case len(waiting) > 0:
		add("Running", false, "StagesWait", strings.Join(waiting, "; "))
	default:
		add("Running", false, "NotAssigned", "")
	}
}

// Unplaced is how many stages no sidecar can run now; 0 on a router that does not lead, which does not know.
func (c *Controller) Unplaced() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leading == nil || c.leading.Err() != nil {
		return 0
	}
	return len(c.unplaced)
}
