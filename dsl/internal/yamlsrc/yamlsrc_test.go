package yamlsrc_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/dsl/internal/yamlsrc"
)

// spans lists every scalar and key with the piece of the text that its span covers.
func spans(text *yamlsrc.Text, n *yamlsrc.Node) []string {
	var out []string
	piece := func(n *yamlsrc.Node) {
		line := []rune(text.Line(n.Line))
		out = append(out, n.Text+"="+string(line[n.Column-1:n.EndColumn-1]))
	}
	for i, item := range n.Items {
		if n.Kind == yamlsrc.Map {
			piece(n.Keys[i])
		}
		if item.Kind == yamlsrc.Map || item.Kind == yamlsrc.List {
			out = append(out, spans(text, item)...)
		} else {
			piece(item)
		}
	}
	return out
}

func TestSpans_CoverTheTextOfEachScalar(t *testing.T) {
	const yml = "a: b\n\"q\\u0041\": 'it''s'\né: {ü: \"x\\\"y\", n: 0x10}\nl: [1.50, ~, yes]\nblock: |\n  text\nplain: two words # note\r\nlast: \"\"\n"
	docs, problems := yamlsrc.ParseYAML([]byte(yml))
	if len(problems) > 0 || len(docs) != 1 {
		t.Fatal(problems)
	}
	want := []string{
		"a=a", "b=b", "qA=\"q\\u0041\"", "it's='it''s'", "é=é", "ü=ü", `x"y="x\"y"`, "n=n", "16=0x10", "l=l", "1.5=1.50", "=~", "yes=yes",
		"block=block", "text\n=|", "plain=plain", "two words=two words", "last=last", `=""`,
	}
	if diff := cmp.Diff(want, spans(yamlsrc.NewText([]byte(yml)), docs[0])); diff != "" {
		t.Error(diff)
	}
	const jsn = "{\"a\": \"b\\n\",\n \"é\": [\"ü\", -1.50, true ,null], \"x\":{\"y\" : 1}}"
	docs, problems = yamlsrc.ParseJSON([]byte(jsn))
	if len(problems) > 0 || len(docs) != 1 {
		t.Fatal(problems)
	}
	want = []string{`a="a"`, "b\n=\"b\\n\"", `é="é"`, `ü="ü"`, "-1.5=-1.50", "true=true", "=null", `x="x"`, `y="y"`, "1=1"}
	if diff := cmp.Diff(want, spans(yamlsrc.NewText([]byte(jsn)), docs[0])); diff != "" {
		t.Error(diff)
	}
}

func TestLargeTextsOnOneLine_TakeNoTime(t *testing.T) {
	for name, text := range map[string]string{
		"flow": "{a: [" + strings.Repeat("é,", 60_000) + "]}",
		"json": "{\"a\": [" + strings.Repeat("\"é\",", 40_000) + "1]}",
		"deep": strings.Repeat("[", 1<<20), "deeper": strings.Repeat("- ", 1<<19), "documents": strings.Repeat("--- [\n", 30_000), "keys": strings.Repeat("? ", 1<<19),
	} {
		for _, read := range []func([]byte) ([]*yamlsrc.Node, []yamlsrc.Problem){yamlsrc.ParseYAML, yamlsrc.ParseJSON} {
			start := time.Now()
			read([]byte(text))
			if d := time.Since(start); d > 30*time.Second {
				t.Errorf("%s took %v", name, d)
			} else {
				t.Log(name, d)
			}
		}
	}
}

func TestJSONFaults_HaveTheirPlace(t *testing.T) {
	for text, want := range map[string]yamlsrc.Span{
		"{\"a\":\n  x}": {Line: 2, Column: 3, EndColumn: 4},
		"{\"é\": 1,":    {Line: 1, Column: 9, EndColumn: 10},
		"[1 2]":         {Line: 1, Column: 4, EndColumn: 5},
	} {
		_, problems := yamlsrc.ParseJSON([]byte(text))
		if len(problems) != 1 || problems[0].Span != want {
			t.Errorf("%q: got %+v, want %v", text, problems, want)
		}
	}
}
