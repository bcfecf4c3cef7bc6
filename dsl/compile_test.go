package dsl_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/dsl/graph"
)

func compile(t *testing.T, text string) (*graph.Graph, []dsl.Diagnostic) {
	t.Helper()
	set, diags := dsl.Loader{Stdin: strings.NewReader(text)}.Load([]string{"-"})
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	return dsl.Compile(set.Lookup, set.Pipelines()[0])
}

func TestCompile_ChainWithFanInAndFanOut(t *testing.T) {
	long := strings.Repeat("t", 63)
	g, diags := compile(t, pipeline("  sources: [in, in3]\n  steps: [t, "+long+", t, "+long+"]\n  sinks: [{name: out, when: 'value.a'}, {name: t, delivery: best-effort}]\n  dlq: {sink: out2}")+
		services+service("Source", "in3", "{grpc: {endpoint: 'h:1'}, config: {b: 1, a: [x]}}"))
	long2 := long[:61] + "-2"
	want := &graph.Graph{
		Pipeline: graph.Pipeline{Namespace: "default", Name: "p"},
		Nodes: []graph.Node{
			{Name: "in", Kind: graph.Source, Ref: "default/in", Service: &graph.Service{Connector: &graph.Connector{Type: "generate"}}},
			{Name: "in3", Kind: graph.Source, Ref: "default/in3", Service: &graph.Service{Endpoint: "h:1", Config: json.RawMessage(`{"a":["x"],"b":1}`)}},
			{Name: "t", Kind: graph.Transform, Ref: "default/t", Service: &graph.Service{Filter: "true"}},
			{Name: long, Kind: graph.Transform, Ref: "default/" + long, Unresolved: true},
			{Name: "t-2", Kind: graph.Transform, Ref: "default/t", Service: &graph.Service{Filter: "true"}},
			{Name: long2, Kind: graph.Transform, Ref: "default/" + long, Unresolved: true},
			{Name: "out", Kind: graph.Sink, Ref: "default/out", Service: &graph.Service{Connector: &graph.Connector{Type: "log"}}},
			{Name: "t-3", Kind: graph.Sink, Ref: "default/t", Unresolved: true},
		},
		Edges: []graph.Edge{
			{From: "in", To: "t"},
			{From: "in3", To: "t"},
			{From: "t", To: long},
			{From: long, To: "t-2"},
			{From: "t-2", To: long2},
			{From: long2, To: "out", When: "value.a"},
			{From: long2, To: "t-3", BestEffort: true},
		},
		DeadLetter: &graph.Node{Name: "out2", Kind: graph.Sink, Ref: "default/out2", Service: &graph.Service{Endpoint: "localhost:1"}},
	}
	if diff := cmp.Diff(want, g); diff != "" {
		t.Error(diff)
	}
	if len(diags) != 3 || dsl.HasErrors(diags) || diags[0].Line != 6 {
		t.Errorf("got %v", diags)
	}
}

func TestCompile_StagesBecomeTheSameGraphAsAChain(t *testing.T) {
	chain, _ := compile(t, pipeline("  source: in\n  steps: [t]\n  sinks: [{name: out, when: 'value.a'}, {name: out2, delivery: best-effort}]")+services)
	spelt, diags := compile(t, pipeline("  stages:\n  - {name: in, source: in}\n  - {name: t, transform: t, from: [in]}\n"+
		"  - {name: out, sink: out, from: [t], when: 'value.a'}\n  - {name: out2, sink: out2, from: [t], delivery: best-effort}")+services)
	if diff := cmp.Diff(chain, spelt); diff != "" || len(diags) > 0 {
		t.Error(diff, diags)
	}
}

func TestCompile_InlineStageHasNoManifest(t *testing.T) {
	g, _ := compile(t, pipeline("  stages:\n  - {name: in, source: in}\n  - {name: c, cel: {map: 'value'}, from: [in]}\n  - {name: out, sink: out, from: [c, in]}")+services)
	if n := g.Node("c"); n.Ref != "" || n.Service.Map != "value" || n.Unresolved || !n.Service.BuiltIn() {
		t.Errorf("got %+v", n)
	}
	if len(g.In("out")) != 2 {
		t.Errorf("got %v", g.Edges)
	}
}

func TestCompile_SurvivesAGraphThroughJSON(t *testing.T) {
	g, _ := compile(t, pipeline("  source: in\n  steps: [missing]\n  sink: out\n  dlq: {sink: out}")+services)
	text, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	var back graph.Graph
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(g, &back); diff != "" {
		t.Error(diff)
	}
	var b bytes.Buffer
	if err := graph.ASCII(&b, &back); err != nil || !strings.Contains(b.String(), "not found") {
		t.Error(b.String(), err)
	}
}

func TestCompile_RefusesWhatIsNoPipeline(t *testing.T) {
	rs, _ := dsl.Parse("x", []byte(sink("x")))
	if g, diags := dsl.Compile((&dsl.Set{}).Lookup, rs[0]); g != nil || !dsl.HasErrors(diags) {
		t.Errorf("got %v, %v", g, diags)
	}
	byHand := &dsl.Resource{Kind: dsl.KindPipeline, Metadata: dsl.Metadata{Name: "p"}, Spec: &dsl.PipelineSpec{Stages: []dsl.Stage{
		{Name: "a", Transform: "t", From: []string{"b", "nobody"}}, {Name: "b", Transform: "t", From: []string{"a"}}, {Name: "c"},
	}}}
	if g, diags := dsl.Compile((&dsl.Set{}).Lookup, byHand); g != nil || !dsl.HasErrors(diags) {
		t.Errorf("got %v, %v", g, diags)
	}
}
