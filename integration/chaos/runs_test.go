package chaos_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

var update = flag.Bool("update", false, "write what the list of runs comes to into the document")

const runsBegin, runsEnd = "<!-- runs -->\n", "<!-- end of runs -->\n"

// The figures of docs/failures.md are those of the list, which `make chaos` appends to.
func TestRuns_TheDocumentSaysWhatTheyComeTo(t *testing.T) {
	list, err := os.ReadFile("runs.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	read, err := chaos.ReadRuns(list)
	if err != nil {
		t.Fatal(err)
	}
	root, err := proc.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "docs", "failures.md")
	document, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(document), runsBegin)
	told, after, ended := strings.Cut(rest, runsEnd)
	if !found || !ended {
		t.Fatalf("%s has no place between %q and %q", path, runsBegin, runsEnd)
	}
	want := chaos.Summary(read)
	if told == want {
		return
	}
	if !*update {
		t.Fatalf("docs/failures.md does not say what the runs come to: go test ./integration/chaos -run %s -update\n%s", t.Name(), want)
	}
	proc.Write(t, path, before, runsBegin, want, runsEnd, after)
}

func TestRuns_EachTellsWhatWasDoneAndWhetherItPassed(t *testing.T) {
	list := filepath.Join(t.TempDir(), "runs.jsonl")
	var want *chaos.Run
	t.Run("test", func(t *testing.T) {
		want = chaos.Record(t, list, "abc", 7)
		want.Faults["router killed"]++
		want.Add(chaos.Tally{Operations: 3, Changes: 2, Letters: 1, Watches: 4})
	})
	content, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	got, err := chaos.ReadRuns(content)
	if err != nil || len(got) != 1 || !got[0].Passed || got[0].Commit != "abc" || got[0].Seed != 7 || got[0].Test != t.Name()+"/test" ||
		got[0].Faults["router killed"] != 1 || got[0].Histories != 1 || got[0].Letters != 1 || got[0].Watches != 4 {
		t.Errorf("%v, %v", got, err)
	}
}
