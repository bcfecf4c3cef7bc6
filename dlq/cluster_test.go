package dlq_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/conveyor-etl/conveyor/dlq"
)

func TestCluster_AcknowledgedLettersSurviveALostServer(t *testing.T) {
	c := openTrio(t)
	store := c.open(0)
	want := map[uint64]bool{}
	for i := range 5 {
		want[c.append(store, fmt.Sprint("before-", i))] = true
	}
	// The one that leads the stream goes, and the router that wrote with it.
	js, err := c.servers[0].JetStream()
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(bg, dlq.DefaultStream)
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for i, name := range c.names {
		if stream.CachedInfo().Cluster.Leader == name {
			lost = i
		}
	}
	if n := len(stream.CachedInfo().Cluster.Replicas); n != 2 {
		t.Fatalf("the stream has %d further copies", n)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	c.stop(lost)
	next := c.open((lost + 1) % 3)
	if err := next.Health(); err != nil {
		t.Errorf("the next store misses something: %v", err)
	}
	want[c.append(next, "after")] = true
	if again := c.append(next, "before-0"); !want[again] || again == 6 {
		t.Errorf("a letter that is stored was stored again, as %d", again)
	}
	// A removal is not taken for a loss by the one that opens it next.
	if err := next.Discard(bg, 1); err != nil {
		t.Fatal(err)
	}
	delete(want, 1)
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	c.start(lost)
	third := c.open(lost)
	if err := third.Health(); err != nil {
		t.Errorf("the third store misses something: %v", err)
	}
	for l, err := range third.List(bg, dlq.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if !want[l.ID] {
			t.Errorf("letter %d is there", l.ID)
		}
		delete(want, l.ID)
	}
	if len(want) > 0 {
		t.Errorf("letters %v are missing", want)
	}
}

func TestCluster_NothingIsAcknowledgedWithoutAMajority(t *testing.T) {
	c := openTrio(t)
	store := c.open(0)
	c.append(store, "a")
	c.stop(1)
	c.stop(2)
	if _, err := store.Append(bg, []dlq.Letter{named("b")}); !errors.Is(err, dlq.ErrUnavailable) {
		t.Fatalf("append without a majority: %v", err)
	}
	c.start(1)
	c.append(store, "b")
}

func TestCluster_AStoreThatWasSupersededAcknowledgesNothing(t *testing.T) {
	c := openTrio(t)
	old := c.open(0)
	c.append(old, "a")
	next := c.open(1)
	c.append(next, "b")
	if _, err := old.Append(bg, []dlq.Letter{named("c")}); !errors.Is(err, dlq.ErrSuperseded) {
		t.Fatalf("the superseded store answered %v", err)
	}
	if err := old.Discard(bg, 1); !errors.Is(err, dlq.ErrSuperseded) {
		t.Fatalf("the superseded store removed a letter: %v", err)
	}
}

func TestCluster_AReplacedServerGetsACopy(t *testing.T) {
	c := openTrio(t)
	store := c.open(0)
	c.append(store, "a")
	c.stop(2)
	old := c.names[2]
	c.dirs[2], c.names[2] = t.TempDir(), "3-second"
	c.start(2)
	c.await(func() error {
		ctx, cancel := context.WithTimeout(bg, 2*time.Second)
		defer cancel()
		return c.servers[0].Forget(ctx, old)
	})
	ctx, cancel := context.WithTimeout(bg, patience)
	defer cancel()
	if err := c.servers[0].Forget(ctx, old); err != nil {
		t.Errorf("forgotten again: %v", err)
	}
	c.await(func() error {
		js, err := c.servers[1].JetStream()
		if err != nil {
			return err
		}
		defer js.Conn().Close()
		info, err := streamInfo(js)
		if err != nil {
			return err
		}
		current := 1
		var names []string
		for _, r := range info.Cluster.Replicas {
			names = append(names, r.Name)
			if r.Current {
				current++
			}
		}
		if current != 3 || strings.Contains(fmt.Sprint(names, info.Cluster.Leader), old) {
			return fmt.Errorf("%d copies are current, of %v and %s", current, names, info.Cluster.Leader)
		}
		return nil
	})
	c.stop(0)
	last := c.open(2)
	if l, err := c.get(last, 1); err != nil || l.RecordID != "a" {
		t.Errorf("the letter at the new server: %v, %v", l.RecordID, err)
	}
}

// The server that leads is the one that would give the copies of another to a third.
func TestCluster_AServerThatLeadsIsForgottenAndItsCopyIsGivenToAnother(t *testing.T) {
	c := openTrio(t)
	store := c.open(0)
	c.append(store, "a")
	c.current(store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	c.join()
	leads := -1
	c.await(func() error {
		members, err := c.servers[3].Members(bg)
		current := 0
		for _, m := range members {
			if m.Current {
				current++
			}
			if m.Leader {
				leads = slices.Index(c.names, m.Name)
			}
		}
		if err == nil && (current != 4 || leads < 0 || leads == 3) {
			err = fmt.Errorf("members %+v", members)
		}
		return err
	})
	// It still runs, as that of a router does which was removed and not stopped yet.
	old, other := c.names[leads], c.servers[(leads+1)%3]
	c.await(func() error {
		ctx, cancel := context.WithTimeout(bg, 10*time.Second)
		defer cancel()
		return other.Forget(ctx, old)
	})
	store = c.open((leads + 1) % 3)
	c.current(store)
	st, err := c.status(store)
	if err != nil || slices.ContainsFunc(st.Copies, func(c dlq.Copy) bool { return c.Server == old }) {
		t.Errorf("after %s was forgotten: %+v, %v", old, st, err)
	}
}

func streamInfo(js jetstream.JetStream) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(bg, 2*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, dlq.DefaultStream)
	if err != nil {
		return nil, err
	}
	return s.Info(ctx)
}

// each opens the store at every server in turn, and checks that they all have the same letters.
func (c *trio) each(want map[uint64]string) {
	c.t.Helper()
	for i := range c.servers {
		store := c.open(i)
		if err := store.Health(); err != nil {
			c.t.Errorf("server %d: %v", i+1, err)
		}
		got := make(map[uint64]string)
		for _, l := range list(c.t, store, dlq.Query{}) {
			got[l.ID] = l.RecordID
		}
		if diff := cmp.Diff(want, got); diff != "" {
			c.t.Errorf("letters at server %d (-want +got):\n%.2000s", i+1, diff)
		}
		if n, err := store.Count(bg, dlq.Query{}); n != uint64(len(want)) || err != nil {
			c.t.Errorf("server %d counts %d, %v", i+1, n, err)
		}
		if err := store.Close(); err != nil {
			c.t.Fatal(err)
		}
	}
}

func TestCluster_AnyServerCanBeLostAndCatchesUp(t *testing.T) {
	c := openTrio(t)
	want := make(map[uint64]string)
	put := func(store *dlq.Store, id string) { want[c.append(store, id)] = id }
	for lost := range c.servers {
		at := (lost + 1) % 3
		store := c.open(at)
		put(store, fmt.Sprint("before-", lost))
		c.stop(lost)
		began := time.Now()
		put(store, fmt.Sprint("without-", lost))
		t.Logf("without server %d letters are taken after %s", lost+1, time.Since(began))
		if st, err := c.status(store); err != nil || st.Current() != 2 {
			t.Errorf("status without server %d: %+v, %v", lost+1, st, err)
		}
		for l := range want {
			if got, err := c.get(store, l); err != nil || got.RecordID != want[l] {
				t.Errorf("letter %d is %q, %v", l, got.RecordID, err)
			}
		}
		c.start(lost)
		c.current(store)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.each(want)
}

func TestCluster_ADamagedCopyIsNoLoss(t *testing.T) {
	c := openTrio(t)
	store := c.open(0)
	want := make(map[uint64]string)
	for i := range 40 {
		id := fmt.Sprint(i)
		want[c.append(store, id)] = id
	}
	// As large as there may be, over the route.
	large := named("large")
	large.Record = make([]byte, dlq.MaxRecordBytes)
	want[add(t, store, large)[0].ID] = "large"
	c.current(store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range c.servers {
		c.stop(i)
	}
	var block string
	for _, path := range files(t, c.dirs[2], "*.blk") {
		if strings.Contains(path, filepath.Join("streams", dlq.DefaultStream)) {
			block = path
		}
	}
	b, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/40000] ^= 0x10
	if err := os.WriteFile(block, b, 0o600); err != nil {
		t.Fatal(err)
	}
	// One of the sound copies leads: what a damaged leader lacks is reported as lost, although others have it.
	c.start(0)
	c.start(1)
	if err := c.open(0).Close(); err != nil {
		t.Fatal(err)
	}
	c.start(2)
	c.each(want)
}

func TestCluster_AServerIsForgottenAlsoByThoseThatNeverMetIt(t *testing.T) {
	c := openTrio(t)
	store := c.open(0)
	c.append(store, "a")
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	old := c.names[2]
	for i := range c.servers {
		c.stop(i)
	}
	c.start(0)
	c.start(1)
	c.await(func() error {
		ctx, cancel := context.WithTimeout(bg, 2*time.Second)
		defer cancel()
		return c.servers[0].Forget(ctx, old)
	})
	c.await(func() error {
		members, err := c.servers[1].Members(bg)
		if err == nil && len(members) != 2 {
			err = fmt.Errorf("members %+v", members)
		}
		return err
	})
	c.dirs[2], c.names[2] = t.TempDir(), "3-second"
	c.start(2)
	store = c.open(1)
	c.current(store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	c.each(map[uint64]string{1: "a"})
}
