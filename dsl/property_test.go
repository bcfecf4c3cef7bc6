package dsl_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/dsl"
)

var (
	genName = rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?`)
	genText = rapid.StringMatching(`[ -~é\n\t"\\<&]{1,12}x`)
)

func genConfig(t *rapid.T, depth int) any {
	switch n := rapid.IntRange(0, 7).Draw(t, "config"); {
	case n == 0 && depth < 3:
		return map[string]any{genName.Draw(t, "k"): genConfig(t, depth+1), genText.Draw(t, "k"): genConfig(t, depth+1)}
	case n == 1 && depth < 3:
		return []any{genConfig(t, depth+1), genConfig(t, depth+1)}
	case n == 2:
		return rapid.Float64Range(-1e300, 1e300).Draw(t, "f")
	case n == 3:
		return rapid.Int64().Draw(t, "i")
	case n == 4:
		return rapid.Bool().Draw(t, "b")
	case n == 5:
		return nil
	}
	return rapid.String().Draw(t, "s")
}

// genManifest makes a valid manifest as a tree.
func genManifest(t *rapid.T) map[string]any {
	meta := map[string]any{"name": genName.Draw(t, "name")}
	if rapid.Bool().Draw(t, "ns") {
		meta["namespace"] = genName.Draw(t, "namespace")
	}
	if rapid.Bool().Draw(t, "ann") {
		meta["annotations"] = map[string]any{genName.Draw(t, "key"): genText.Draw(t, "value")}
	}
	m := map[string]any{"apiVersion": dsl.APIVersion, "metadata": meta}
	if kind := rapid.SampledFrom(dsl.Kinds()).Draw(t, "kind"); kind != dsl.KindPipeline {
		m["kind"] = kind
		m["spec"] = map[string]any{"connector": map[string]any{"type": genName.Draw(t, "type"), "config": map[string]any{"c": genConfig(t, 0)}}}
		if kind == dsl.KindCluster {
			m["spec"] = map[string]any{"replicas": rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "replicas")}
		}
		return m
	}
	m["kind"] = dsl.KindPipeline
	spec := map[string]any{"source": genName.Draw(t, "source"), "steps": rapid.SliceOfN(genName, 0, 3).Draw(t, "steps"), "sink": genName.Draw(t, "sink")}
	if rapid.Bool().Draw(t, "stages") {
		spec = map[string]any{"stages": []any{
			map[string]any{"name": "a", "source": genName.Draw(t, "source")},
			map[string]any{"name": "b", "cel": map[string]any{"map": genText.Draw(t, "expr")}, "from": []string{"a"}, "when": genText.Draw(t, "when")},
			map[string]any{"name": "c", "sink": genName.Draw(t, "sink"), "from": []string{"b", "a"}},
		}}
	}
	if rapid.Bool().Draw(t, "dlq") {
		spec["dlq"] = map[string]any{"maxRetries": rapid.IntRange(0, 1000).Draw(t, "retries"), "retryBackoffMs": rapid.IntRange(0, 86400000).Draw(t, "backoff")}
	}
	if rapid.Bool().Draw(t, "enabled") {
		spec["enabled"] = rapid.Bool().Draw(t, "on")
	}
	m["spec"] = spec
	return m
}

func canonical(t interface{ Fatalf(string, ...any) }, r *dsl.Resource) string {
	b, err := r.CanonicalJSON()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return string(b)
}

func TestCanonicalJSON_RoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, err := json.Marshal(genManifest(t))
		if err != nil {
			t.Fatal(err)
		}
		r, diags := dsl.FromJSON(text)
		if len(diags) > 0 {
			t.Fatalf("%s: %v", text, diags)
		}
		first := canonical(t, r)
		again, diags := dsl.FromJSON([]byte(first))
		if len(diags) > 0 {
			t.Fatalf("%s: %v", first, diags)
		}
		if second := canonical(t, again); second != first {
			t.Fatalf("%s\n%s", first, second)
		}
		var viaGo dsl.Resource
		if err := json.Unmarshal([]byte(first), &viaGo); err != nil || canonical(t, &viaGo) != first {
			t.Fatalf("%s: %v", first, err)
		}
	})
}

func TestCanonicalJSON_IsEqualForEqualManifests(t *testing.T) {
	spellings := []string{
		"apiVersion: conveyor.etl/v1\nkind: Source\nmetadata: {name: x}\nspec:\n  connector:\n    type: file\n    config: {b: 16, a: [1.0, 'x'], c: null, d: true}\n",
		"# a comment\nkind: \"Source\"\nspec: {connector: {config: {d: True, c: ~, a: [1, x], b: 0x10}, type: 'file'}}\nmetadata:\n  namespace: default\n  name: x\napiVersion: conveyor.etl/v1\n",
		`{"apiVersion":"conveyor.etl/v1","kind":"Source","metadata":{"name":"x"},"spec":{"connector":{"type":"file","config":{"a":[1e0,"x"],"b":16,"c":null,"d":true}}}}`,
	}
	want := `{"apiVersion":"conveyor.etl/v1","kind":"Source","metadata":{"name":"x","namespace":"default"},` +
		`"spec":{"connector":{"config":{"a":[1,"x"],"b":16,"c":null,"d":true},"type":"file"}}}`
	for _, s := range spellings {
		rs, diags := dsl.Parse("x", []byte(s))
		if len(rs) != 1 {
			t.Fatalf("%s: %v", s, diags)
		}
		if diff := cmp.Diff(want, canonical(t, rs[0])); diff != "" {
			t.Errorf("%s: %s", s, diff)
		}
	}
}

func TestFromJSON_IsAsStrictAsParse(t *testing.T) {
	for text, code := range map[string]string{
		`{"apiVersion":"conveyor.etl/v1","kind":"Sink","metadata":{"name":"x"},"spec":{"connector":{"type":"log"},"x":1}}`: dsl.CodeUnknownField,
		`{"kind":"Sink","kind":"Sink"}`: dsl.CodeDuplicateKey,
		`{"kind":`:                      dsl.CodeSyntax,
		`{"kind":"Sink"} x`:             dsl.CodeSyntax,
		``:                              dsl.CodeNoManifests,
		`null`:                          dsl.CodeWrongType,
		strings.Repeat("[", 100) + strings.Repeat("]", 100): dsl.CodeTooDeep,
		"{\"kind\":\"\xff\"}":                               dsl.CodeNotUTF8,
	} {
		r, diags := dsl.FromJSON([]byte(text))
		found := false
		for _, d := range diags {
			found = found || d.Code == code
			if d.Line != 0 {
				t.Errorf("a place without a text: %v", d)
			}
		}
		if !found || r != nil {
			t.Errorf("%s: got %v, want %s", text, diags, code)
		}
	}
	one := `{"apiVersion":"conveyor.etl/v1","kind":"Sink","metadata":{"name":"x"},"spec":{"connector":{"type":"log"}}}`
	if r, diags := dsl.FromJSON([]byte(one + one)); r != nil || len(diags) == 0 {
		t.Error("two manifests passed for one")
	}
}

func FuzzParse_EndsAndAcceptsOnlyWhatRoundTrips(f *testing.F) {
	for _, s := range []string{
		pipeline("  source: in\n  sink: out") + services, "a: &x [*x]\n", "--- [\n--- [\n", "%YAML 1.1\n---\na: 1\n", "? |\n  a\n: >-\n  b\n", "a: !!binary x\n",
		"\ufeffa: 1", "a:\r\n  b\r\nc: d\u2028e: 1", `{"a": "\u00e9", "b": [1e400]}`, "0o17: 0x1F_2\n", "- - - -\n", "a: \"\\x41\n  b\"\n", "'a''b': c\n", "a\x00b: 1",
		"---\n...\n---\n", strings.Repeat("{a: ", 100),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, name := range []string{"x.yaml", "x.json"} {
			start := time.Now()
			rs, diags := dsl.Parse(name, data)
			if d := time.Since(start); d > 20*time.Second {
				t.Fatalf("took %v", d)
			}
			for _, d := range diags {
				if d.Code == "" || d.Message == "" || d.Line < 1 || d.Column < 1 {
					t.Fatalf("%q: a diagnostic without code or place: %+v", data, d)
				}
			}
			if err := dsl.Render(&strings.Builder{}, diags, func(string) []byte { return data }, true); err != nil {
				t.Fatal(err)
			}
			for _, r := range rs {
				first := canonical(t, r)
				again, diags := dsl.FromJSON([]byte(first))
				if again == nil || canonical(t, again) != first {
					t.Fatalf("%q: %s does not round trip: %v", data, first, diags)
				}
			}
			dsl.Validate(&dsl.Set{Resources: rs}, dsl.Options{CheckExpr: func(dsl.ExprKind, string) error { return fmt.Errorf("no") }})
			for _, r := range rs {
				if r.Kind == dsl.KindPipeline {
					dsl.Compile((&dsl.Set{Resources: rs}).Lookup, r)
				}
			}
		}
	})
}
