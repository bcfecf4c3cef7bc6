package e2e_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

// packages is the example with its input and what jq makes of it, made once.
var packages struct {
	once    sync.Once
	err     error
	missing string
	files   map[string][]byte // below data/
}

// packagesExample copies examples/packages with its input into a folder. It skips the test where the machine has no packages or no jq.
func packagesExample(t *testing.T) (dir string) {
	t.Helper()
	root, err := proc.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "packages")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "examples", "packages"))); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"data", ".conveyor"} { // of somebody who tried the example
		if err := os.RemoveAll(filepath.Join(dir, left)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	packages.once.Do(func() { packages.missing, packages.err = makePackages(t, dir) })
	if packages.missing != "" {
		t.Skip(packages.missing)
	}
	if packages.err != nil {
		t.Fatal(packages.err)
	}
	for name, content := range packages.files {
		if err := os.WriteFile(filepath.Join(dir, "data", name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func makePackages(t *testing.T, dir string) (missing string, err error) {
	for _, tool := range []string{"bash", "apt-cache", "awk", "jq"} {
		if _, notFound := exec.LookPath(tool); notFound != nil {
			return "there is no " + tool + " here", nil //nolint:nilerr // that it is missing is the answer
		}
	}
	number := "1000000"
	if proc.Raced {
		number = "10000"
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", "./packages.sh | head -n "+number+" >data/packages.ndjson && ./expected.sh")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	packages.files = map[string][]byte{}
	for _, name := range []string{"packages.ndjson", "expected-all.ndjson", "expected-large.csv"} {
		content, err := os.ReadFile(filepath.Join(dir, "data", name))
		if err != nil {
			return "", err
		}
		packages.files[name] = content
	}
	if bytes.Count(packages.files["packages.ndjson"], []byte("\n")) < 100 {
		return "the machine knows no packages: run apt-get update", nil
	}
	return "", nil
}

// rows reads NDJSON or CSV as one canonical text for each record, by what the member or column "id" says when there is one.
func rows(t *testing.T, path string) (all []string, ids map[string]string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ids = map[string]string{}
	take := func(row map[string]any) {
		id, _ := row["id"].(string)
		delete(row, "id")
		text, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		if known, ok := ids[id]; ok && known != string(text) {
			t.Errorf("%s: the id %s has the records %s and %s", path, id, known, text)
		} else if id != "" {
			ids[id] = string(text)
		}
		all = append(all, string(text))
	}
	if filepath.Ext(path) == ".csv" {
		records, err := csv.NewReader(bytes.NewReader(content)).ReadAll()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, record := range records[1:] {
			row := map[string]any{}
			for i, column := range records[0] {
				row[column] = record[i]
			}
			take(row)
		}
		return all, ids
	}
	for line := range bytes.Lines(content) {
		var row map[string]any
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&row); err != nil {
			t.Fatalf("%s: %v in %s", path, err, line)
		}
		take(row)
	}
	return all, ids
}

// sameRecords compares records in any order.
func sameRecords(t *testing.T, name string, want, got []string) {
	t.Helper()
	slices.Sort(want)
	slices.Sort(got)
	if slices.Equal(want, got) {
		return
	}
	t.Errorf("%s has %d records, want %d", name, len(got), len(want))
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			t.Errorf("the first that differs (-want +got):\n%s", cmp.Diff(want[i], got[i]))
			return
		}
	}
}

func TestPackages_InOneProcessAreWhatJqMakesOfThem(t *testing.T) {
	t.Parallel()
	dir := packagesExample(t)
	cli := proc.NewLocalCLI(t)
	cli.Dir = dir
	cli.Run("run", "-f", "pipeline")
	for _, name := range []string{"all.ndjson", "large.csv"} {
		want, _ := rows(t, filepath.Join(dir, "data", "expected-"+name))
		got, _ := rows(t, filepath.Join(dir, "data", name))
		sameRecords(t, name, want, got)
	}
	before, err := os.ReadFile(filepath.Join(dir, "data", "all.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	cli.Run("run", "-f", "pipeline")
	if after, err := os.ReadFile(filepath.Join(dir, "data", "all.ndjson")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the second run changed the file: %d bytes before, %d after, %v", len(before), len(after), err)
	}
}

func TestPackages_InProcessesThatAreKilledAreComplete(t *testing.T) {
	t.Parallel()
	dir := packagesExample(t)
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	// The lines of the sinks get the ids of their records, and the windows are small, so that every kill falls into the work.
	sinks := filepath.Join(dir, "pipeline", "sinks.yaml")
	content, err := os.ReadFile(sinks)
	if err != nil {
		t.Fatal(err)
	}
	proc.Write(t, sinks, strings.ReplaceAll(string(content), "      path:", "      recordId: id\n      path:"))

	r := prepare(t)
	r.connect.Dir = dir
	r.start()
	r.cli.Dir = dir
	r.cli.Run("apply", "-f", "pipeline")
	parts := []interface {
		Start()
		Kill()
	}{r.router, r.sidecar, r.connect}
	total := len(packages.files["expected-all.ndjson"])
	for i := 1; i <= 6; i++ {
		at := int64(total) * int64(i) / 8
		proc.Until(t, func() string {
			if size(t, filepath.Join(dir, "data", "all.ndjson")) < at {
				return "the output does not grow"
			}
			return ""
		})
		p := parts[(i+random.IntN(2))%len(parts)]
		p.Kill()
		p.Start()
	}
	r.cli.AwaitPhase("packages", "Completed")
	for _, name := range []string{"all.ndjson", "large.csv"} {
		want, _ := rows(t, filepath.Join(dir, "data", "expected-"+name))
		all, ids := rows(t, filepath.Join(dir, "data", name))
		t.Logf("%s: %d records, %d of them again", name, len(ids), len(all)-len(ids))
		sameRecords(t, name, want, slices.Collect(maps.Values(ids)))
	}
	if letters := r.cli.Letters(); len(letters) != 0 {
		t.Errorf("%d dead letters, the first is %+v", len(letters), letters[0])
	}
}

// size is how much a file sink has written.
func size(t *testing.T, path string) int64 {
	t.Helper()
	for _, p := range []string{path, path + ".partial", path} {
		info, err := os.Stat(p)
		if err == nil {
			return info.Size()
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return 0
}
