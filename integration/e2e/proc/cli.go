package proc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// CLI is the command line of a user at some server.
type CLI struct {
	t      testing.TB
	server string
	// Dir is the working directory; empty for that of the test.
	Dir string
}

// NewCLI returns the command line for one or several routers.
func NewCLI(t testing.TB, r Routers) *CLI { return &CLI{t: t, server: r.Addr()} }

// NewLocalCLI returns a command line without a server.
func NewLocalCLI(t testing.TB) *CLI { return &CLI{t: t, server: "127.0.0.1:1"} }

// Result is what a command did.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Try runs a command.
func (c *CLI) Try(args ...string) Result { return c.TryFor(patience, args...) }

// TryFor runs a command that may take so long.
func (c *CLI) TryFor(limit time.Duration, args ...string) Result {
	c.t.Helper()
	binary := Binary(c.t, "conveyor") // whoever comes first builds it, which takes long and is not the command's time
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // it tells where it hangs
	cmd.WaitDelay = 10 * time.Second
	cmd.Dir = c.Dir
	cmd.Env = append(environment(), "CONVEYOR_SERVER="+c.server, "NO_COLOR=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		c.t.Fatalf("conveyor %s: %v\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// Run runs a command that must succeed, and returns what it printed.
func (c *CLI) Run(args ...string) string {
	c.t.Helper()
	r := c.Try(args...)
	if r.Code != 0 {
		c.t.Fatalf("conveyor %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// JSON runs a command that must succeed and decodes what it printed.
func (c *CLI) JSON(into any, args ...string) {
	c.t.Helper()
	out := c.Run(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		c.t.Fatalf("conveyor %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// Pipeline is what `conveyor get pipelines -o json` tells, as far as tests ask.
type Pipeline struct {
	Metadata struct {
		Name       string
		Generation uint64
	}
	Status struct {
		Phase string
		Counts
		Stages []struct {
			Name, Sidecar, WaitingFor string
			Open                      bool
			InFlight                  uint64
		}
		Lanes []struct {
			Stage, Problem                      string
			Ended                               bool
			SettledThrough, CheckpointedThrough uint64
		}
		Conditions []struct {
			Type, Reason, Message string
			Status                bool
		}
	}
}

// Counts say what became of records.
type Counts struct {
	Read, Written, Filtered, DeadLettered, Unrouted, Shed, InFlight uint64
}

// Pipeline asks for a pipeline; ok is false when there is none, or no answer now.
func (c *CLI) Pipeline(name string) (p Pipeline, ok bool) {
	c.t.Helper()
	r := c.Try("get", "pipeline", name, "-o", "json")
	if r.Code != 0 {
		return p, false
	}
	if err := json.Unmarshal([]byte(r.Stdout), &p); err != nil {
		c.t.Fatalf("get pipeline %s: %v in %s", name, err, r.Stdout)
	}
	return p, true
}

// AwaitPhase waits until a pipeline is in a phase and returns it.
func (c *CLI) AwaitPhase(name, phase string) (p Pipeline) {
	c.t.Helper()
	Until(c.t, func() string {
		var ok bool
		if p, ok = c.Pipeline(name); ok && p.Status.Phase == phase {
			return ""
		}
		return fmt.Sprintf("pipeline %s is not %s: %+v", name, phase, p.Status)
	})
	return p
}

// Letter is a dead letter as `conveyor dlq` tells of it.
type Letter struct {
	ID                                              uint64
	RecordID, Pipeline, Stage, Class, Code, Message string
	Attempts                                        []struct{ Code, Message string }
	Replays                                         uint32
	Payload                                         []byte
	Headers                                         []struct {
		Name  string
		Value []byte
	}
}

// Letters lists dead letters.
func (c *CLI) Letters(args ...string) []Letter {
	c.t.Helper()
	var list struct{ Items []Letter }
	c.JSON(&list, append([]string{"dlq", "ls"}, args...)...)
	return list.Items
}
