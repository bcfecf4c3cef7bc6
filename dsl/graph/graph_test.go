package graph_test

import (
	"bytes"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/dsl/graph"
)

var update = flag.Bool("update", false, "write the golden files")

func node(name string, kind graph.Kind, s *graph.Service) graph.Node {
	return graph.Node{Name: name, Kind: kind, Ref: "default/" + name, Service: s, Unresolved: s == nil}
}

func connector(t string) *graph.Service { return &graph.Service{Connector: &graph.Connector{Type: t}} }

// diamond has fan-out, fan-in, an edge over two layers, a condition, a best-effort edge and a missing service.
func diamond() *graph.Graph {
	dead := node("errors", graph.Sink, connector("file"))
	return &graph.Graph{
		Pipeline: graph.Pipeline{Namespace: "default", Name: "diamond"},
		Nodes: []graph.Node{
			node("orders", graph.Source, connector("file")), node("refunds", graph.Source, &graph.Service{Endpoint: "refunds:50051"}),
			node("big", graph.Transform, &graph.Service{Filter: "value.size > 1"}), node("shape", graph.Transform, &graph.Service{Map: "value"}),
			node("geo", graph.Transform, nil), node("warehouse", graph.Sink, connector("stdout")), node("archive", graph.Sink, connector("blackhole")),
		},
		Edges: []graph.Edge{
			{From: "orders", To: "big"},
			{From: "big", To: "shape"},
			{From: "big", To: "geo", When: "value.country ==\n \"\x1bDE\""},
			{From: "shape", To: "warehouse"},
			{From: "geo", To: "warehouse"},
			{From: "refunds", To: "warehouse"},
			{From: "orders", To: "archive", BestEffort: true},
		},
		DeadLetter: &dead,
	}
}

// nasty has names and labels that each language reads as its own.
func nasty() *graph.Graph {
	return &graph.Graph{
		Pipeline: graph.Pipeline{Namespace: `a"];}`, Name: `<b>&\n|end`},
		Nodes: []graph.Node{
			node("end", graph.Source, connector(`x"]; evil [`)), node(`say "hi" <script>`, graph.Transform, &graph.Service{Endpoint: `\N`}),
			node("class", graph.Sink, connector("`|#quot;")),
		},
		Edges: []graph.Edge{{From: "end", To: `say "hi" <script>`, When: `value.a == "|]" && '\''`}, {From: `say "hi" <script>`, To: "class"}},
	}
}

func TestDrawings_AreAsTheyWere(t *testing.T) {
	chain := diamond()
	chain.Pipeline.Name, chain.DeadLetter = "chain", nil
	chain.Nodes = slices.Delete(slices.Clone(chain.Nodes), 3, 7)
	chain.Edges = []graph.Edge{{From: "orders", To: "big"}, {From: "refunds", To: "big"}}
	for name, draw := range map[string]func(io.Writer, ...*graph.Graph) error{
		"graphs.dot": graph.DOT, "graphs.mmd": graph.Mermaid, "graphs.txt": graph.ASCII,
	} {
		var b bytes.Buffer
		if err := draw(&b, diamond(), chain, nasty()); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestDOT_IsReadByGraphviz(t *testing.T) {
	dot, err := exec.LookPath("dot")
	if err != nil {
		t.Skip("dot (Graphviz) is not installed")
	}
	var b bytes.Buffer
	if err := graph.DOT(&b, diamond(), nasty()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dot, "-Tplain")
	cmd.Stdin = &b
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	nodes := strings.Count(string(out), "\nnode ")
	edges := strings.Count(string(out), "\nedge ")
	if nodes != 11 || edges != 9 {
		t.Errorf("Graphviz sees %d nodes and %d edges:\n%s", nodes, edges, out)
	}
}

// random makes a DAG, whose edges lead from lower to higher numbers.
func random(t *rapid.T) *graph.Graph {
	g := &graph.Graph{Pipeline: graph.Pipeline{Namespace: "default", Name: "random"}}
	n := rapid.IntRange(1, 14).Draw(t, "nodes")
	for i := range n {
		name := string(rune('a'+i)) + strings.Repeat("x", rapid.IntRange(0, 40).Draw(t, "length"))
		g.Nodes = append(g.Nodes, node(name, graph.Transform, connector("c")))
		for j := range i {
			if rapid.IntRange(0, 3).Draw(t, "edge") == 0 {
				g.Edges = append(g.Edges, graph.Edge{From: g.Nodes[j].Name, To: name})
			}
		}
	}
	return g
}

func TestASCII_KeepsToItsWidthAndShowsEveryStage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := random(t)
		var b strings.Builder
		if err := graph.ASCII(&b, g); err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(b.String(), "\n") {
			if utf8.RuneCountInString(line) > graph.Width {
				t.Fatalf("%d columns:\n%s", utf8.RuneCountInString(line), b.String())
			}
		}
		for _, n := range g.Nodes {
			if !strings.Contains(b.String(), n.Name[:1]) {
				t.Fatalf("%s is not drawn:\n%s", n.Name, b.String())
			}
		}
	})
}

func TestOrder_PutsEveryNodeAfterWhatFeedsIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := random(t)
		names := rapid.Permutation(g.Nodes).Draw(t, "order")
		g.Nodes = names
		order, ok := g.Order()
		if !ok || len(order) != len(g.Nodes) || len(g.Cycles()) > 0 {
			t.Fatalf("got %v, %v, cycles %v", order, ok, g.Cycles())
		}
		for _, e := range g.Edges {
			if slices.Index(order, e.From) > slices.Index(order, e.To) {
				t.Fatalf("%s comes before %s", e.To, e.From)
			}
		}
		for _, n := range g.Nodes {
			for _, up := range g.Upstream(n.Name) {
				if !slices.Contains(g.Downstream(up), n.Name) {
					t.Fatalf("%s is upstream of %s but not the other way", up, n.Name)
				}
			}
		}
	})
}

func TestCycles_FollowTheFlow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := random(t)
		back := graph.Edge{
			From: rapid.SampledFrom(g.Nodes).Draw(t, "from").Name, To: rapid.SampledFrom(g.Nodes).Draw(t, "to").Name,
		}
		cyclic := back.From == back.To || slices.Contains(g.Upstream(back.From), back.To)
		g.Edges = append(g.Edges, back)
		cycles := g.Cycles()
		if _, ok := g.Order(); ok == cyclic || (len(cycles) > 0) != cyclic {
			t.Fatalf("cyclic is %v, got order %v and cycles %v", cyclic, ok, cycles)
		}
		for _, c := range cycles {
			for i := range c {
				if !slices.ContainsFunc(g.Edges, func(e graph.Edge) bool { return e.From == c[i] && e.To == c[(i+1)%len(c)] }) {
					t.Fatalf("%v is not a cycle", c)
				}
			}
		}
		if err := graph.ASCII(io.Discard, g); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNeighbours(t *testing.T) {
	g := diamond()
	if diff := cmp.Diff([]string{"orders", "refunds"}, g.Sources()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"warehouse", "archive"}, g.Sinks()); diff != "" {
		t.Error(diff)
	}
	if len(g.In("warehouse")) != 3 || len(g.Out("big")) != 2 || g.Node("nobody") != nil || !g.Node("big").Service.BuiltIn() {
		t.Error("wrong neighbours")
	}
	if diff := cmp.Diff([]string{"orders", "refunds", "big", "shape", "geo"}, g.Upstream("warehouse")); diff != "" {
		t.Error(diff)
	}
}
