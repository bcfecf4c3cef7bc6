package chaos

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"
)

// Run is what one test did to a system and what came of it, as one line of the list of runs.
type Run struct {
	// Commit of the code, Test is the name of the test, and Seed is that of its faults; 0 when it has none.
	Commit string `json:"commit"`
	Test   string `json:"test"`
	Seed   uint64 `json:"seed,omitempty"`
	// Began is when, and Seconds how long it took.
	Began   time.Time `json:"began"`
	Seconds int       `json:"seconds"`
	// Faults by kind.
	Faults map[string]int `json:"faults,omitempty"`
	// Histories that were judged, with so many Operations of clients.
	Histories  int `json:"histories,omitempty"`
	Operations int `json:"operations,omitempty"`
	// Changes and Letters that were acknowledged; Unknown is changes whose outcome was not told.
	Changes int `json:"changes,omitempty"`
	Letters int `json:"letters,omitempty"`
	Unknown int `json:"unknown,omitempty"`
	// Watches that began again behind an earlier change.
	Watches int `json:"watches,omitempty"`
	// Records through pipelines; Duplicates of them arrived again, and Lost never.
	Records    int `json:"records,omitempty"`
	Duplicates int `json:"duplicates,omitempty"`
	Lost       int `json:"lost,omitempty"`
	// P50 and P99 are milliseconds until writes were accepted again.
	P50 int64 `json:"p50_ms,omitempty"`
	P99 int64 `json:"p99_ms,omitempty"`
	// Sidecars of a fleet, and the Cores that the router which leads used for them.
	Sidecars int     `json:"sidecars,omitempty"`
	Cores    float64 `json:"leader_cores,omitempty"`
	// Moved is milliseconds until the stages of a lost sidecar had another one.
	Moved int64 `json:"moved_ms,omitempty"`
	// Passed is whether nothing was found. What was Found is written into the list by who looked at it.
	Passed bool   `json:"passed"`
	Found  string `json:"found,omitempty"`
}

// Record returns a run that is appended to the list at path when the test has ended; to none when path is empty. It is called before the test starts anything.
func Record(t testing.TB, path, commit string, seed uint64) *Run {
	t.Helper()
	r := &Run{Commit: commit, Test: t.Name(), Seed: seed, Began: time.Now().UTC().Truncate(time.Second), Faults: map[string]int{}}
	t.Cleanup(func() { // the last one to be called: processes are looked at when they end
		if path == "" || t.Skipped() {
			return
		}
		r.Seconds, r.Passed = int(time.Since(r.Began).Seconds()), !t.Failed()
		if err := r.append(path); err != nil {
			t.Errorf("keep the run: %v", err)
		}
	})
	return r
}

func (r *Run) append(path string) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	l, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = l.Write(append(line, '\n'))
	return errors.Join(err, l.Close())
}

// Add adds a traffic that was judged.
func (r *Run) Add(t Tally) {
	r.Histories++
	r.Operations += t.Operations
	r.Changes += t.Changes
	r.Letters += t.Letters
	r.Unknown += t.Unknown
	r.Watches += t.Watches
}

// AddRecords adds a pipeline that was judged.
func (r *Run) AddRecords(of Report) {
	r.Records += of.Records
	r.Duplicates += of.Duplicates
	r.Lost += of.Lost
}
