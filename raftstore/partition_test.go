package raftstore_test

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/raftstore/raftstoretest"
)

func TestCluster_AServerBehindTheLogCatchesUpBySnapshot(t *testing.T) {
	eachLog(t, clusterAServerBehindTheLogCatchesUpBySnapshot)
}

func clusterAServerBehindTheLogCatchesUpBySnapshot(t *testing.T) {
	c := cluster(t, func(_ int, cfg *raftstore.Config) { cfg.SnapshotThreshold, cfg.TrailingLogs = 2, 6 })
	lead := c.Leader()
	behind := others(lead)[0]
	c.write("first")
	c.has(behind, "first")
	c.Stop(behind)
	commands, filler := 12, strings.Repeat("x", 100<<10)
	if kindOf(t) == raftstore.LogWAL { // which gives entries away segment by segment
		commands, filler = 60, strings.Repeat("x", 400<<10)
	}
	for i := range commands {
		c.write(strconv.Itoa(i) + filler)
	}
	latest := strconv.Itoa(commands-1) + filler
	if err := c.Store(c.Leader()).Snapshot(); err != nil {
		t.Fatal(err)
	}
	c.Start(behind)
	c.has(behind, "first", "0"+filler, latest)
	got, err := filepath.Glob(filepath.Join(c.Dir(behind), "snapshots", "*", "state.bin"))
	if err != nil || len(got) == 0 {
		t.Fatalf("no snapshot arrived: %v", err)
	}
	c.Stop(behind)
	c.Start(behind)
	c.write("last")
	c.has(behind, "first", latest, "last")
}

// The library would try for ever to send what it cannot read.
func TestCluster_ALeaderThatCannotReadItsSnapshotMakesPlaceForOneThatCan(t *testing.T) {
	c := cluster(t, func(_ int, cfg *raftstore.Config) { cfg.SnapshotThreshold, cfg.TrailingLogs = 2, 6 })
	lead := c.Leader()
	behind := others(lead)[0]
	c.write("first")
	c.has(behind, "first")
	c.Stop(behind)
	filler := strings.Repeat("x", 100<<10)
	for i := range 12 {
		c.write(strconv.Itoa(i) + filler)
	}
	lead = c.Leader()
	if err := c.Store(lead).Snapshot(); err != nil {
		t.Fatal(err)
	}
	taken, err := filepath.Glob(filepath.Join(c.Dir(lead), "snapshots", "*", "state.bin"))
	if err != nil || len(taken) == 0 {
		t.Fatalf("no snapshot was taken: %v", err)
	}
	for _, path := range taken {
		flip(t, path, func(b []byte) int { return len(b) / 2 })
	}
	c.Start(behind)
	select {
	case <-c.Store(lead).Failed():
	case <-time.After(raftstoretest.Wait):
		t.Fatal("it leads on, and the one that is behind never catches up")
	}
	var damaged *raftstore.DamagedError
	if err := c.Store(lead).Err(); !errors.As(err, &damaged) || !damaged.Peers {
		t.Errorf("it failed with %v", err)
	}
	c.Stop(lead)
	c.has(behind, "first", "0"+filler, "11"+filler)
	c.write("last")
	c.has(behind, "last")
}

func TestCluster_OneWayPartitionsEndInOneLeader(t *testing.T) {
	t.Run("a follower hears nothing", func(t *testing.T) {
		c := cluster(t, nil)
		lead := c.Leader()
		deaf := others(lead)[0]
		c.has(deaf)
		c.Block(lead, deaf)
		for i := range 10 {
			c.write(strconv.Itoa(i))
		}
		c.Leader()
		c.Heal()
		c.has(deaf, "0", "9")
		c.Leader()
	})
	t.Run("a leader is not heard", func(t *testing.T) {
		c := cluster(t, nil)
		lead := c.Leader()
		c.write("a")
		for _, n := range others(lead) {
			c.Block(lead, n)
		}
		c.write("b", others(lead)...)
		c.Eventually("the mute leader steps down", func() bool { return !c.Store(lead).Leadership().Leader })
		c.has(lead, "a", "b")
		c.Leader()
	})
}
