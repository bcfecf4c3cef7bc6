package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/raftstore/raftstoretest"
)

func TestSalvage_WhatOneServerOfALostClusterHasGoesOnAsAClusterOfItsOwn(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		// Some of it is in a snapshot, and some in the log behind.
		c := cluster(t, func(_ int, cfg *raftstore.Config) { cfg.SnapshotThreshold, cfg.TrailingLogs = 8, 24 })
		var want []string
		for n := range 20 {
			want = append(want, fmt.Sprint(n))
			c.write(want[n])
		}
		leader := c.Leader()
		old, id := c.Store(leader).ClusterID(), c.Store(leader).ServerID()
		term := c.Store(leader).Leadership().Term
		if err := c.Store(leader).Snapshot(); err != nil {
			t.Fatal(err)
		}
		c.write("behind the snapshot")
		want = append(want, "behind the snapshot")
		for _, n := range others(leader) {
			c.Stop(n)
		}
		// Nobody can say any more whether it counts, so it does.
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := c.Store(leader).Propose(ctx, []byte("of unknown outcome")); err == nil {
			t.Fatal("acknowledged without a majority")
		}
		if _, err := raftstore.Salvage(t.Context(), c.Dir(leader), &journal{}); !errors.Is(err, raftstore.ErrInUse) {
			t.Errorf("salvage of a server that runs: %v", err)
		}
		c.Stop(leader)

		j := &journal{}
		found, err := raftstore.Salvage(t.Context(), c.Dir(leader), j)
		if err != nil {
			t.Fatal(err)
		}
		have := j.all()
		if len(have) == len(want)+1 && have[len(want)] == "of unknown outcome" {
			want = have // it came as far as the log
		}
		if !slices.Equal(have, want) {
			t.Errorf("salvaged %q", have)
		}
		if found.ClusterID != old || found.ServerID != id || found.Log != kindOf(t) || len(found.Members) != 3 || found.Index < 21 || found.Term != term {
			t.Errorf("salvaged %+v of server %s of cluster %s", found, id, old)
		}
		dir := filepath.Join(t.TempDir(), "new")
		cfg := raftstore.Config{Dir: dir, ServerName: "1", Address: raftstoretest.Address(leader), Log: found.Log}
		j.cmds = append(j.cmds, "changed by the caller")
		if err := raftstore.Refound(t.Context(), cfg, found, j); err != nil {
			t.Fatal(err)
		}
		after := &journal{}
		s := open(t, dir, after)
		defer s.Close()
		if got := after.all(); !slices.Equal(got, append(slices.Clone(want), "changed by the caller")) {
			t.Errorf("founded with %q", got)
		}
		if s.ClusterID() == old || s.ServerID() == id {
			t.Errorf("server %s of cluster %s goes on as it was", s.ServerID(), s.ClusterID())
		}
		servers, err := s.Servers()
		if err != nil || len(servers) != 1 || servers[0].Address != raftstoretest.Address(leader) || servers[0].ID != s.ServerID() {
			t.Errorf("its members are %v, %v", servers, err)
		}
		// The lost ones may have come further than the one that is left.
		if r := propose(t, s, "new"); r.Index <= found.Beyond || found.Beyond < found.Index+1<<30 {
			t.Errorf("a command has index %d after %d, beyond %d", r.Index, found.Index, found.Beyond)
		}
		// What it was is as it was.
		if again, err := raftstore.Salvage(t.Context(), c.Dir(leader), &journal{}); err != nil || again.Index != found.Index || again.ClusterID != old {
			t.Errorf("salvaged again: %+v, %v", again, err)
		}
	})
}

// One that comes back with its old directory must not count as a member of the new cluster, nor take it for its own.
func TestRefound_AServerOfTheLostClusterIsNoMember(t *testing.T) {
	c := cluster(t, nil)
	c.write("a")
	for n := 1; n <= 3; n++ {
		c.Stop(n)
	}
	j := &journal{}
	found, err := raftstore.Salvage(t.Context(), c.Dir(1), j)
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(t.TempDir(), "kept")
	if err := os.Rename(c.Dir(1), kept); err != nil {
		t.Fatal(err)
	}
	if err := raftstore.Refound(t.Context(), raftstore.Config{Dir: c.Dir(1), ServerName: "1", Address: raftstoretest.Address(1)}, found, j); err != nil {
		t.Fatal(err)
	}
	c.Start(1)
	c.Start(2)
	if leader := c.Leader(1); leader != 1 {
		t.Fatalf("server %d leads", leader)
	}
	c.write("b", 1)
	c.has(1, "a", "b")
	if slices.Contains(c.journals[2].all(), "b") || c.Store(2).Leader() == c.Store(1).ServerID() {
		t.Errorf("server 2 follows %s and has %q", c.Store(2).Leader(), c.journals[2].all())
	}
	// With an empty disk it can be added like any other.
	c.Stop(2)
	c.Wipe(2)
	c.Start(2)
	if _, err := c.Store(1).AddLearner(t.Context(), c.Store(2).ServerID(), raftstoretest.Address(2), 0); err != nil {
		t.Fatal(err)
	}
	c.has(2, "a", "b")
}

func TestSalvage_WhatIsDamagedOrNothingIsRefused(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		dir := t.TempDir()
		if _, err := raftstore.Salvage(t.Context(), dir, &journal{}); !errors.Is(err, raftstore.ErrNothing) {
			t.Errorf("an empty directory: %v", err)
		}
		s := open(t, dir, &journal{})
		propose(t, s, "a")
		if _, err := s.Propose(t.Context(), []byte("future command")); !errors.Is(err, raftstore.ErrHalted) {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil && !errors.Is(err, raftstore.ErrHalted) {
			t.Fatal(err)
		}
		var halted *raftstore.HaltedError
		if _, err := raftstore.Salvage(t.Context(), dir, &journal{}); !errors.As(err, &halted) {
			t.Errorf("a command that the machine does not know: %v", err)
		}
		used := t.TempDir()
		if err := os.WriteFile(filepath.Join(used, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := raftstore.Refound(t.Context(), raftstore.Config{Dir: used, ServerName: "1"}, raftstore.Salvaged{}, &journal{}); err == nil {
			t.Error("a cluster was founded in a directory that is not empty")
		}
		if err := os.Remove(filepath.Join(dir, "identity.json")); err != nil {
			t.Fatal(err)
		}
		if _, err := raftstore.Salvage(t.Context(), dir, &journal{}); err == nil {
			t.Error("a directory without its identity was salvaged")
		}
	})
}
