package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is one running program. Its methods are for the goroutine of the test, except Log.
type Process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	log  *tail
	done chan struct{}
	code int // the exit code, valid after done; -1 when a signal ended it
}

// Spec says what to run.
type Spec struct {
	// Name appears in messages.
	Name string
	// Path of the program, and its arguments.
	Path string
	Args []string
	// Env is added to what every process gets: nothing of this process's but what programs need to run at all.
	Env []string
	// Dir is the working directory; empty for that of the test.
	Dir string
}

// Start starts a program. It is killed when the test ends.
func Start(t testing.TB, s Spec) *Process {
	t.Helper()
	p := &Process{t: t, name: s.Name, log: &tail{}, done: make(chan struct{})}
	p.cmd = exec.CommandContext(context.Background(), s.Path, s.Args...)
	p.cmd.Dir = s.Dir
	p.cmd.Env = append(environment(), s.Env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = dieWithParent()
	if err := startedBy.start(p.cmd); err != nil {
		t.Fatalf("start %s: %v", s.Name, err)
	}
	go func() {
		defer close(p.done)
		err := p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			fmt.Fprintf(p.log, "wait: %v\n", err)
		}
	}()
	t.Cleanup(func() {
		p.Kill()
		if strings.Contains(p.Log(), "DATA RACE") {
			t.Errorf("%s has a data race", p.name)
		}
		if t.Failed() {
			t.Logf("--- what %s said:\n%s", p.name, p.Log())
		}
	})
	return p
}

// StartChild starts this test binary as one of its children; see Main.
func StartChild(t testing.TB, child string, env ...string) *Process {
	t.Helper()
	return Start(t, ChildSpec(t, child, env...))
}

// ChildSpec is what StartChild starts.
func ChildSpec(t testing.TB, child string, env ...string) Spec {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Spec{Name: child, Path: self, Env: append([]string{childEnv + "=" + child}, env...)}
}

// environment is what processes inherit.
func environment() []string {
	out := []string{"GORACE=halt_on_error=1"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	return out
}

// PID is the id of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns the end of what the process wrote.
func (p *Process) Log() string { return p.log.String() }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill ends the process by SIGKILL and returns when it has ended. It may be called again.
func (p *Process) Kill() {
	if p.Running() {
		_ = p.cmd.Process.Kill() // it may end meanwhile
	}
	<-p.done
}

// Pause stops the process for a while, as a machine that swaps or a long pause does; Resume ends that.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

// Interrupt asks the process to end, as a supervisor does, and returns at once.
func (p *Process) Interrupt() { p.signal(syscall.SIGTERM) }

func (p *Process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("send %v to %s: %v", s, p.name, err)
	}
}

// Stop asks the process to end and fails the test when it takes too long or ends with another code than 0.
func (p *Process) Stop() {
	p.t.Helper()
	p.Interrupt()
	if code := p.Wait(); code != 0 {
		p.t.Fatalf("%s ended with code %d after SIGTERM:\n%s", p.name, code, p.Log())
	}
}

// Wait returns the exit code when the process has ended; -1 after a signal.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.signal(syscall.SIGQUIT)
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
		}
		p.t.Fatalf("%s has not ended after %v:\n%s", p.name, patience, p.Log())
	}
	return p.code
}

// Bytes is how much memory the process has resident, or 0 when the system does not tell.
func (p *Process) Bytes() int64 { return residentBytes(p.cmd.Process.Pid) }

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
	lost int
}

const tailBytes = 64 << 10

func (w *tail) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.data = append(w.data, b...)
	if n := len(w.data) - tailBytes; n > tailBytes {
		w.data = append(w.data[:0], w.data[n:]...)
		w.lost += n
	}
	return len(b), nil
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := string(bytes.ToValidUTF8(w.data, []byte("\uFFFD")))
	if w.lost > 0 {
		text = fmt.Sprintf("... %d bytes before\n%s", w.lost, text)
	}
	return text
}
