package dsl_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/dsl/expr"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// all reads and validates one text, as a command does.
func all(t *testing.T, text string) []dsl.Diagnostic {
	t.Helper()
	set, diags := dsl.Loader{Stdin: strings.NewReader(text)}.Load([]string{"-"})
	return append(diags, dsl.Validate(set, dsl.Options{MissingReference: dsl.Error, CheckExpr: expr.Check, CheckConnector: checkConnector})...)
}

func checkConnector(_, connector string, config []byte) []dsl.ConnectorFault {
	switch {
	case connector == "stdotu":
		return []dsl.ConnectorFault{{Unknown: true, Known: []string{"file", "stdout"}}}
	case strings.Contains(string(config), "colour"):
		return []dsl.ConnectorFault{{Field: "colour", Message: "unknown field"}, {Field: "tls.key", Message: "is required"}, {Message: "must be an object"}}
	}
	return nil
}

func TestValidate_FaultsOfConnectorsHaveTheirPlaceAndSeverity(t *testing.T) {
	set, diags := dsl.Loader{Stdin: strings.NewReader(service("Sink", "a", "{connector: {type: stdotu}}") + service("Sink", "b", "{connector: {type: x, config: {colour: red}}}"))}.Load([]string{"-"})
	diags = append(diags, dsl.Validate(set, dsl.Options{CheckConnector: checkConnector})...)
	var got []string
	for _, d := range diags {
		text := []rune(strings.Split(string(set.Source("-")), "\n")[d.Line-1])[d.Column-1 : d.EndColumn-1]
		got = append(got, fmt.Sprintf("%s %s %q %s (%s)", d.Severity, d.Code, string(text), d.Message, d.Suggestion))
	}
	want := []string{
		`warning CV0501 "stdotu" there is no ready-made sink of type "stdotu" (did you mean "stdout"?)`,
		`error CV0502 "colour" config of connector x: colour: unknown field ()`,
		`error CV0502 "config" config of connector x: tls.key: is required ()`,
		`error CV0502 "config" config of connector x: must be an object ()`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func pipeline(spec string) string {
	return "apiVersion: conveyor.etl/v1\nkind: Pipeline\nmetadata: {name: p}\nspec:\n" + spec
}

func service(kind, name, spec string) string {
	return "\n---\napiVersion: conveyor.etl/v1\nkind: " + kind + "\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

var services = service("Source", "in", "{connector: {type: generate}}") + service("Transform", "t", "{cel: {filter: 'true'}}") +
	service("Sink", "out", "{connector: {type: log}}") + service("Sink", "out2", "{grpc: {endpoint: 'localhost:1'}}")

func TestUsersManifests_ParseAsTheyStand(t *testing.T) {
	set, diags := dsl.Load([]string{"testdata/users.yaml"})
	if len(diags) > 0 || len(set.Resources) != 3 {
		t.Fatalf("got %d resources, %v", len(set.Resources), diags)
	}
	r, ok := set.Lookup(dsl.KindTransform, "default", "filter-active")
	if !ok || r.Service().GRPC.Endpoint != "filter-svc:50051" {
		t.Fatalf("got %v", r)
	}
	p := set.Pipelines()[0].Pipeline()
	if p.Source != "kafka-users" || len(p.Steps) != 2 || p.DeadLetterSink() != "error-handler" || p.Retries().Max != 3 || !p.IsEnabled() ||
		p.DeliveryOptions().Ordering != dsl.OrderingKey {
		t.Errorf("got %+v", p)
	}
	diags = dsl.Validate(set, dsl.Options{CheckExpr: expr.Check})
	if dsl.HasErrors(diags) || len(diags) != 3 {
		t.Errorf("the three services that are not there must be warnings, got %v", diags)
	}
	if diags = dsl.Validate(set, dsl.Options{MissingReference: dsl.Error}); !dsl.HasErrors(diags) {
		t.Error("missing services must be errors where a pipeline is to run")
	}
}

func TestEveryFaultOfAFileIsReportedAtOnce(t *testing.T) {
	set, diags := dsl.Load([]string{"testdata/ten-faults.yaml"})
	diags = append(diags, dsl.Validate(set, dsl.Options{MissingReference: dsl.Error, CheckExpr: expr.Check})...)
	if len(diags) < 10 {
		t.Errorf("got %d diagnostics", len(diags))
	}
	for _, d := range diags {
		if d.Line == 0 || d.Column == 0 || d.EndColumn <= d.Column || d.File == "" {
			t.Errorf("no place: %+v", d)
		}
	}
	var b bytes.Buffer
	if err := dsl.Render(&b, diags, set.Source, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "ten-faults.txt", b.Bytes())
}

func TestEachCode_HasACaseThatProducesIt(t *testing.T) {
	many := strings.Repeat("---\na: 1\n", 1001)
	deep := strings.Repeat("[", 70) + strings.Repeat("]", 70)
	stages := func(s string) string { return pipeline("  stages:\n"+s) + services }
	in, out := "  - {name: in, source: in}\n", "  - {name: out, sink: out, from: [in]}\n"
	cases := map[string][]string{
		dsl.CodeTooLarge:         {strings.Repeat("# comment\n", 120_000)},
		dsl.CodeSyntax:           {"a: b: c", "a: [1", "\tx: 1", "'"},
		dsl.CodeTooDeep:          {"a: " + deep, service("Sink", "s", "{connector: {type: x, config: {a: "+deep+"}}}")},
		dsl.CodeTooManyDocuments: {many},
		dsl.CodeAnchor:           {"a: &x 1\n", "a: &x 1\nb: *x\n"},
		dsl.CodeDuplicateKey:     {"kind: a\nkind: b\n"},
		dsl.CodeUnsupportedYAML:  {"a: !!binary x\n", "a: .inf\n", "? [a]\n: 1\n", "a: !mine x\n"},
		dsl.CodeNotUTF8:          {"a: \xff\n"},
		dsl.CodeNoManifests:      {"", "# nothing\n---\n"},
		dsl.CodeMissingField: {
			"apiVersion: conveyor.etl/v1\n", "kind: Sink\n", service("Sink", "x", "{grpc: {}}"), service("Sink", "x", "{connector: {}}"),
			stages(in), stages("  - {name: out, sink: out, from: [out]}\n"), stages(in + "  - {sink: out, from: [in]}\n"),
			pipeline("  source: in\n  sinks: [{when: 'true'}]") + services,
		},
		dsl.CodeUnknownField: {
			"kin: Sink\n", service("Sink", "x", "{grp: {}}"), service("Sink", "x", "{grpc: {endpoint: 'a:1', port: 3}}"),
			pipeline("  source: in\n  sink: out\n  dlq: {maxretries: 1}") + services,
		},
		dsl.CodeWrongType: {
			"- a\n", "hello\n", "spec: [1]\nkind: Sink\n", pipeline("  source: 7\n  sink: out"), pipeline("  source: in\n  sink: out\n  steps: t"),
			pipeline("  source: in\n  sink: out\n  enabled: 1"), service("Sink", "x", "{connector: {type: file, config: 3}}"),
			pipeline("  source: in\n  sink: out\n  dlq: {maxRetries: 1.5}"),
		},
		dsl.CodeNoValue: {
			pipeline("  source: in\n  sink:\n"), pipeline("  source: ''\n  sink: out\n"), pipeline("  sources: []\n  sink: out\n"), pipeline("  stages: []\n"),
		},
		dsl.CodeAPIVersion:       {"apiVersion: v1\n"},
		dsl.CodeUnknownKind:      {"kind: Pipelin\n"},
		dsl.CodeMissingReference: {pipeline("  source: in\n  sink: nowhere") + services},
		dsl.CodeUnknownValue: {
			pipeline("  source: in\n  sink: out\n  delivery: {ordering: Key}") + services, service("ConveyorCluster", "c", "{image: 'a b'}"),
			pipeline("  source: in\n  sink: out\n  deletionPolicy: orphan") + services,
		},
		dsl.CodeBadName: {
			service("Sink", "A_b", "{connector: {type: log}}"), service("Sink", strings.Repeat("a", 64), "{connector: {type: log}}"),
			pipeline("  source: -in\n  sink: out"), "metadata: {name: a, namespace: B}\n", service("Sink", "s", "{connector: {type: 'a b'}}"),
		},
		dsl.CodeOutOfRange: {
			pipeline("  source: in\n  sink: out\n  dlq: {maxRetries: -1}") + services, service("ConveyorCluster", "c", "{replicas: 2}"),
			pipeline("  source: in\n  sink: out\n  dlq: {maxRetries: 99999999999}"), pipeline("  source: in\n  sink: out\n  delivery: {batchSize: -1}"),
			pipeline("  source: in\n  sink: out\n  dlq: {retryBackoffMs: 10, maxRetryBackoffMs: 5}"),
			pipeline("  source: in\n  sink: out\n  steps: [" + strings.Repeat("t,", 257) + "]"),
			stages(in + "  - {name: out, sink: out, from: [in], parallelism: 0}\n"),
		},
		dsl.CodeBadEndpoint: {
			service("Sink", "x", "{grpc: {endpoint: nohost}}"), service("Sink", "x", "{grpc: {endpoint: 'http://a:1'}}"),
			service("Sink", "x", "{grpc: {endpoint: ':1'}}"), service("Sink", "x", "{grpc: {endpoint: 'a:0'}}"), service("Sink", "x", "{grpc: {endpoint: 'a:99999'}}"),
			service("Sink", "x", "{grpc: {endpoint: 'a b:1'}}"), service("Sink", "x", "{grpc: {endpoint: '::1:1'}}"), service("Sink", "x", "{grpc: {endpoint: 'unix://a'}}"),
		},
		dsl.CodeExclusive: {
			service("Sink", "x", "{}"), service("Sink", "x", "{grpc: {endpoint: 'a:1'}, connector: {type: log}}"), service("Transform", "x", "{cel: {}}"),
			service("Transform", "x", "{cel: {map: '1', filter: 'true'}}"), pipeline("  source: in\n"), pipeline("  source: in\n  sources: [in]\n  sink: out\n"),
			pipeline("  source: in\n  stages:\n"+in+out) + services, stages(in + "  - {name: out, from: [in]}\n"),
		},
		dsl.CodeMisplaced: {
			service("Sink", "x", "{cel: {filter: 'true'}}"), service("Sink", "x", "{connector: {type: log}, config: {a: 1}}"),
			stages("  - {name: in, source: in, delivery: required}\n" + out), pipeline("  source: in\n  sinks: [{name: out, delivery: best-effort}]") + services,
			stages(in + "  - {name: out, sink: out, from: [in], delivery: best-effort}\n"),
		},
		dsl.CodeBadLabel: {"metadata: {name: a, labels: {'a b': c}}\n", "metadata: {name: a, labels: {a: 'b c'}}\n", "metadata: {name: a, annotations: {'/x': c}}\n"},
		dsl.CodeNotAvailable: {
			service("Transform", "x", "{fields: []}"), service("Transform", "x", "{jq: .}"), service("Transform", "x", "{dedupe: {}}"), service("Transform", "x", "{wasm: {}}"),
			service("Sink", "x", "{workload: {image: x}}"), service("Sink", "x", "{grpc: {endpoint: 'a:1'}, configFrom: []}"),
			service("Sink", "x", "{grpc: {endpoint: 'a:1'}, placement: Auto}"), service("Sink", "x", "{grpc: {endpoint: 'a:1', tls: {}}}"),
			pipeline("  source: in\n  sink: out\n  shareStages: true"),
			pipeline("  source: in\n  sink: out\n  dlq: {retention: {}}"), pipeline("  source: in\n  sink: out\n  dlq: {thresholds: {}}"),
			stages(in + "  - {name: out, sink: out, from: [in], parallelism: 2}\n"), stages(in + "  - {name: f, fields: [], from: [in]}\n" + out),
		},
		dsl.CodeDuplicateResource: {service("Sink", "x", "{connector: {type: log}}") + service("Sink", "x", "{connector: {type: log}}")},
		dsl.CodeDuplicateEntry: {
			pipeline("  sources: [in, in]\n  sink: out") + services, pipeline("  source: in\n  sinks: [{name: out}, {name: out}]") + services,
			stages(in + in + out), stages(in + "  - {name: out, sink: out, from: [in, in]}\n"),
		},
		dsl.CodeUnknownStage: {stages(in + "  - {name: out, sink: out, from: [inn]}\n")},
		dsl.CodeCycle: {
			stages(in + "  - {name: a, transform: t, from: [in, b]}\n  - {name: b, transform: t, from: [a]}\n  - {name: out, sink: out, from: [b]}\n"),
			stages(in + "  - {name: a, transform: t, from: [in, a]}\n  - {name: out, sink: out, from: [a]}\n"),
		},
		dsl.CodeUnreachable: {stages(in + "  - {name: out, sink: out}\n"), stages(in + out + "  - {name: a, transform: t}\n")},
		dsl.CodeNoSink:      {stages(in + out + "  - {name: a, transform: t, from: [in]}\n"), stages(in + out + "  - {name: in2, source: in}\n")},
		dsl.CodeDirection: {
			stages("  - {name: in, source: in, from: [out]}\n" + out),
			stages(in + out + "  - {name: a, sink: out2, from: [out]}\n"), stages("  - {name: in, source: in, when: 'true'}\n" + out),
		},
		dsl.CodeWrongKind: {pipeline("  source: out\n  sink: in") + services},
		dsl.CodeBadExpression: {
			service("Transform", "x", "{cel: {filter: 'value.'}}"), service("Transform", "x", "{cel: {map: 'nope'}}"),
			pipeline("  source: in\n  sinks: [{name: out, when: '1'}, {name: out2}]") + services,
			stages(in + "  - {name: c, cel: {map: '{'}, from: [in]}\n  - {name: out, sink: out, from: [c], when: 'x'}\n"),
		},
	}
	cases[dsl.CodeUnknownConnector] = []string{service("Sink", "x", "{connector: {type: stdotu}}")}
	cases[dsl.CodeBadConfig] = []string{service("Sink", "x", "{connector: {type: file, config: {colour: red}}}")}
	for _, info := range dsl.Codes() {
		if info.Title == "" || info.Explanation == "" {
			t.Errorf("%s is not explained", info.Code)
		}
		if info.Code == dsl.CodeUnreadable {
			continue // TestLoad_ReportsWhatCannotBeRead
		}
		if len(cases[info.Code]) == 0 {
			t.Errorf("no case for %s", info.Code)
		}
		for _, text := range cases[info.Code] {
			diags := all(t, text)
			found := false
			for _, d := range diags {
				found = found || d.Code == info.Code
			}
			if !found {
				t.Errorf("%s is not reported for:\n%.400s\nbut: %v", info.Code, text, diags)
			}
		}
	}
}

func TestValidManifests_HaveNoFindings(t *testing.T) {
	for _, text := range []string{
		pipeline("  source: in\n  steps: [t, t]\n  sink: out") + services, pipeline("  source: in\n  sink: out\n  onRouterLoss: continue") + services,
		pipeline("  sources: [in]\n  sinks: [{name: out, when: 'value.a == 1'}, {name: out2, delivery: best-effort}]\n"+
			"  delivery: {ordering: key-strict, batchSize: 10, inFlight: 20, maxSpan: 30}\n  onRouterLoss: pause\n  updatePolicy: drain\n"+
			"  deletionPolicy: drain\n  shareStages: false\n  enabled: false\n  dlq: {sink: out, maxRetries: 0, retryBackoffMs: 1, maxRetryBackoffMs: 1}") + services,
		pipeline("  stages:\n  - {name: in, source: in}\n  - {name: c, cel: {map: '{\"a\": 1}'}, from: [in], parallelism: 1}\n"+
			"  - {name: out, sink: out, from: [c, in], when: 'key == \"x\"'}") + services,
		service("ConveyorCluster", "c", "{replicas: 3, image: 'example/router:1'}"), "apiVersion: conveyor.etl/v1\nkind: ConveyorCluster\nmetadata: {name: c}\n",
		service("Source", "x", "{grpc: {endpoint: 'unix:///run/x.sock'}, config: {a: [1, 2.5, null, true, {b: c}]}}"),
		service("Source", "x", "{grpc: {endpoint: '[::1]:50051'}}"), service("Source", "x", "{grpc: {endpoint: 10.0.0.1:50051}}"),
		"apiVersion: conveyor.etl/v1\nkind: SinkList\nitems:\n- {apiVersion: conveyor.etl/v1, kind: Sink, metadata: {name: x, labels: {a.b/c: d}}, spec: {connector: {type: log}}}\n",
	} {
		if diags := all(t, text); len(diags) > 0 {
			t.Errorf("%s\n%v", text, diags)
		}
	}
}
