// Command testall runs the tests of all modules as `go test` does and ends with what a long run hides:
// the skipped tests by name and reason, the failures, and their numbers. It uses the standard library only.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// options are what the command line and the environment ask for.
type options struct {
	root       string
	pattern    string
	timeout    time.Duration
	race       bool
	short      bool
	failOnSkip bool
	modules    []string // folders of the workspace
	alone      []string // folders outside of it
}

// run returns 0 when every test passed, 1 when one failed (or was skipped and CONVEYOR_FAIL_ON_SKIP is set), 2 for wrong usage.
func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o := options{race: getenv("CONVEYOR_TEST_RACE") == "1", failOnSkip: getenv("CONVEYOR_FAIL_ON_SKIP") == "1"}
	flags := flag.NewFlagSet("testall", flag.ContinueOnError)
	flags.SetOutput(stderr)
	alone := flags.String("alone", "", "comma-separated folders of modules outside the workspace")
	flags.StringVar(&o.root, "root", ".", "the root of the repository")
	flags.StringVar(&o.pattern, "run", "", "run only the tests that match, as in go test -run")
	flags.BoolVar(&o.short, "short", false, "as in go test -short")
	flags.DurationVar(&o.timeout, "timeout", 25*time.Minute, "the limit for one package")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	o.modules = flags.Args()
	o.alone = strings.FieldsFunc(*alone, func(r rune) bool { return r == ',' })
	if len(o.modules)+len(o.alone) == 0 {
		fmt.Fprintln(stderr, "testall: name the folders of the modules to test")
		return 2
	}

	// An interrupt reaches go test too, which ends its tests; what is known until then is still reported.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := newReport(stdout)
	var failures []error
	for _, c := range o.commands(ctx, getenv) {
		c.Stderr = stderr
		if err := feed(c, r); err != nil {
			failures = append(failures, err)
		}
	}
	return r.close(failures, o.failOnSkip)
}

// commands returns one `go test -json` for the workspace and one for each module outside of it.
func (o options) commands(ctx context.Context, getenv func(string) string) []*exec.Cmd {
	command := func(dir, work string, packages []string) *exec.Cmd {
		args := []string{"test", "-json", "-timeout", o.timeout.String()}
		cgo := "0" // what the products are built with, and no compiler needed
		if o.race {
			args = append(args, "-race")
			cgo = "1"
		}
		if o.short {
			args = append(args, "-short")
		}
		if o.pattern != "" {
			args = append(args, "-run", o.pattern)
		}
		c := exec.CommandContext(ctx, "go", append(args, packages...)...)
		c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
		c.WaitDelay = 10 * time.Second
		c.Dir = dir
		c.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOWORK="+work)
		return c
	}
	var out []*exec.Cmd
	if len(o.modules) > 0 {
		var packages []string
		for _, m := range o.modules {
			packages = append(packages, "./"+m+"/...")
		}
		out = append(out, command(o.root, getenv("GOWORK"), packages))
	}
	for _, m := range o.alone {
		out = append(out, command(o.root+"/"+m, "off", []string{"./..."}))
	}
	return out
}

// feed runs c and hands each line it prints to r.
func feed(c *exec.Cmd, r *report) error {
	pipe, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	lines := bufio.NewReader(pipe)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.add(line)
		}
		if err != nil {
			break
		}
	}
	return c.Wait()
}
