package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/conveyor-etl/conveyor/integration/overlay"
)

// childEnv names the child that a test binary is, when it is one.
const childEnv = "CONVEYOR_TEST_CHILD"

// Child is a program inside the test binary, such as a service of a test: it runs until ctx ends, which SIGTERM does, and returns its exit
// code.
type Child func(ctx context.Context) int

// Main runs the tests of a package, or the child that this process is started as, and returns the exit code.
func Main(m *testing.M, children map[string]Child) int {
	if name := os.Getenv(childEnv); name != "" {
		child, ok := children[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "there is no child %q\n", name)
			return 2
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return child(ctx)
	}
	defer binaries.remove()
	code := m.Run()
	startedBy.close()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, "the tests leave goroutines behind:", err)
		return 1
	}
	return code
}

// sources are the packages of the binaries, below the root of the repository.
var sources = []string{
	"./cli/cmd/conveyor", "./router/cmd/conveyor-router", "./sidecar/cmd/conveyor-sidecar", "./connectors/cmd/conveyor-connect",
}

// build is the binaries, made once by the first test that needs one.
type build struct {
	once sync.Once
	dir  string
	err  error
}

var binaries build

// binEnv names a folder of binaries to try instead of those of this working tree.
const binEnv = "CONVEYOR_TEST_BIN"

// Binary returns the path of a binary: of this working tree, with the race detector if the tests have it, or from CONVEYOR_TEST_BIN.
func Binary(t testing.TB, name string) string {
	t.Helper()
	if dir := os.Getenv(binEnv); dir != "" {
		return filepath.Join(dir, name)
	}
	binaries.once.Do(binaries.make)
	if binaries.err != nil {
		t.Fatal(binaries.err)
	}
	return filepath.Join(binaries.dir, name)
}

func (b *build) make() {
	root, err := Root()
	if err != nil {
		b.err = err
		return
	}
	if b.dir, b.err = os.MkdirTemp("", "conveyor-bin-"); b.err != nil {
		return
	}
	b.err = compile(root, b.dir+string(filepath.Separator), nil, sources...)
}

func compile(root, out string, flags []string, packages ...string) error {
	args := slices.Concat([]string{"build", "-buildvcs=false", "-o", out}, raceFlags, flags, packages)
	cmd := exec.CommandContext(context.Background(), "go", args...)
	cmd.Dir = root
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the binaries: %w\n%s", err, said)
	}
	return nil
}

// Variant builds one of the binaries out of the working tree with some lines of it replaced, and returns its path.
func Variant(t testing.TB, name string, edits ...overlay.Edit) string {
	t.Helper()
	source := slices.IndexFunc(sources, func(s string) bool { return path.Base(s) == name })
	if source < 0 {
		t.Fatalf("there is no binary %s", name)
	}
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	flag, err := overlay.Write(root, dir, edits...)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, name)
	if err := compile(root, out, []string{flag}, sources[source]); err != nil {
		t.Fatal(err)
	}
	return out
}

func (b *build) remove() {
	if b.dir != "" {
		_ = os.RemoveAll(b.dir) // in the folder for temporary files
	}
}

// Root returns the root of the repository, above the folder that the test runs in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.work above the folder of the test")
		}
		dir = parent
	}
}
