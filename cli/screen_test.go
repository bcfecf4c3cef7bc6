package cli_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/cli"
)

func TestScreen_WhatIsWrittenStaysAboveWhatIsDrawn(t *testing.T) {
	var b strings.Builder
	w, draw := cli.NewScreen(&b)
	draw("p: 1 read", "q: 1 read")
	if _, err := w.Write([]byte("a warning\n")); err != nil {
		t.Fatal(err)
	}
	draw("p: 2 read", "q: 2 read")
	if got, want := seen(b.String()), "a warning\np: 2 read\nq: 2 read\n"; got != want {
		t.Errorf("the screen shows %q, want %q", got, want)
	}
	draw()
	if got, want := seen(b.String()), "a warning\n"; got != want {
		t.Errorf("at the end the screen shows %q, want %q", got, want)
	}
}

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

var control = regexp.MustCompile(`^\x1b\[(\d+)A\x1b\[J`)

// seen is what a terminal shows that knows line ends, lines up and erasing to its end.
func seen(text string) string {
	var lines []string
	text = strings.NewReplacer("\r", "", "\x1b[0m", "", "\x1b[1m", "", "\x1b[1;31m", "", "\x1b[1;33m", "").Replace(text)
	for line := range strings.SplitSeq(text, "\n") {
		for m := control.FindStringSubmatch(line); m != nil; m = control.FindStringSubmatch(line) {
			up, _ := strconv.Atoi(m[1])
			line = line[len(m[0]):]
			lines = lines[:len(lines)-up]
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
