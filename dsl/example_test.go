package dsl_test

import (
	"fmt"
	"os"
	"strings"

	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/dsl/expr"
	"github.com/conveyor-etl/conveyor/dsl/graph"
)

const manifests = `
{apiVersion: conveyor.etl/v1, kind: Source, metadata: {name: in}, spec: {connector: {type: file, config: {path: /data/in.ndjson}}}}
---
{apiVersion: conveyor.etl/v1, kind: Transform, metadata: {name: big}, spec: {cel: {filter: 'value.size > 1000'}}}
---
{apiVersion: conveyor.etl/v1, kind: Sink, metadata: {name: out}, spec: {connector: {type: stdout}}}
---
{apiVersion: conveyor.etl/v1, kind: Pipeline, metadata: {name: p}, spec: {source: in, steps: [big], sink: out}}
`

func Example() {
	set, diags := dsl.Loader{Stdin: strings.NewReader(manifests)}.Load([]string{"-"})
	diags = append(diags, dsl.Validate(set, dsl.Options{CheckExpr: expr.Check})...)
	if err := dsl.Render(os.Stdout, diags, set.Source, false); err != nil {
		fmt.Println(err)
	}
	for _, p := range set.Pipelines() {
		g, _ := dsl.Compile(set.Lookup, p)
		if err := graph.ASCII(os.Stdout, g); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// pipeline default/p
	//
	//    +----------------+
	//    | in             |
	//    | connector file |
	//    +----------------+
	//             |
	//             v
	//      +------------+
	//      | big        |
	//      | cel filter |
	//      +------------+
	//             |
	//             v
	//   +------------------+
	//   | out              |
	//   | connector stdout |
	//   +------------------+
}

func ExampleRender() {
	text := "apiVersion: conveyor.etl/v1\nkind: Sink\nmetadata: {name: out}\nspec:\n  conector: {type: log}\n"
	_, diags := dsl.Parse("sink.yaml", []byte(text))
	if err := dsl.Render(os.Stdout, diags, func(string) []byte { return []byte(text) }, false); err != nil {
		fmt.Println(err)
	}
	// Output:
	// error[CV0102]: unknown field "conector"
	//  --> sink.yaml:5:3
	// 5 |   conector: {type: log}
	//   |   ^^^^^^^^ known here: cel, config, connector or grpc
	//   = help: did you mean "connector"?
}
