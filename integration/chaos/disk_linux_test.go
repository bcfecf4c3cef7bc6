package chaos_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/disk"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

func TestDisk_AFlushThatFailsOrHangsEndsTheRouterAndLosesNothing(t *testing.T) {
	logs := map[string]string{"bbolt": "raft.db", "wal": "wal/*.wal"}
	for name, fault := range map[string]struct{ inject, says string }{
		"fails": {disk.Fails, "DISK_FAILED: disk failed"},
		"hangs": {disk.Hangs, "DISK_HANGS: disk hangs"},
	} {
		for kind, file := range logs {
			t.Run(name+"/"+kind, func(t *testing.T) {
				run := record(t)
				run.Faults["disk "+name]++
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
				disk.Inject(t, router.Process, files, fault.inject)
				wrote := 1
				for err == nil {
					if _, err = chaos.Write(t.Context(), c, "k", fmt.Sprint(wrote+1)); err == nil {
						wrote++
					}
					if wrote > 100 {
						t.Fatal("the disk did not fail")
					}
				}
				if code := router.Wait(); code != 6 {
					t.Errorf("the router ended with code %d, which is not that of a disk", code)
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
