package graph

import "io"

// Order returns the names of the nodes so that each comes after all that feed it; ok is false when there is a cycle.
func (g *Graph) Order() (names []string, ok bool) { return nil, false }

// Cycles returns every strongly connected group of nodes that forms a cycle.
func (g *Graph) Cycles() [][]string { return nil }

// Upstream returns the names of all nodes from which the node can be reached.
func (g *Graph) Upstream(name string) []string { return nil }

// Downstream returns the names of all nodes that can be reached from the node.
func (g *Graph) Downstream(name string) []string { return nil }

// DOT draws the graphs in Graphviz's language, each as a cluster.
func DOT(w io.Writer, graphs ...*Graph) error { return nil }

// Mermaid draws the graphs as a Mermaid flowchart, each as a subgraph.
func Mermaid(w io.Writer, graphs ...*Graph) error { return nil }

// ASCII draws the graphs as text of at most 80 columns.
func ASCII(w io.Writer, graphs ...*Graph) error { return nil }
