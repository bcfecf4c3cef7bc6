// Package graph is a pipeline as a directed acyclic graph of stages: its order, its neighbourhoods and its drawings.
package graph

import "encoding/json"

// Kind is what a node does with records.
type Kind string

// The kinds of node.
const (
	Source    Kind = "source"
	Transform Kind = "transform"
	Sink      Kind = "sink"
)

// Pipeline names the pipeline that a graph was made of.
type Pipeline struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String is namespace and name, joined by a slash.
func (p Pipeline) String() string { return p.Namespace + "/" + p.Name }

// Graph is one pipeline as a DAG. Nodes and edges are in the order of the manifest, so equal manifests make equal graphs.
// A Graph is plain data: nothing in it is changed by this package, and it may be read by several goroutines.
type Graph struct {
	Pipeline Pipeline `json:"pipeline"`
	Nodes    []Node   `json:"nodes"`
	Edges    []Edge   `json:"edges"`
	// DeadLetter is the sink to which dead letters are delivered in addition to the store, or nil. It has no edges and is not among Nodes.
	DeadLetter *Node `json:"deadLetter,omitempty"`
}

// Node is one stage.
type Node struct {
	// Name is unique within the graph.
	Name string `json:"name"`
	// Kind is source, transform or sink.
	Kind Kind `json:"kind"`
	// Ref is namespace/name of the manifest that the stage names, or "" for a stage written in place.
	Ref string `json:"ref,omitempty"`
	// Service is what runs the stage; nil when Unresolved.
	Service *Service `json:"service,omitempty"`
	// Unresolved says that there is no manifest of this name yet.
	Unresolved bool `json:"unresolved,omitempty"`
}

// Service is what runs a stage: exactly one of Endpoint, Connector, Filter and Map is set.
type Service struct {
	// Endpoint is host:port of a gRPC service.
	Endpoint string `json:"endpoint,omitempty"`
	// Connector is a ready-made service.
	Connector *Connector `json:"connector,omitempty"`
	// Filter is a CEL expression that says which records stay.
	Filter string `json:"filter,omitempty"`
	// Map is a CEL expression whose result is the new payload.
	Map string `json:"map,omitempty"`
	// Config is a JSON object for the service at Endpoint, or empty.
	Config json.RawMessage `json:"config,omitempty"`
}

// Connector is a ready-made service.
type Connector struct {
	// Type is the connector's name.
	Type string `json:"type"`
	// Config is a JSON object for the connector, or empty.
	Config json.RawMessage `json:"config,omitempty"`
}

// BuiltIn reports whether the stage runs inside the sidecar.
func (s *Service) BuiltIn() bool { return s != nil && (s.Filter != "" || s.Map != "") }

// Edge is one link between two stages.
type Edge struct {
	// From and To are names of nodes.
	From string `json:"from"`
	To   string `json:"to"`
	// When is a CEL condition over the records on the edge; "" takes them all.
	When string `json:"when,omitempty"`
	// BestEffort says that the edge sheds records instead of slowing the pipeline down.
	BestEffort bool `json:"bestEffort,omitempty"`
}

// Node returns the node of this name, or nil.
func (g *Graph) Node(name string) *Node {
	for i := range g.Nodes {
		if g.Nodes[i].Name == name {
			return &g.Nodes[i]
		}
	}
	return nil
}

// In returns the edges that end at the node, in the graph's order.
func (g *Graph) In(name string) []Edge { return g.pick(func(e Edge) bool { return e.To == name }) }

// Out returns the edges that begin at the node, in the graph's order.
func (g *Graph) Out(name string) []Edge { return g.pick(func(e Edge) bool { return e.From == name }) }

func (g *Graph) pick(want func(Edge) bool) []Edge {
	var out []Edge
	for _, e := range g.Edges {
		if want(e) {
			out = append(out, e)
		}
	}
	return out
}

// Sources returns the names of the source nodes, in the graph's order.
func (g *Graph) Sources() []string { return g.ofKind(Source) }

// Sinks returns the names of the sink nodes, in the graph's order.
func (g *Graph) Sinks() []string { return g.ofKind(Sink) }

func (g *Graph) ofKind(k Kind) []string {
	var out []string
	for _, n := range g.Nodes {
		if n.Kind == k {
			out = append(out, n.Name)
		}
	}
	return out
}
