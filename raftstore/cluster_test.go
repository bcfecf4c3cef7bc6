package raftstore_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/raftstore/raftstoretest"
)

type testCluster struct {
	*raftstoretest.Cluster
	t        *testing.T
	journals map[int]*journal
}

func cluster(t *testing.T, change func(int, *raftstore.Config)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, journals: map[int]*journal{}}
	c.Cluster = raftstoretest.New(t, raftstoretest.Config{
		Servers: 3,
		Change: func(server int, cfg *raftstore.Config) {
			cfg.Log = kindOf(t)
			if change != nil {
				change(server, cfg)
			}
		},
		Machine: func(n int) raftstore.StateMachine { c.journals[n] = &journal{}; return c.journals[n] },
	})
	return c
}

// write proposes a command at whoever leads until it is acknowledged.
func (c *testCluster) write(cmd string, among ...int) {
	c.t.Helper()
	c.Eventually("write "+cmd, func() bool {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.Store(c.Leader(among...)).Propose(ctx, []byte(cmd))
		return err == nil
	})
}

func (c *testCluster) has(server int, cmds ...string) {
	c.t.Helper()
	c.Eventually("server "+strconv.Itoa(server)+" has "+strings.Join(cmds, " "), func() bool {
		have := c.journals[server].all()
		for _, cmd := range cmds {
			if !slices.Contains(have, cmd) {
				return false
			}
		}
		return true
	})
}

func others(n int) []int {
	return slices.DeleteFunc([]int{1, 2, 3}, func(m int) bool { return m == n })
}

func TestCluster_FoundsOnceAndKeepsCommandsWhenTheLeaderIsLost(t *testing.T) {
	eachLog(t, clusterFoundsOnceAndKeepsCommandsWhenTheLeaderIsLost)
}

func clusterFoundsOnceAndKeepsCommandsWhenTheLeaderIsLost(t *testing.T) {
	c := cluster(t, nil)
	first := c.Leader()
	for i := range 5 {
		c.write("before" + strconv.Itoa(i))
	}
	id := c.Store(first).ClusterID()
	c.Stop(first)
	second := c.Leader()
	c.write("after")
	if err := c.Store(second).Read(t.Context()); err != nil {
		t.Errorf("read at the new leader: %v", err)
	}
	c.has(second, "before0", "before4", "after")
	c.Start(first)
	c.has(first, "before0", "before4", "after")
	for n := 1; n <= 3; n++ {
		if got := c.Store(n).ClusterID(); got != id {
			t.Errorf("server %d is in cluster %q, and not in %q", n, got, id)
		}
	}
	// The library counts what is applied a moment after it was.
	c.Eventually("the server that came back says how old its reads are", func() bool {
		s := c.Store(first).StaleRead()
		return s.Known && s.AppliedIndex > 0
	})
}

func TestCluster_LargeCommandsReachEveryServer(t *testing.T) {
	// No leader is to be lost to a slow disk here.
	c := cluster(t, func(_ int, cfg *raftstore.Config) {
		cfg.Timeouts = raftstore.Timeouts{Heartbeat: 3 * time.Second, Election: 3 * time.Second, Lease: 3 * time.Second}
	})
	lead := c.Store(c.Leader())
	want := make([]string, 12)
	errs := make(chan error, len(want))
	for i := range want {
		want[i] = strings.Repeat(string(rune('a'+i)), raftstore.MaxCommandBytes)
		go func() {
			_, err := lead.Propose(t.Context(), []byte(want[i]))
			errs <- err
		}()
	}
	for range want {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	for n := 1; n <= 3; n++ {
		c.Eventually("all large commands arrive", func() bool { return len(c.journals[n].all()) == len(want) })
	}
}

// Whoever is left when a majority is lost has often led it, and is the one that is asked.
func TestCluster_ALeaderThatLosesItsMajorityKnowsHowOldItsReadsAre(t *testing.T) {
	c := cluster(t, func(_ int, cfg *raftstore.Config) { cfg.Timeouts = patient })
	c.write("before")
	leader := c.Leader()
	lead := c.Store(leader)
	began := time.Now()
	if _, err := lead.Propose(t.Context(), []byte("last")); err != nil {
		t.Fatal(err)
	}
	for _, n := range others(leader) {
		c.Stop(n)
	}
	stopped := time.Now()
	c.Eventually("it leads no more", func() bool { return !lead.Leadership().Leader })
	least := time.Since(stopped)
	got := lead.StaleRead()
	if most := time.Since(began); !got.Known || got.Age < least || got.Age > most {
		t.Errorf("a majority was there last %v to %v ago, and its reads are said to be %+v", least, most, got)
	}
}

func TestCluster_AMinorityAcknowledgesAndServesNothing(t *testing.T) {
	eachLog(t, clusterAMinorityAcknowledgesAndServesNothing)
}

func clusterAMinorityAcknowledgesAndServesNothing(t *testing.T) {
	c := cluster(t, nil)
	c.write("a")
	old := c.Leader()
	c.Isolate(old)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := c.Store(old).Propose(ctx, []byte("lost")); err == nil {
		t.Error("the cut off leader acknowledged a command")
	}
	c.write("b", others(old)...)
	if err := c.Store(old).Read(ctx); err == nil {
		t.Error("the cut off leader served a read")
	}
	c.Heal()
	c.has(old, "a", "b")
	if slices.Contains(c.journals[old].all(), "lost") {
		t.Error("a command that was replaced is applied")
	}
}

func TestCluster_AWipedServerIsANewOneAndHasNoVote(t *testing.T) {
	c := cluster(t, nil)
	c.write("precious")
	for n := 1; n <= 3; n++ {
		c.has(n, "precious")
	}
	lead := c.Leader()
	wiped, behind := others(lead)[0], others(lead)[1]
	oldID := c.Store(wiped).ServerID()
	// Of the three, one lacks the last command. With the vote of the wiped one it would win against the leader.
	c.Stop(behind)
	c.write("committed by two")
	c.Stop(lead)
	c.Stop(wiped)
	c.Wipe(wiped)
	fresh := c.Start(wiped)
	c.Start(behind)
	if fresh.ServerID() == oldID || fresh.ClusterID() != "" {
		t.Fatalf("the wiped server is %s in cluster %q", fresh.ServerID(), fresh.ClusterID())
	}
	refusesCallsForAnother(t, fresh, oldID)

	// Nobody can be elected now: what was committed is with the stopped server only.
	idle, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for l := range c.Store(behind).LeadershipChanges(idle) {
		if l.Leader {
			t.Fatal("a server was elected with the vote of a lost memory")
		}
	}
	c.Start(lead)
	c.write("after")
	c.has(behind, "precious", "committed by two", "after")
	if fresh.ClusterID() != "" || len(c.journals[wiped].all()) != 0 {
		t.Error("the wiped server takes part before it was added")
	}

	n := c.Leader()
	m, err := c.Store(n).Membership()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Store(n).AddLearner(t.Context(), fresh.ServerID(), raftstoretest.Address(wiped)+"0", m.Index+1); !errors.Is(err, raftstore.ErrRefused) {
		t.Errorf("a change of another list: %v", err)
	}
	if m.Index, err = c.Store(n).Remove(t.Context(), oldID, m.Index); err != nil {
		t.Fatal(err)
	}
	if m.Index, err = c.Store(n).AddLearner(t.Context(), fresh.ServerID(), raftstoretest.Address(wiped), m.Index); err != nil {
		t.Fatal(err)
	}
	c.has(wiped, "precious", "committed by two", "after")
	if _, err = c.Store(n).Promote(t.Context(), fresh.ServerID(), m.Index); err != nil {
		t.Fatal(err)
	}
	if err := c.Store(n).TransferLeadership(t.Context(), fresh.ServerID()); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the new server leads", func() bool { return fresh.Leadership().Leader })
}

func TestCluster_ALeaderWithoutRoomHandsOver(t *testing.T) {
	full := 0
	c := raftstoretest.New(t, raftstoretest.Config{
		Servers: 3, Machine: func(int) raftstore.StateMachine { return &journal{} },
		Change: func(server int, cfg *raftstore.Config) {
			if server == full {
				cfg.MinFree = 1 << 62 // more than there is
			}
		},
	})
	leader := c.Leader()
	full = leader%3 + 1
	c.Stop(full)
	c.Start(full)
	c.Eventually("the one without room follows", func() bool { return c.Store(full).AppliedIndex() >= c.Store(leader).AppliedIndex() })
	c.Eventually("the one without room leads", func() bool {
		_ = c.Store(leader).TransferLeadership(t.Context(), c.Store(full).ServerID())
		return !c.Store(leader).Leadership().Leader
	})
	c.Eventually("another one leads", func() bool {
		for n := 1; n <= 3; n++ {
			if _, err := c.Store(n).Propose(t.Context(), []byte("x")); n != full && err == nil {
				return true
			}
		}
		return false
	})
}

func TestCluster_AServerThatLostItsLogInItsFirstLifeDoesNotVoteWithoutIt(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		c := cluster(t, nil)
		c.Leader()
		c.write("a")
		c.has(2, "a")
		c.Stop(2)
		for _, name := range []string{"raft.db", "wal"} {
			if err := os.RemoveAll(filepath.Join(c.Dir(2), name)); err != nil {
				t.Fatal(err)
			}
		}
		cfg := raftstore.Config{Dir: c.Dir(2), ServerName: "2", Address: raftstoretest.Address(2), Log: kindOf(t)}
		for n := 1; n <= 3; n++ {
			cfg.Peers = append(cfg.Peers, raftstore.Peer{ServerName: strconv.Itoa(n), Address: raftstoretest.Address(n)})
		}
		s, err := raftstore.Open(t.Context(), cfg, &journal{})
		if !errors.Is(err, raftstore.ErrDamaged) {
			t.Errorf("opened: %v", err)
		}
		if err == nil {
			t.Error(s.Close())
		}
	})
}

func TestMembership_AChangeDecidedOnAnOutdatedListIsRefused(t *testing.T) {
	c := cluster(t, nil)
	c.write("one")
	lead := c.Leader()
	store := c.Store(lead)
	before, err := store.Membership()
	if err != nil || before.Index == 0 || !before.Committed || len(before.Servers) != 3 {
		t.Fatalf("the members are %+v, %v", before, err)
	}
	gone := c.Store(others(lead)[0]).ServerID()
	index, err := store.Remove(t.Context(), gone, before.Index)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := store.Membership(); err != nil || now.Index != index || !now.Committed || len(now.Servers) != 2 {
		t.Errorf("after the removal at %d the members are %+v, %v", index, now, err)
	}
	if _, err := store.Remove(t.Context(), c.Store(others(lead)[1]).ServerID(), before.Index); !errors.Is(err, raftstore.ErrRefused) {
		t.Errorf("a change of the list before: %v", err)
	}
	// A list out of a snapshot is a committed one, too.
	if err := store.Snapshot(); err != nil {
		t.Fatal(err)
	}
	c.Stop(others(lead)[1])
	c.Stop(lead)
	if now, err := c.Start(lead).Membership(); err != nil || now.Index != index || !now.Committed {
		t.Errorf("after a restart out of a snapshot the members are %+v, %v", now, err)
	}
}

// elections counts how often a server stands for election, by what it logs.
type elections struct {
	slog.Handler
	n atomic.Int64
}

func (e *elections) Enabled(context.Context, slog.Level) bool { return true }

func (e *elections) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Value.String() == "entering candidate state" {
			e.n.Add(1)
		}
		return true
	})
	return nil
}

func (e *elections) WithAttrs([]slog.Attr) slog.Handler { return e }

func TestRetire_AServerThatWasRemovedStandsForElectionNoMore(t *testing.T) {
	counts := map[int]*elections{1: {}, 2: {}, 3: {}}
	c := cluster(t, func(n int, cfg *raftstore.Config) { cfg.Logger = slog.New(counts[n]) })
	c.write("one")
	lead := c.Leader()
	retired, other := others(lead)[0], others(lead)[1]
	c.has(retired, "one")
	if err := c.Store(retired).Retire(); err != nil {
		t.Fatal(err)
	}
	before, otherBefore := counts[retired].n.Load(), counts[other].n.Load()
	c.Isolate(retired)
	c.Isolate(other)
	c.Eventually("the other has stood for election three times", func() bool { return counts[other].n.Load() >= otherBefore+3 })
	if n := counts[retired].n.Load() - before; n > 0 {
		t.Errorf("it stood for election %d times", n)
	}
}

// What a server is sent first is from before it was added, and it must not take that for its removal.
func TestMembership_AServerThatCatchesUpKnowsThatItsAdditionIsStillToCome(t *testing.T) {
	c := cluster(t, nil)
	lead := c.Leader()
	for n := range 80 {
		c.write(strconv.Itoa(n) + strings.Repeat("x", raftstore.MaxCommandBytes/4))
	}
	four := c.Start(4)
	removed := func(m raftstore.Membership) bool {
		return m.Since > 0 && m.Committed && m.Index > m.Since && !slices.ContainsFunc(m.Servers, func(s raftstore.Server) bool { return s.ID == four.ServerID() })
	}
	earlier, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for ; ; <-time.After(time.Millisecond) {
			m, err := four.Membership()
			if err != nil || removed(m) {
				t.Errorf("while it catches up: %+v, %v", m, err)
			}
			if m.Since > 0 || t.Context().Err() != nil {
				return
			}
			if m.Committed {
				earlier++
			}
		}
	}()
	c.Eventually("it is added", func() bool {
		_, err := c.Store(c.Leader(1, 2, 3)).AddLearner(t.Context(), four.ServerID(), raftstoretest.Address(4), 0)
		return err == nil
	})
	<-done
	if earlier == 0 {
		t.Error("it never knew earlier members only: the test proves nothing")
	}
	m, err := four.Membership()
	if err != nil || m.Since == 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	// It knows as much after a restart, from nobody.
	c.Isolate(4)
	c.Stop(4)
	if again, err := c.Start(4).Membership(); err != nil || again.Since != m.Since {
		t.Errorf("after a restart it knows of a list at %d, and not at %d: %v", again.Since, m.Since, err)
	}
	c.Heal()
	_, err = c.Store(c.Leader(1, 2, 3)).Remove(t.Context(), c.Store(4).ServerID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Eventually("the others have a later list", func() bool {
		m, err := c.Store(lead).Membership()
		return err == nil && m.Committed && m.Index > c.membership(4).Since && len(m.Servers) == 3
	})
}

func (c *testCluster) membership(server int) raftstore.Membership {
	c.t.Helper()
	m, err := c.Store(server).Membership()
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}
