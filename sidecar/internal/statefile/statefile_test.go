package statefile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/internal/lock"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/statefile"
)

var registration = &controlv1.RegisterResponse{Session: &controlv1.Session{SidecarId: "a", Epoch: 5}, ClusterId: "c", TtlMillis: 700}

func newID(id string) func() string { return func() string { return id } }

func open(t *testing.T, dir, id, fresh string) *statefile.File {
	t.Helper()
	f, err := statefile.Open(dir, id, newID(fresh))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func reopen(t *testing.T, f *statefile.File, dir, id, fresh string) *statefile.File {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, dir, id, fresh)
}

func TestOpen_KeepsTheGeneratedID(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	f := open(t, dir, "", "host-1")
	if got := f.State().SidecarID; got != "host-1" {
		t.Fatalf("id is %s", got)
	}
	f = reopen(t, f, dir, "", "host-2")
	if got := f.State().SidecarID; got != "host-1" {
		t.Errorf("after a restart the id is %s", got)
	}
}

func TestRecord_SurvivesARestartButNotAnotherID(t *testing.T) {
	dir := t.TempDir()
	desired := &controlv1.WatchAssignmentsResponse{Revision: 7, Assignments: []*controlv1.Assignment{{Pipeline: "default/p", Stage: "in"}}}
	f := open(t, dir, "a", "")
	if err := f.Record(registration, statefile.Place{Address: "h:1"}, desired); err != nil {
		t.Fatal(err)
	}
	f = reopen(t, f, dir, "a", "")
	if got := f.State(); got.Registration.GetSession().GetEpoch() != 5 || !proto.Equal(got.Desired, desired) {
		t.Errorf("remembered %+v", got)
	}
	f = reopen(t, f, dir, "", "fresh")
	if got := f.State(); got.SidecarID != "a" || got.Registration.GetSession().GetEpoch() != 5 {
		t.Errorf("without an id it remembered %+v", got)
	}
	f = reopen(t, f, dir, "b", "")
	if got := f.State(); got.SidecarID != "b" || got.Registration != nil || got.Desired != nil {
		t.Errorf("another sidecar remembers %+v", got)
	}
}

func TestOpen_RefusesADirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, "a", "")
	_, err := statefile.Open(dir, "a", newID(""))
	if held := (*lock.HeldError)(nil); !errors.As(err, &held) {
		t.Fatalf("got %v", err)
	}
}

func TestOpen_ReportsEveryDamageAndChangesNothing(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, "a", "")
	if err := f.Record(registration, statefile.Place{}, &controlv1.WatchAssignmentsResponse{Revision: 7}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "state")
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{"empty": {}, "longer": append(append([]byte{}, sound...), 'x')}
	for i := range sound {
		flipped := append([]byte{}, sound...)
		flipped[i] ^= 1
		damaged["bit flipped in "+string(sound[:i])] = flipped
		damaged["cut off after "+string(sound[:i])] = sound[:i]
	}
	for name, data := range damaged {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := statefile.Open(dir, "", newID("fresh"))
		if corrupt := (*statefile.CorruptError)(nil); !errors.As(err, &corrupt) || corrupt.Path != path || !strings.Contains(err.Error(), "SIDECAR_ID") {
			t.Fatalf("%s: got %v", name, err)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != string(data) {
			t.Fatalf("%s: the file was changed: %v", name, err)
		}
	}
	// After a crash between the two steps of a write, the old content counts.
	if err := os.WriteFile(path, sound, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".next", sound[:10], 0o600); err != nil {
		t.Fatal(err)
	}
	if got := open(t, dir, "", "fresh").State(); got.SidecarID != "a" || got.Registration.GetSession().GetEpoch() != 5 {
		t.Errorf("remembered %+v", got)
	}
}

func TestRecord_LeavesTheOldStateWhenTheDiskRefuses(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, "a", "")
	// Nothing can be written where the next file would be.
	if err := os.Mkdir(filepath.Join(dir, "state.next"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.Record(registration, statefile.Place{}, &controlv1.WatchAssignmentsResponse{}); err == nil {
		t.Fatal("written where nothing can be written")
	}
	if got := f.State(); got.Registration != nil {
		t.Errorf("remembers what is not on disk: %+v", got)
	}
	if err := os.Remove(filepath.Join(dir, "state.next")); err != nil {
		t.Fatal(err)
	}
	if got := reopen(t, f, dir, "", "").State(); got.SidecarID != "a" {
		t.Errorf("remembered %+v", got)
	}
}
