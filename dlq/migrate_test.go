package dlq_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/dlq"
)

// migrate opens the cluster's store with the letters of another one, at a server.
func (c *trio) migrate(ctx context.Context, i int, from *dlq.Store) (*dlq.Store, uint64, error) {
	js, err := c.servers[i].JetStream()
	if err != nil {
		return nil, 0, err
	}
	to, n, err := dlq.Migrate(ctx, from, js, c.config())
	if err != nil {
		js.Conn().Close()
		return nil, 0, err
	}
	c.t.Cleanup(func() { to.Close() })
	return to, n, nil
}

// mustMigrate migrates as often as it takes.
func (c *trio) mustMigrate(i int, from *dlq.Store) (to *dlq.Store, n uint64) {
	c.t.Helper()
	c.await(func() (err error) {
		to, n, err = c.migrate(bg, i, from)
		return err
	})
	return to, n
}

// same compares letters, all of them at once, since a difference of large records takes long to work out.
func same(t *testing.T, want, got []dlq.Letter) {
	t.Helper()
	if reflect.DeepEqual(want, got) {
		return
	}
	t.Errorf("%d letters, want %d", len(got), len(want))
	for i := range min(len(got), len(want)) {
		got[i].Record, want[i].Record = nil, nil // their checksums are compared
		if diff := cmp.Diff(want[i], got[i]); diff != "" {
			t.Fatalf("letter %d (-want +got):\n%s", want[i].ID, diff)
		}
	}
}

func TestMigrate_LettersKeepTheirIDsAndTimes(t *testing.T) {
	c := openTrio(t)
	lone := open(t, t.TempDir(), dlq.Config{})
	add(t, lone.store, letters(1, 700)...)
	large := letter(701)
	large.Record = make([]byte, dlq.MaxRecordBytes)
	add(t, lone.store, large)
	add(t, lone.store, letters(702, 720)...)
	if err := lone.store.Discard(bg, append(upTo(1, 30), 33, 34, 500, 719, 720)...); err != nil {
		t.Fatal(err)
	}
	want := list(t, lone.store, dlq.Query{})
	to, n := c.mustMigrate(0, lone.store)
	if n != uint64(len(want)) {
		t.Errorf("%d letters were migrated, of %d", n, len(want))
	}
	check := func(store *dlq.Store) {
		t.Helper()
		healthy(t, store)
		same(t, want, list(t, store, dlq.Query{}))
	}
	check(to)
	same(t, want, list(t, lone.store, dlq.Query{}))
	if got := add(t, to, letter(40), letter(1)); got[0] != (dlq.Result{ID: 40, Duplicate: true}) || got[1] != (dlq.Result{ID: 721}) {
		t.Errorf("a letter that is stored and one that was discarded were stored as %+v", got)
	}
	if err := to.Discard(bg, 721); err != nil {
		t.Fatal(err)
	}
	// Done again, as after a stop before the old files were removed.
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	again, n := c.mustMigrate(1, lone.store)
	if n != uint64(len(want)) {
		t.Errorf("%d letters were migrated again, of %d", n, len(want))
	}
	check(again)
	c.current(again)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	c.stop(0)
	check(c.open(2))
}

func TestMigrate_AStoreThatHasLettersGivesNewIDs(t *testing.T) {
	c := openTrio(t)
	store := c.open(0)
	c.append(store, "of the cluster")
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	lone := open(t, t.TempDir(), dlq.Config{})
	add(t, lone.store, letters(1, 250)...)
	to, n := c.mustMigrate(1, lone.store)
	if n != 250 {
		t.Errorf("%d letters were migrated", n)
	}
	got := list(t, to, dlq.Query{})
	if len(got) != 251 || got[0].RecordID != "of the cluster" || got[250].RecordID != letter(250).RecordID {
		t.Errorf("%d letters, from %s to %s", len(got), got[0].RecordID, got[len(got)-1].RecordID)
	}
}

func TestMigrate_CanBeInterruptedAnywhere(t *testing.T) {
	c := openTrio(t)
	lone := open(t, t.TempDir(), dlq.Config{})
	for n := range 60 {
		add(t, lone.store, letters(10*n+1, 10*n+10)...)
	}
	if err := lone.store.Discard(bg, 1, 77, 600); err != nil {
		t.Fatal(err)
	}
	want := list(t, lone.store, dlq.Query{})
	// As soon as the servers agree at all.
	c.await(func() error {
		members, err := c.servers[0].Members(bg)
		if err == nil && len(members) < 3 {
			err = errors.New("no cluster yet")
		}
		return err
	})
	var to *dlq.Store
	interrupted, patient, deadline := 0, 2*time.Millisecond, time.Now().Add(patience)
	for to == nil {
		began := time.Now()
		ctx, cancel := context.WithTimeout(bg, patient)
		store, n, err := c.migrate(ctx, 0, lone.store)
		if err == nil && n != uint64(len(want)) {
			t.Errorf("%d letters were migrated, of %d", n, len(want))
		}
		if err != nil {
			if interrupted++; time.Now().After(deadline) {
				t.Fatal(err)
			}
			t.Logf("after %s of %s: %v", time.Since(began), patient, err)
			<-ctx.Done()
			patient = min(patient*3/2, 10*time.Second)
		}
		cancel()
		to = store
	}
	if interrupted < 3 {
		t.Errorf("interrupted %d times only", interrupted)
	}
	healthy(t, to)
	same(t, want, list(t, to, dlq.Query{}))
}

func TestMigrate_LeavesADamagedLetterWhereItIs(t *testing.T) {
	c := openTrio(t)
	lone := open(t, t.TempDir(), dlq.Config{})
	add(t, lone.store, letters(1, 3)...)
	if _, err := lone.js.Publish(bg, "CONVEYOR_DLQ.a.b.c", []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.migrate(bg, 0, lone.store); !errors.Is(err, dlq.ErrCorrupt) {
		t.Fatalf("migrated a damaged letter: %v", err)
	}
	if err := lone.store.Discard(bg, 4); err != nil {
		t.Fatal(err)
	}
	if _, n := c.mustMigrate(0, lone.store); n != 3 {
		t.Errorf("%d letters were migrated", n)
	}
}

func TestMigrate_KeepsTheReportOfALoss(t *testing.T) {
	c := openTrio(t)
	dir := t.TempDir()
	lone := open(t, dir, dlq.Config{})
	add(t, lone.store, letters(1, 20)...)
	raw, err := lone.js.Stream(bg, dlq.DefaultStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.DeleteMsg(bg, 7); err != nil {
		t.Fatal(err)
	}
	lone = reopen(t, lone, dir, dlq.Config{})
	want, ok := errors.AsType[*dlq.LostError](lone.store.Health())
	if !ok {
		t.Fatalf("health: %v", lone.store.Health())
	}
	to, _ := c.mustMigrate(0, lone.store)
	if got, _ := errors.AsType[*dlq.LostError](to.Health()); got == nil || *got != *want {
		t.Errorf("health: %v, want %v", to.Health(), want)
	}
}
