package cli_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestDev_TheSecondInterruptEndsItAtOnceAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	manifests := `{apiVersion: conveyor.etl/v1, kind: Source, metadata: {name: in}, spec: {connector: {type: generate, config: {count: 5}}}}
---
{apiVersion: conveyor.etl/v1, kind: Sink, metadata: {name: out}, spec: {grpc: {endpoint: "127.0.0.1:1"}}}
---
{apiVersion: conveyor.etl/v1, kind: Pipeline, metadata: {name: p}, spec: {source: in, sink: out}}
`
	if err := os.WriteFile(dir+"/p.yaml", []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "conveyor", "dev", "-f", dir+"/p.yaml", "--port", "0")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It cannot finish: nobody takes the records.
	for lines := bufio.NewScanner(stdout); lines.Scan() && !strings.Contains(lines.Text(), "Ctrl-C"); {
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stderr); lines.Scan() && !strings.Contains(lines.Text(), "Ctrl-C again"); {
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Errorf("it ended with %v, want exit status 130", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "conveyor-dev-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}
