// Package topology compiles the manifests of a pipeline to the plan that sidecars run.
package topology

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/dsl/graph"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// Desired is what the manifests ask of a pipeline.
type Desired struct {
	// Plan is nil when Missing or Problem say why there is none.
	Plan *statepb.Plan
	// Enabled is false for a pipeline that should be paused.
	Enabled bool
	// Missing names the services that have no manifest yet, such as "source default/orders".
	Missing []string
	// Problem says why the manifests cannot be run.
	Problem string
	// Stages are those of the manifests; they are known before there is a plan.
	Stages []Stage
}

// Stage is a stage as manifests name it.
type Stage struct {
	Name string
	// Kind is source, transform or sink.
	Kind string
	// Service is namespace/name of its manifest, or empty.
	Service string
	// Missing: there is no such manifest.
	Missing bool
}

// Compiler compiles pipelines and remembers the manifests that it has read. It may be used concurrently.
type Compiler struct {
	mu     sync.Mutex
	parsed map[state.ResourceKey]parsed
}

type parsed struct {
	uid      string
	revision uint64
	resource *dsl.Resource
	problem  string
}

// NewCompiler returns a compiler.
func NewCompiler() *Compiler { return &Compiler{parsed: map[state.ResourceKey]parsed{}} }

// Compile compiles the pipeline of this key, which must exist in the view.
func (c *Compiler) Compile(view *state.View, key state.ResourceKey) Desired {
	c.mu.Lock()
	defer c.mu.Unlock()
	pipeline, problem := c.read(view, key)
	if problem != "" {
		return Desired{Enabled: true, Problem: problem}
	}
	d := Desired{Enabled: pipeline.Pipeline().IsEnabled()}
	lookup := func(kind, namespace, name string) (*dsl.Resource, bool) {
		r, p := c.read(view, state.ResourceKey{Kind: kind, Namespace: namespace, Name: name})
		return r, r != nil && p == ""
	}
	g, diags := dsl.Compile(lookup, pipeline)
	if g == nil {
		d.Problem = fmt.Sprint(dsl.Err(diags))
		return d
	}
	nodes := g.Nodes
	if g.DeadLetter != nil {
		nodes = append(slices.Clone(nodes), *g.DeadLetter)
	}
	for i := range nodes {
		d.Stages = append(d.Stages, Stage{Name: nodes[i].Name, Kind: string(nodes[i].Kind), Service: nodes[i].Ref, Missing: nodes[i].Unresolved})
		if name := fmt.Sprintf("%s %s", nodes[i].Kind, nodes[i].Ref); nodes[i].Unresolved && !slices.Contains(d.Missing, name) {
			d.Missing = append(d.Missing, name)
		}
	}
	if len(d.Missing) > 0 {
		return d
	}
	plan, err := makePlan(g, pipeline.Pipeline())
	if err != nil {
		d.Problem = err.Error()
		return d
	}
	d.Plan = plan
	return d
}

// Forget drops manifests that are gone from the view.
func (c *Compiler) Forget(view *state.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.parsed {
		if view.Resources[key] == nil {
			delete(c.parsed, key)
		}
	}
}

func (c *Compiler) read(view *state.View, key state.ResourceKey) (*dsl.Resource, string) {
	r := view.Resources[key]
	if r == nil {
		return nil, fmt.Sprintf("there is no %s %s/%s", key.Kind, key.Namespace, key.Name)
	}
	if p, ok := c.parsed[key]; ok && p.uid == r.GetUid() && p.revision == r.GetRevision() {
		return p.resource, p.problem
	}
	p := parsed{uid: r.GetUid(), revision: r.GetRevision()}
	var diags []dsl.Diagnostic
	if p.resource, diags = dsl.FromJSON(r.GetManifest()); p.resource == nil {
		p.problem = "the manifest cannot be read by this version"
		if len(diags) > 0 {
			p.problem = diags[0].Error()
		}
	}
	c.parsed[key] = p
	return p.resource, p.problem
}

// deadLetterStage names the stage that reads the dead letters of a pipeline with a dlq sink.
const deadLetterStage = "dlq"

func makePlan(g *graph.Graph, spec *dsl.PipelineSpec) (*statepb.Plan, error) {
	order, ok := g.Order()
	if !ok {
		return nil, fmt.Errorf("the stages of %s form a cycle", g.Pipeline)
	}
	plan := &statepb.Plan{}
	taken := map[string]bool{}
	add := func(name, service string, s *controlv1.StageSpec, deadLetters bool) error {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
		if err != nil {
			return fmt.Errorf("encode stage %s: %w", name, err)
		}
		taken[name] = true
		plan.Stages = append(plan.Stages, &statepb.Stage{Name: name, Spec: b, DeadLetters: deadLetters, Service: service})
		return nil
	}
	for _, name := range order {
		n := g.Node(name)
		if err := add(name, n.Ref, stageSpec(n, spec), false); err != nil {
			return nil, err
		}
	}
	for _, e := range g.Edges {
		plan.Edges = append(plan.Edges, &statepb.Edge{From: e.From, To: e.To, When: e.When, BestEffort: e.BestEffort})
	}
	if n := g.DeadLetter; n != nil {
		from := unique(deadLetterStage, taken)
		s := common(spec)
		s.Kind, s.Work = conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, &controlv1.StageSpec_DeadLetters{DeadLetters: &controlv1.DeadLetterWork{}}
		if err := add(from, "", s, true); err != nil {
			return nil, err
		}
		to := unique(n.Name, taken)
		if err := add(to, n.Ref, stageSpec(n, spec), true); err != nil {
			return nil, err
		}
		plan.Edges = append(plan.Edges, &statepb.Edge{From: from, To: to})
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(plan)
	if err != nil {
		return nil, fmt.Errorf("encode the plan of %s: %w", g.Pipeline, err)
	}
	sum := sha256.Sum256(b)
	plan.Hash = hex.EncodeToString(sum[:])
	return plan, nil
}

func unique(name string, taken map[string]bool) string {
	out := name
	for i := 2; taken[out]; i++ {
		out = fmt.Sprintf("%s-%d", name, i)
	}
	return out
}

var kinds = map[graph.Kind]conveyorv1.ServiceKind{
	graph.Source:    conveyorv1.ServiceKind_SERVICE_KIND_SOURCE,
	graph.Transform: conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM,
	graph.Sink:      conveyorv1.ServiceKind_SERVICE_KIND_SINK,
}

var orderings = map[string]controlv1.Ordering{
	dsl.OrderingKey:       controlv1.Ordering_ORDERING_KEY,
	dsl.OrderingKeyStrict: controlv1.Ordering_ORDERING_KEY_STRICT,
	dsl.OrderingLane:      controlv1.Ordering_ORDERING_LANE,
	dsl.OrderingNone:      controlv1.Ordering_ORDERING_NONE,
}

// common is what all stages of a pipeline share.
func common(spec *dsl.PipelineSpec) *controlv1.StageSpec {
	d, r := spec.DeliveryOptions(), spec.Retries()
	return &controlv1.StageSpec{
		Ordering: orderings[d.Ordering],
		Limits:   &controlv1.Limits{WindowRecords: uint32(d.InFlight), BatchRecords: uint32(d.BatchSize), MaxSpan: uint32(d.MaxSpan)},
		Retry: &controlv1.RetryPolicy{
			MaxRetries: uint32(r.Max), BackoffMillis: uint32(r.Backoff.Milliseconds()), MaxBackoffMillis: uint32(r.MaxBackoff.Milliseconds()),
		},
	}
}

func stageSpec(n *graph.Node, spec *dsl.PipelineSpec) *controlv1.StageSpec {
	s := common(spec)
	s.Kind, s.Service = kinds[n.Kind], n.Ref
	s.PauseWithoutRouters = n.Kind == graph.Source && spec.OnRouterLoss == dsl.OnRouterLossPause
	switch v := n.Service; {
	case v.BuiltIn():
		s.Work = &controlv1.StageSpec_Cel{Cel: &controlv1.CelWork{Filter: v.Filter, Map: v.Map}}
	case v.Connector != nil:
		s.Work = &controlv1.StageSpec_ServiceWork{ServiceWork: &controlv1.ServiceWork{Type: v.Connector.Type, Config: v.Connector.Config}}
	default:
		s.Work = &controlv1.StageSpec_ServiceWork{ServiceWork: &controlv1.ServiceWork{Address: v.Endpoint, Config: v.Config}}
	}
	return s
}

// Guarantee says in words what a pipeline promises, given the plan that it runs.
func Guarantee(plan *statepb.Plan) string {
	words := []string{"at least once"}
	// All stages of a pipeline have one ordering.
	if stages := plan.GetStages(); len(stages) > 0 {
		switch Spec(stages[0]).GetOrdering() {
		case controlv1.Ordering_ORDERING_NONE:
			words = append(words, "in no order")
		case controlv1.Ordering_ORDERING_LANE:
			words = append(words, "each partition in order")
		case controlv1.Ordering_ORDERING_KEY_STRICT:
			words = append(words, "each key in order, strictly")
		default:
			words = append(words, "each key in order")
		}
	}
	if slices.ContainsFunc(plan.GetEdges(), (*statepb.Edge).GetBestEffort) {
		words = append(words, "best effort to some sinks")
	}
	return strings.Join(words, ", ")
}

// Spec decodes the spec of a stage of a plan. The caller owns it.
func Spec(s *statepb.Stage) *controlv1.StageSpec {
	var spec controlv1.StageSpec
	if err := proto.Unmarshal(s.GetSpec(), &spec); err != nil {
		return &controlv1.StageSpec{}
	}
	return &spec
}
