package dlq_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/dlq"
)

// TestAppend_EveryAcknowledgedLetterSurvivesKill kills a process in the middle of appending, several times over the same files.
func TestAppend_EveryAcknowledgedLetterSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	acknowledged := make(map[uint64]string)
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		enough := 150 + 137*round
		for id, record := range killAfter(t, dir, enough) {
			if acknowledged[id] != "" {
				t.Errorf("letter %d was given twice", id)
			}
			acknowledged[id] = record
		}
		in, err := start(dir, dlq.Config{})
		if err != nil {
			t.Fatal(err)
		}
		healthy(t, in.store)
		stored, records := make(map[uint64]string), make(map[string]bool)
		for _, l := range list(t, in.store, dlq.Query{}) {
			stored[l.ID] = l.RecordID
			if records[l.RecordID] {
				t.Errorf("round %d: %s is stored twice", round, l.RecordID)
			}
			records[l.RecordID] = true
		}
		for id, record := range acknowledged {
			if stored[id] != record {
				t.Errorf("round %d: acknowledged letter %d is %q, want %q", round, id, stored[id], record)
			}
		}
		t.Logf("round %d: %d acknowledged, %d stored", round, len(acknowledged), len(stored))
		if err := in.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// killAfter runs a child that appends until it has reported so many letters, kills it, and returns what it had reported.
func killAfter(t *testing.T, dir string, enough int) map[uint64]string {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	got := make(map[uint64]string)
	killed := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var id uint64
		var record string
		if n, _ := fmt.Sscanf(lines.Text(), "ack %d %s", &id, &record); n != 2 {
			continue // cut off by the kill
		}
		got[id] = record
		if len(got) >= enough && !killed {
			// A little later each time, to meet the store at another point of its work.
			killed = true
			time.AfterFunc(time.Duration(enough%10)*400*time.Microsecond, func() { _ = child.Process.Kill() })
		}
	}
	if err := child.Wait(); err == nil || !killed {
		t.Fatalf("the child ended by itself: %v", err)
	}
	return got
}

// appendForever is the child: several callers append small batches and report what was acknowledged.
func appendForever(dir string) {
	in, err := start(dir, dlq.Config{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for caller := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				ls := letters(1, 1+(n+caller)%9)
				for i := range ls {
					ls[i].RecordID = fmt.Sprintf("pid%d/%d/%d/%d", os.Getpid(), caller, n, i)
				}
				results, err := in.store.Append(bg, ls)
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				for i, r := range results {
					// One write each, so that a kill cuts a line but mixes none.
					fmt.Fprintf(os.Stdout, "ack %d %s\n", r.ID, ls[i].RecordID)
				}
			}
		})
	}
	wg.Wait()
}
