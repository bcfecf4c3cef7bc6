package disk

import (
	"bufio"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

// What the system does instead of flushing a file, in the words of strace's option inject.
const (
	// Fails answers one flush with an error, the third from now on.
	Fails = "error=EIO:when=3"
	// Hangs holds one flush for longer than any router waits for it.
	Hangs = "delay_enter=15s:when=3"
	// Slow makes every flush late.
	Slow = "delay_enter=300ms"
)

// Inject changes what becomes of the flushes of files in a process from now on, until end is called, the test ends or the process does. It skips the test without strace.
func Inject(t testing.TB, p *proc.Process, files []string, fault string) (end func()) {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Skipf("strace makes the system fail, and is not there: %v", err)
	}
	args := []string{"-f", "-p", strconv.Itoa(p.PID()), "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:" + fault}
	for _, f := range files {
		args = append(args, "-P", f)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	attached, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		attach := sync.OnceFunc(func() { close(attached) })
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if strings.Contains(lines.Text(), "attached") {
				attach()
			}
		}
		_ = cmd.Wait() // it is killed
	}()
	end = sync.OnceFunc(func() { _ = cmd.Process.Kill(); <-ended })
	t.Cleanup(end)
	select {
	case <-attached:
	case <-ended:
		t.Fatal("strace ended before it had begun")
	}
	return end
}
