package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

// rig is one of each part, and a folder for manifests and files.
type rig struct {
	t       *testing.T
	dir     string
	router  *proc.Router
	sidecar *proc.Sidecar
	connect *proc.Service
	cli     *proc.CLI
}

// prepare returns a rig of which nothing runs.
func prepare(t *testing.T, services ...*proc.Service) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), router: proc.NewRouter(t), connect: proc.NewConnect(t)}
	scanned := []int{r.connect.Port}
	for _, s := range services {
		scanned = append(scanned, s.Port)
	}
	r.sidecar = proc.NewSidecar(t, "one", r.router, scanned)
	r.cli = proc.NewCLI(t, r.router)
	return r
}

// start starts everything.
func (r *rig) start() *rig {
	r.t.Helper()
	r.router.Start()
	r.connect.Start()
	r.sidecar.Start()
	r.router.AwaitReady()
	r.sidecar.AwaitReady()
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// apply writes manifests and applies them.
func (r *rig) apply(manifests ...string) {
	r.t.Helper()
	file := r.path("manifests.yaml")
	proc.Write(r.t, file, strings.Join(manifests, "\n---\n"))
	r.cli.Run("apply", "-f", file)
}

// manifest is one in short form; spec is YAML of the flow style.
func manifest(kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: conveyor.etl/v1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
}

// generate is a source that takes about so many seconds when nothing is in its way.
func generate(name string, count, rate int) string {
	return manifest("Source", name, fmt.Sprintf("{connector: {type: generate, config: {count: %d, rate: %d}}}", count, rate))
}

// fileSink is a sink whose lines tell the ids of their records.
func (r *rig) fileSink(name string) string {
	return manifest("Sink", name, fmt.Sprintf("{connector: {type: file, config: {path: %s, recordId: id}}}", r.path(name+".ndjson")))
}

// line is what a sink wrote.
type line struct {
	Seq    int
	ID     string
	V      int
	Marked int
}

// lines reads what a sink has written so far, whole lines only.
func (r *rig) lines(name string) []line {
	r.t.Helper()
	path := r.path(name + ".ndjson")
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		content, err = os.ReadFile(path + ".partial")
		if errors.Is(err, fs.ErrNotExist) { // renamed meanwhile, or not begun
			content, err = os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	var out []line
	for text := range bytes.Lines(content) {
		if !bytes.HasSuffix(text, []byte("\n")) {
			break
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			r.t.Fatalf("%s has the line %q: %v", path, text, err)
		}
		out = append(out, l)
	}
	return out
}

// awaitLines waits until a sink has written at least n lines.
func (r *rig) awaitLines(name string, n int) {
	r.t.Helper()
	proc.Until(r.t, func() string {
		if got := len(r.lines(name)); got < n {
			return fmt.Sprintf("%s has %d lines, want %d", name, got, n)
		}
		return ""
	})
}

// complete checks that the records 1 to n arrived, each number always with the same id and each id with the same number. It returns how many
// lines are repeats. Records without keys have no order.
func (r *rig) complete(name string, n int) (duplicates int) {
	r.t.Helper()
	lines := r.lines(name)
	ids := map[int]string{}
	owner := map[string]int{}
	for i, l := range lines {
		switch id, seen := ids[l.Seq]; {
		case l.Seq < 1 || l.Seq > n:
			r.t.Errorf("line %d has the number %d, want 1 to %d", i+1, l.Seq, n)
		case l.ID == "":
			r.t.Errorf("line %d has no id", i+1)
		case seen && id != l.ID:
			r.t.Errorf("record %d has the ids %q and %q", l.Seq, id, l.ID)
		case seen:
			duplicates++
		case owner[l.ID] != 0:
			r.t.Errorf("the records %d and %d have the id %q", owner[l.ID], l.Seq, l.ID)
		default:
			ids[l.Seq], owner[l.ID] = l.ID, l.Seq
		}
		if r.t.Failed() {
			return duplicates
		}
	}
	if len(ids) != n {
		got := slices.Sorted(maps.Keys(ids))
		missing := 1
		for missing <= len(got) && got[missing-1] == missing {
			missing++
		}
		r.t.Errorf("%s has %d of %d records; the first that is missing is %d", name, len(ids), n, missing)
	}
	return duplicates
}
