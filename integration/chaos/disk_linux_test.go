package chaos_test

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

// inject makes the system answer the third flush of one of the files from now on, in a process, in another way. It ends with the test, or when the process does.
func inject(t *testing.T, p *proc.Process, files []string, fault string) {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Skipf("strace makes the system fail, and is not there: %v", err)
	}
	args := []string{"-f", "-p", strconv.Itoa(p.PID()), "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:" + fault + ":when=3"}
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
	attached, ended := make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if strings.Contains(lines.Text(), "attached") {
				select {
				case attached <- true:
				default:
				}
			}
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	select {
	case <-attached:
	case <-ended:
		t.Fatal("strace ended before it had begun")
	}
}

func TestDisk_AFlushThatFailsOrHangsEndsTheRouterAndLosesNothing(t *testing.T) {
	logs := map[string]string{"bbolt": "raft.db", "wal": "wal/*.wal"}
	for name, fault := range map[string]struct{ inject, says string }{
		"fails": {"error=EIO", "disk failed"},
		"hangs": {"delay_enter=15s", "disk hangs"},
	} {
		for kind, file := range logs {
			t.Run(name+"/"+kind, func(t *testing.T) {
				dir := t.TempDir()
				router := proc.NewRouter(t, "RAFT_LOG="+kind)
				router.KeepIn(dir)
				router.Start()
				router.AwaitReady()
				c, err := client.Dial(t.Context(), []string{router.Addr()}, client.WithTimeout(5*time.Second), client.WithRetryFor(0))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := chaos.Write(t.Context(), c, "k", "1"); err != nil {
					t.Fatal(err)
				}
				files, err := filepath.Glob(filepath.Join(dir, "raft", file))
				if err != nil || len(files) == 0 {
					t.Fatalf("the log: %v %v", files, err)
				}
				inject(t, router.Process, files, fault.inject)
				wrote := 1
				for err == nil {
					if _, err = chaos.Write(t.Context(), c, "k", fmt.Sprint(wrote+1)); err == nil {
						wrote++
					}
					if wrote > 100 {
						t.Fatal("the disk did not fail")
					}
				}
				if code := router.Wait(); code == 0 {
					t.Errorf("the router ended with %d", code)
				}
				if !strings.Contains(router.Log(), fault.says) {
					t.Errorf("the router did not say that the %s", fault.says)
				}
				router.Start()
				router.AwaitReady()
				// The write that was under way may have been made.
				got, err := chaos.Read(t.Context(), c, "k")
				if want := fmt.Sprint(wrote); err != nil || got != want && got != fmt.Sprint(wrote+1) {
					t.Errorf("the value is %q (%v), and %s was acknowledged", got, err, want)
				}
			})
		}
	}
}
