package dsl_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/dsl"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func names(set *dsl.Set) []string {
	var out []string
	for _, r := range set.Resources {
		out = append(out, r.Metadata.Name)
	}
	return out
}

func sink(name string) string { return service("Sink", name, "{connector: {type: log}}") }

func TestLoad_ReadsDirectoriesInOrderAndEachFileOnce(t *testing.T) {
	dir := t.TempDir()
	b := write(t, dir, "b.yml", sink("b1")+sink("b2"))
	write(t, dir, "a/z.yaml", sink("az"))
	write(t, dir, "c.JSON", `{"apiVersion":"conveyor.etl/v1","kind":"Sink","metadata":{"name":"c"},"spec":{"connector":{"type":"log","config":{"u":"\ud83d\ude00\/"}}}}`)
	write(t, dir, "README.md", "not: [a manifest")
	write(t, dir, ".git/x.yaml", "not: [a manifest")
	set, diags := dsl.Loader{Stdin: strings.NewReader(sink("stdin"))}.Load([]string{dir, b, "-"})
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	if diff := cmp.Diff([]string{"az", "b1", "b2", "c", "stdin"}, names(set)); diff != "" {
		t.Error(diff)
	}
	if c, _ := set.Lookup(dsl.KindSink, "default", "c"); string(c.Service().Connector.Config) != `{"u":"😀/"}` {
		t.Errorf("got %s", c.Service().Connector.Config)
	}
}

func TestLoad_ReportsWhatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	good := write(t, dir, "good.yaml", sink("good"))
	if err := os.Symlink("nowhere", filepath.Join(dir, "broken.yaml")); err != nil {
		t.Fatal(err)
	}
	for _, paths := range [][]string{{good, filepath.Join(dir, "absent.yaml")}, {dir}, {good, "-"}} {
		set, diags := dsl.Load(paths)
		if len(diags) != 1 || diags[0].Code != dsl.CodeUnreadable || len(set.Resources) != 1 {
			t.Errorf("%v: got %v, %v", paths, names(set), diags)
		}
	}
	if _, diags := (dsl.Loader{Stdin: iotest.ErrReader(errors.New("cut"))}).Load([]string{"-"}); len(diags) != 1 || diags[0].Code != dsl.CodeUnreadable {
		t.Errorf("got %v", diags)
	}
	if _, diags := dsl.Load([]string{t.TempDir()}); len(diags) != 1 || diags[0].Code != dsl.CodeNoManifests {
		t.Errorf("got %v", diags)
	}
}

func TestParse_GoesOnAfterASyntaxErrorAtTheNextDocument(t *testing.T) {
	rs, diags := dsl.Parse("x.yaml", []byte("a: [1\n---\nkind: Snk\n---\n b: 'c\n--- # next\nkind: Sorce\n"))
	var got []string
	for _, d := range diags {
		if d.Code == dsl.CodeSyntax || d.Code == dsl.CodeUnknownKind {
			got = append(got, d.Code)
		}
		if d.Code == dsl.CodeUnknownKind && d.Line != 3 && d.Line != 7 {
			t.Errorf("wrong line: %v", d)
		}
	}
	if want := []string{dsl.CodeSyntax, dsl.CodeUnknownKind, dsl.CodeSyntax, dsl.CodeUnknownKind}; !cmp.Equal(got, want) || len(rs) > 0 {
		t.Errorf("got %v: %v", got, diags)
	}
}

func TestABrokenServiceIsNotAlsoMissing(t *testing.T) {
	diags := all(t, pipeline("  source: in\n  sink: out")+service("Source", "in", "{connector: {typ: x}}")+service("Sink", "out", "{connector: {type: log}}"))
	for _, d := range diags {
		if d.Code == dsl.CodeMissingReference {
			t.Errorf("got %v", d)
		}
	}
}

func TestDuplicates_ShowBothPlaces(t *testing.T) {
	dir := t.TempDir()
	a, b := write(t, dir, "a.yaml", sink("x")), write(t, dir, "b.yaml", sink("x"))
	set, _ := dsl.Load([]string{dir})
	diags := dsl.Validate(set, dsl.Options{})
	if len(diags) != 1 || diags[0].File != b || diags[0].Line != 5 || len(diags[0].Related) != 1 || diags[0].Related[0].File != a || diags[0].Related[0].Line != 5 {
		t.Errorf("got %+v", diags)
	}
}

func TestCycles_ShowThePlaceOfEachEdge(t *testing.T) {
	diags := all(t, pipeline("  stages:\n  - {name: in, source: in}\n  - {name: a, transform: t, from: [in, c]}\n  - {name: b, transform: t, from: [a]}\n"+
		"  - {name: c, transform: t, from: [b]}\n  - {name: out, sink: out, from: [c]}")+services)
	if len(diags) != 1 || !strings.Contains(diags[0].Message, "a -> b -> c -> a") || len(diags[0].Related) != 3 {
		t.Fatalf("got %v", diags)
	}
	var lines []int
	for _, r := range diags[0].Related {
		lines = append(lines, r.Line)
	}
	if !cmp.Equal(lines, []int{8, 9, 7}) || diags[0].Line != 7 {
		t.Errorf("got %v", diags)
	}
}

func TestFixes_RemoveTheFault(t *testing.T) {
	text := pipeline("  sourc: in\n  sinks: [{name: \"out\", delivery: 'best-efort'}, {name: out2}]\n  dlq: {maxRetries: \"3\"}\n  steps: [tt]") + services
	for range 10 {
		diags := all(t, text)
		var fix *dsl.Fix
		for _, d := range diags {
			if d.Fix != nil {
				fix = d.Fix
			}
		}
		if fix == nil {
			if len(diags) > 0 {
				t.Errorf("left over: %v\n%s", diags, text)
			}
			return
		}
		lines := strings.Split(text, "\n")
		l := []rune(lines[fix.Line-1])
		lines[fix.Line-1] = string(l[:fix.Column-1]) + fix.NewText + string(l[fix.EndColumn-1:])
		text = strings.Join(lines, "\n")
	}
	t.Error("the fixes do not end")
}

func TestRender_WritesNothingThatATerminalActsOn(t *testing.T) {
	text := "a: \x1b[31m\tx\nkind: \"\x1b]0;title\x07\"\n" + strings.Repeat("b", 5000) + ": 1\n"
	_, diags := dsl.Parse("x\x1b.yaml", []byte(text))
	_, more := dsl.Parse("y.yaml", []byte("kind: \"\\e[31m\"\n"+strings.Repeat("b", 5000)+": 1\n"))
	var b bytes.Buffer
	if err := dsl.Render(&b, append(diags, more...), func(string) []byte { return []byte(text) }, false); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(b.String(), "\n") {
		if strings.ContainsAny(line, "\x1b\x07\t") {
			t.Errorf("%q", line)
		}
	}
	b.Reset()
	if err := dsl.Render(&b, more[:1], nil, true); err != nil || !strings.Contains(b.String(), "\x1b[1;31merror") {
		t.Errorf("no colour in %q", b.String())
	}
}
