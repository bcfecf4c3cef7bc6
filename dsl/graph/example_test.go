package graph_test

import (
	"fmt"
	"os"

	"github.com/conveyor-etl/conveyor/dsl/graph"
)

func Example() {
	g := &graph.Graph{
		Pipeline: graph.Pipeline{Namespace: "default", Name: "logs"},
		Nodes: []graph.Node{
			{Name: "read", Kind: graph.Source, Service: &graph.Service{Connector: &graph.Connector{Type: "file"}}},
			{Name: "keep", Kind: graph.Sink, Service: &graph.Service{Connector: &graph.Connector{Type: "file"}}},
			{Name: "show", Kind: graph.Sink, Service: &graph.Service{Connector: &graph.Connector{Type: "stdout"}}},
		},
		Edges: []graph.Edge{{From: "read", To: "keep"}, {From: "read", To: "show", When: `value.level == "error"`}},
	}
	if err := graph.ASCII(os.Stdout, g); err != nil {
		fmt.Println(err)
	}
	// Output:
	// pipeline default/logs
	//
	//              +----------------+
	//              | read           |
	//              | connector file |
	//              +----------------+
	//                       |
	//            +----------+---------+
	//            v                    v
	//   +----------------+  +------------------+
	//   | keep           |  | show             |
	//   | connector file |  | connector stdout |
	//   +----------------+  +------------------+
	//
	//   read -> show: when value.level == "error"
}
