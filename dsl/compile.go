package dsl

import (
	"fmt"

	"github.com/conveyor-etl/conveyor/dsl/graph"
)

// Lookup finds a resource by kind, namespace and name. Set.Lookup is one.
type Lookup func(kind, namespace, name string) (*Resource, bool)

// Compile turns a Pipeline of either shape into its graph. A stage is named like its service where the pipeline does not name it itself, with -2, -3 and so
// on when the name is taken. A service that lookup does not find leaves its node unresolved, with a warning. The graph is nil when there is an error.
func Compile(lookup func(kind, namespace, name string) (*Resource, bool), pipeline *Resource) (*graph.Graph, []Diagnostic) {
	spec := pipeline.Pipeline()
	if spec == nil {
		return nil, []Diagnostic{{Code: CodeWrongKind, Severity: Error, Message: fmt.Sprintf("%s is not a Pipeline", pipeline)}}
	}
	c := &compiler{
		lookup: lookup, namespace: pipeline.Metadata.Namespace, taken: map[string]bool{},
		graph:    &graph.Graph{Pipeline: graph.Pipeline{Namespace: pipeline.Metadata.Namespace, Name: pipeline.Metadata.Name}},
		reporter: reporter{place: pipeline.place},
	}
	if len(spec.Stages) > 0 {
		c.stages(spec)
	} else {
		c.chain(spec)
	}
	if name := spec.DeadLetterSink(); name != "" {
		n := c.node(KindSink, name, name, "spec.dlq.sink")
		c.graph.DeadLetter = &n
	}
	for _, cycle := range c.graph.Cycles() {
		c.report(CodeCycle, "spec.stages", fmt.Sprintf("the stages form a cycle: %v", cycle))
	}
	for _, e := range c.graph.Edges {
		if c.graph.Node(e.From) == nil || c.graph.Node(e.To) == nil {
			c.report(CodeUnknownStage, "spec.stages", fmt.Sprintf("the edge from %q to %q has no such stage", e.From, e.To))
		}
	}
	if HasErrors(c.diags) {
		return nil, c.diags
	}
	return c.graph, c.diags
}

type compiler struct {
	reporter
	lookup    Lookup
	namespace string
	taken     map[string]bool
	graph     *graph.Graph
}

// chain compiles source or sources, steps, sink or sinks.
func (c *compiler) chain(spec *PipelineSpec) {
	var ends []string
	sources := spec.Sources
	if spec.Source != "" {
		sources = []string{spec.Source}
	}
	for i, name := range sources {
		path := fmt.Sprintf("spec.sources[%d]", i)
		if spec.Source != "" {
			path = "spec.source"
		}
		ends = append(ends, c.add(KindSource, name, path))
	}
	for i, name := range spec.Steps {
		stage := c.add(KindTransform, name, fmt.Sprintf("spec.steps[%d]", i))
		c.connect(ends, stage, "", false)
		ends = []string{stage}
	}
	if spec.Sink != "" {
		c.connect(ends, c.add(KindSink, spec.Sink, "spec.sink"), "", false)
	}
	for i, s := range spec.Sinks {
		stage := c.add(KindSink, s.Name, fmt.Sprintf("spec.sinks[%d].name", i))
		c.connect(ends, stage, s.When, s.Delivery == DeliveryBestEffort)
	}
}

// stages compiles a DAG that is spelt out.
func (c *compiler) stages(spec *PipelineSpec) {
	for i, st := range spec.Stages {
		path := stagePath(i)
		var n graph.Node
		switch {
		case st.Source != "":
			n = c.node(KindSource, st.Source, st.Name, path+".source")
		case st.Transform != "":
			n = c.node(KindTransform, st.Transform, st.Name, path+".transform")
		case st.Sink != "":
			n = c.node(KindSink, st.Sink, st.Name, path+".sink")
		case st.CEL != nil:
			n = graph.Node{Name: st.Name, Kind: graph.Transform, Service: &graph.Service{Filter: st.CEL.Filter, Map: st.CEL.Map}}
		default:
			c.report(CodeExclusive, path, fmt.Sprintf("the stage %q has no service", st.Name))
		}
		c.graph.Nodes = append(c.graph.Nodes, n)
		c.connect(st.From, st.Name, st.When, st.Delivery == DeliveryBestEffort)
	}
}

// add appends a node that is named like its service.
func (c *compiler) add(kind, service, path string) string {
	name := service
	for i := 2; c.taken[name]; i++ {
		suffix := fmt.Sprintf("-%d", i)
		name = service[:min(len(service), maxName-len(suffix))] + suffix
	}
	c.taken[name] = true
	c.graph.Nodes = append(c.graph.Nodes, c.node(kind, service, name, path))
	return name
}

func (c *compiler) connect(from []string, to, when string, bestEffort bool) {
	for _, f := range from {
		c.graph.Edges = append(c.graph.Edges, graph.Edge{From: f, To: to, When: when, BestEffort: bestEffort})
	}
}

var nodeKinds = map[string]graph.Kind{KindSource: graph.Source, KindTransform: graph.Transform, KindSink: graph.Sink}

func (c *compiler) node(kind, service, name, path string) graph.Node {
	n := graph.Node{Name: name, Kind: nodeKinds[kind], Ref: c.namespace + "/" + service}
	r, ok := c.lookup(kind, c.namespace, service)
	if !ok || r.Service() == nil {
		n.Unresolved = true
		d := c.report(CodeMissingReference, path, fmt.Sprintf("unknown %s %q", kind, clip(service)))
		d.Severity, d.Label = Warning, missingLabel(kind, c.namespace)
		return n
	}
	s := r.Service()
	n.Service = &graph.Service{Config: s.Config}
	switch {
	case s.GRPC != nil:
		n.Service.Endpoint = s.GRPC.Endpoint
	case s.Connector != nil:
		n.Service.Connector = &graph.Connector{Type: s.Connector.Type, Config: s.Connector.Config}
	case s.CEL != nil:
		n.Service.Filter, n.Service.Map = s.CEL.Filter, s.CEL.Map
	}
	return n
}

func missingLabel(kind, namespace string) string {
	return fmt.Sprintf("no %s of this name in namespace %q", kind, namespace)
}
