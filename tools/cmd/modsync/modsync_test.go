package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const table = `# a comment
wire  |           | bottom
store | wire      | one above
calls | store     | reaches wire through store
all   | * -store  | everything but one
`

func TestParseTable_ClosesSiblingsOverWhatTheyImport(t *testing.T) {
	modules, err := parseTable([]byte(table))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"wire": "", "store": "wire", "calls": "store wire", "all": "calls wire"}
	if len(modules) != len(want) {
		t.Fatalf("got %d modules, want %d", len(modules), len(want))
	}
	for _, m := range modules {
		if got := strings.Join(m.siblings, " "); got != want[m.name] {
			t.Errorf("%s reaches %q, want %q", m.name, got, want[m.name])
		}
	}
}

func TestParseTable_RefusesWhatIsNotAbove(t *testing.T) {
	for _, bad := range []string{"a | b | upwards\nb | | below\n", "a | a | itself\n", "a | b\n"} {
		if _, err := parseTable([]byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

// repository writes a small repository with two modules, of which the second requires the first at an old version.
func repository(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for path, content := range map[string]string{
		"tools/modules.txt": "wire | | bottom\nstore | wire | one above\nabsent | wire store | has no folder\n",
		"versions.yaml":     "modules:\n  wire: v0.2.0\n  store: v0.1.0\n",
		"LICENSE":           "either\n",
		"LICENSE-APACHE":    "apache\n",
		"LICENSE-MIT":       "mit\n",
		"wire/go.mod":       "module github.com/conveyor-etl/conveyor/wire\n\ngo 1.26.0\n",
		"store/go.mod": "module github.com/conveyor-etl/conveyor/store\n\ngo 1.25.0\n\n" +
			"require github.com/conveyor-etl/conveyor/wire v0.1.0\n\nreplace example.com/fork => ../fork\n",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestRun_WritesWhatCheckMisses(t *testing.T) {
	root := repository(t)
	var out, errs strings.Builder
	if code := run([]string{"-root", root, "-check"}, &out, &errs); code != 1 {
		t.Fatalf("check of an outdated repository returned %d: %s%s", code, &out, &errs)
	}
	if _, err := os.Stat(filepath.Join(root, "go.work")); err == nil {
		t.Fatal("check wrote a file")
	}
	if code := run([]string{"-root", root}, &out, &errs); code != 0 {
		t.Fatalf("writing returned %d: %s%s", code, &out, &errs)
	}
	out.Reset()
	if code := run([]string{"-root", root, "-check"}, &out, &errs); code != 0 {
		t.Fatalf("check after writing returned %d: %s%s", code, &out, &errs)
	}

	got, err := os.ReadFile(filepath.Join(root, "store", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"go 1.26.0\n", "conveyor/wire v0.2.0\n", "conveyor/wire => ../wire\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("go.mod has no %q:\n%s", want, got)
		}
	}
	if strings.Contains(string(got), "fork") {
		t.Errorf("a replace that importers would not see is still there:\n%s", got)
	}
}

func TestRun_RefusesARequireTheTableForbids(t *testing.T) {
	root := repository(t)
	mod := "module github.com/conveyor-etl/conveyor/wire\n\ngo 1.26.0\n\nrequire github.com/conveyor-etl/conveyor/store v0.1.0\n"
	if err := os.WriteFile(filepath.Join(root, "wire", "go.mod"), []byte(mod), 0o644); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	if code := run([]string{"-root", root}, &out, &errs); code != 1 || !strings.Contains(errs.String(), "does not allow") {
		t.Fatalf("got %d, %q", code, errs.String())
	}
}
