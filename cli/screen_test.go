package cli_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// On a terminal the progress is drawn below what is written, so that erasing it takes no warning away.
func TestRun_WarningsStayOnTheTerminalAboveTheProgress(t *testing.T) {
	script, err := exec.LookPath("script")
	if err != nil {
		t.Skip("needs the command script, to have a terminal")
	}
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
	cmd := exec.CommandContext(ctx, script, "-qec", "conveyor run -f p.yaml --stall-timeout 1s --drain-timeout 1s", "/dev/null")
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err == nil {
		t.Fatalf("the run succeeded:\n%s", &out)
	}
	shown := seen(out.String())
	for _, want := range []string{"WARN  stage waits", "warning: pipeline p made no progress", "warning: pipeline p: 5 records not settled", "error[UNREACHABLE]"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not on the screen:\n%s", want, shown)
		}
	}
	if strings.Contains(shown, "rec/s") {
		t.Errorf("the progress is still on the screen:\n%s", shown)
	}
}

// seen is what a terminal shows that knows line ends, lines up and erasing to its end.
func seen(text string) string {
	var lines []string
	text = strings.NewReplacer("\r", "", "\x1b[J", "\x00", "\x1b[0m", "", "\x1b[1m", "", "\x1b[1;31m", "", "\x1b[1;33m", "").Replace(text)
	for line := range strings.SplitSeq(text, "\n") {
		for strings.HasPrefix(line, "\x1b[1A") {
			line = strings.TrimPrefix(line, "\x1b[1A")
			lines = lines[:len(lines)-1]
		}
		lines = append(lines, strings.ReplaceAll(line, "\x00", ""))
	}
	return strings.Join(lines, "\n")
}
