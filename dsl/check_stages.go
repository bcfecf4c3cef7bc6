package dsl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/conveyor-etl/conveyor/dsl/graph"

	"github.com/conveyor-etl/conveyor/dsl/internal/yamlsrc"
)

func stagePath(i int) string { return fmt.Sprintf("spec.stages[%d]", i) }

// checkStages checks the DAG of a pipeline that spells it out.
func (d *decoder) checkStages(s *PipelineSpec) {
	if n := d.place.values["spec.stages"]; n.Kind != yamlsrc.List {
		return
	}
	if len(s.Stages) == 0 {
		d.report(CodeNoValue, "spec.stages", "spec.stages is empty").Suggestion = "add a source stage and a sink stage"
		return
	}
	faults := len(d.diags)
	first := map[string]string{}
	for i, st := range s.Stages {
		path := stagePath(i)
		if !d.isMap(path) {
			continue
		}
		if !d.place.has(path + ".name") {
			d.missing(path+".name", "the stage has no name")
		}
		d.checkName(path+".name", st.Name)
		d.checkTwice(first, path+".name", st.Name, "stage")
		d.checkStage(path, st)
	}
	for i, st := range s.Stages {
		d.checkFrom(stagePath(i), st, s.Stages)
	}
	d.checkEnds(s)
	// What a faulty stage makes of its neighbours is not worth reporting.
	if len(d.diags) == faults {
		d.checkFlow(s)
	}
}

func (d *decoder) checkStage(path string, st Stage) {
	d.oneOf(path, []string{"source", "transform", "sink", "cel"}, "fields", "jq", "dedupe", "wasm")
	d.checkName(path+".source", st.Source)
	d.checkName(path+".transform", st.Transform)
	d.checkName(path+".sink", st.Sink)
	if st.CEL != nil && d.isMap(path+".cel") {
		d.oneOf(path+".cel", []string{"filter", "map"})
	}
	if st.Source != "" {
		for _, f := range []string{"from", "when"} {
			if d.place.has(path + "." + f) {
				d.reportKey(CodeDirection, path+"."+f, fmt.Sprintf("the stage %q is a source, so nothing arrives at it", st.Name)).Suggestion = "remove " + f
			}
		}
	} else if n := d.place.values[path+".from"]; st.Name != "" && (n == nil || n.Kind == yamlsrc.List && len(n.Items) == 0) {
		d.report(CodeUnreachable, path+".name", fmt.Sprintf("no source feeds the stage %q", st.Name)).Suggestion = "say with from where its records come from"
	}
	if st.Sink == "" && d.place.has(path+".delivery") {
		d.reportKey(CodeMisplaced, path+".delivery", "delivery belongs to a sink")
	}
	if st.Parallelism != nil && *st.Parallelism > 1 {
		d.notAvailable(path+".parallelism", fmt.Sprintf("parallelism: %d", *st.Parallelism), false)
	} else {
		d.checkRange(path+".parallelism", st.Parallelism, 1, 1)
	}
}

func (d *decoder) checkFrom(path string, st Stage, stages []Stage) {
	var names []string
	for _, other := range stages {
		if other.Name != "" && other.Name != st.Name {
			names = append(names, other.Name)
		}
	}
	first := map[string]string{}
	for j, from := range st.From {
		if from == "" {
			continue
		}
		p := fmt.Sprintf("%s.from[%d]", path, j)
		d.checkTwice(first, p, from, "stage")
		i := slices.IndexFunc(stages, func(other Stage) bool { return other.Name == from })
		switch {
		case i < 0:
			diag := d.report(CodeUnknownStage, p, fmt.Sprintf("unknown stage %q", clip(from)))
			diag.Label = "no stage of this name in the pipeline"
			d.meantValue(diag, p, closest(from, names))
		case from == st.Name:
			d.report(CodeCycle, p, fmt.Sprintf("the stage %q reads from itself", from))
		case stages[i].Sink != "":
			d.report(CodeDirection, p, fmt.Sprintf("the stage %q is a sink, so nothing comes out of it", from))
		}
	}
}

func (d *decoder) checkEnds(s *PipelineSpec) {
	var source, sink, required bool
	for i, st := range s.Stages {
		source = source || d.place.has(stagePath(i)+".source")
		isSink := d.place.has(stagePath(i) + ".sink")
		sink = sink || isSink
		required = required || isSink && st.Delivery != DeliveryBestEffort
	}
	if !source {
		d.report(CodeMissingField, "spec.stages", "the pipeline has no source stage").Suggestion = "add {name: ..., source: ...}"
	}
	if !sink {
		d.report(CodeMissingField, "spec.stages", "the pipeline has no sink stage").Suggestion = "add {name: ..., sink: ..., from: [...]}"
	} else if !required {
		d.report(CodeMisplaced, "spec.stages", "every sink is best-effort, so nothing would be delivered for sure").Suggestion = "leave one of them required"
	}
}

// checkFlow reports cycles and stages whose results reach no sink.
func (d *decoder) checkFlow(s *PipelineSpec) {
	g := stageGraph(s)
	index := make(map[string]int, len(s.Stages))
	for i, st := range s.Stages {
		index[st.Name] = i
	}
	cycles := g.Cycles()
	for _, c := range cycles {
		d.reportCycle(s, index, c)
	}
	if len(cycles) > 0 {
		return
	}
	// Without a cycle, and with from on every stage that is not a source, each stage is fed by a source.
	drained := map[string]bool{}
	for _, n := range g.Nodes {
		if n.Kind == graph.Sink {
			drained[n.Name] = true
			for _, up := range g.Upstream(n.Name) {
				drained[up] = true
			}
		}
	}
	for i, st := range s.Stages {
		if !drained[st.Name] {
			d.report(CodeNoSink, stagePath(i)+".name", fmt.Sprintf("no sink takes the records of the stage %q", st.Name)).
				Suggestion = fmt.Sprintf("add a sink stage with from: [%s]", st.Name)
		}
	}
}

// reportCycle names the stages of a cycle in the order of the flow, and the place of each edge.
func (d *decoder) reportCycle(s *PipelineSpec, index map[string]int, cycle []string) {
	var related []Related
	for i, name := range cycle {
		to := cycle[(i+1)%len(cycle)]
		st := index[to]
		j := slices.Index(s.Stages[st].From, name)
		span := d.place.span(fmt.Sprintf("%s.from[%d]", stagePath(st), j))
		related = append(related, Related{
			File: d.place.file, Line: span.Line, Column: span.Column, Message: fmt.Sprintf("%q reads from %q", to, name),
		})
	}
	way := strings.Join(append(slices.Clone(cycle), cycle[0]), " -> ")
	to := index[cycle[0]]
	path := fmt.Sprintf("%s.from[%d]", stagePath(to), slices.Index(s.Stages[to].From, cycle[len(cycle)-1]))
	diag := d.report(CodeCycle, path, "the stages form a cycle: "+way)
	diag.Related, diag.Suggestion = related, "remove one of these edges"
}

// stageGraph is the bare DAG of stages that are spelt out.
func stageGraph(s *PipelineSpec) *graph.Graph {
	g := &graph.Graph{}
	for _, st := range s.Stages {
		kind := graph.Transform
		switch {
		case st.Source != "":
			kind = graph.Source
		case st.Sink != "":
			kind = graph.Sink
		}
		g.Nodes = append(g.Nodes, graph.Node{Name: st.Name, Kind: kind})
		for _, from := range st.From {
			g.Edges = append(g.Edges, graph.Edge{From: from, To: st.Name, When: st.When, BestEffort: st.Delivery == DeliveryBestEffort})
		}
	}
	return g
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
