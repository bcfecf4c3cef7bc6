package raftstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/raftstore/raftstoretest"
)

// written is what a server of its own with the commands has as a snapshot, and its index.
func written(t *testing.T, cmds ...string) (data []byte, index uint64) {
	t.Helper()
	s := open(t, t.TempDir(), &journal{})
	for _, cmd := range cmds {
		propose(t, s, cmd)
	}
	var out bytes.Buffer
	index, err := s.WriteSnapshot(t.Context(), &out)
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), index
}

// patient are timeouts for tests in which nobody else is to lead: a restore that is overtaken by that has no known end.
var patient = raftstore.Timeouts{Heartbeat: 3 * time.Second, Election: 3 * time.Second, Lease: 2 * time.Second}

// unread fails a test that reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("it was read")
	return 0, io.EOF
}

func TestRestore_GivesAllServersTheStateAndWritesGoOn(t *testing.T) {
	eachLog(t, restoreGivesAllServersTheStateAndWritesGoOn)
}

func restoreGivesAllServersTheStateAndWritesGoOn(t *testing.T) {
	var many []string
	for n := range 50 {
		many = append(many, fmt.Sprint("restored-", n))
	}
	data, index := written(t, many...)
	c := cluster(t, func(_ int, cfg *raftstore.Config) { cfg.Timeouts = patient })
	c.write("of the cluster before")
	leader := c.Leader()
	for _, n := range others(leader) {
		if err := c.Store(n).Restore(t.Context(), unread{t}); !errors.Is(err, raftstore.ErrNotLeader) {
			t.Errorf("a follower restores: %v", err)
		}
		if _, err := c.Store(n).WriteSnapshot(t.Context(), io.Discard); !errors.Is(err, raftstore.ErrNotLeader) {
			t.Errorf("a follower writes a snapshot: %v", err)
		}
	}
	before, err := c.Store(leader).Servers()
	if err != nil {
		t.Fatal(err)
	}
	behind := others(leader)[0]
	c.Stop(behind)
	behindIt := bytes.NewReader(append(slices.Clone(data), "what comes behind it"...))
	if err := c.Store(leader).Restore(t.Context(), behindIt); err != nil {
		t.Fatal(err)
	}
	if left, _ := io.ReadAll(behindIt); string(left) != "what comes behind it" {
		t.Errorf("%q is left of what comes behind it", left)
	}
	all := func(want ...string) {
		t.Helper()
		for n := 1; n <= 3; n++ {
			if c.Store(n) == nil {
				continue
			}
			c.Eventually(fmt.Sprintf("server %d has %d commands", n, len(want)), func() bool { return slices.Equal(c.journals[n].all(), want) })
		}
	}
	all(many...)
	r, err := c.Store(leader).Propose(t.Context(), []byte("after"))
	if err != nil || r.Index <= index {
		t.Fatalf("a command after it has index %d, and that of the snapshot is %d: %v", r.Index, index, err)
	}
	if err := c.Store(leader).Read(t.Context()); err != nil {
		t.Error(err)
	}
	after, err := c.Store(leader).Servers()
	if err != nil || !slices.Equal(after, before) {
		t.Errorf("the members were %v and are %v, %v", before, after, err)
	}
	c.Start(behind)
	all(append(slices.Clone(many), "after")...)
	for round := range 2 {
		for n := 1; n <= 3; n++ {
			c.Stop(n)
		}
		for n := 1; n <= 3; n++ {
			c.Start(n)
		}
		c.write(fmt.Sprint("again ", round))
	}
	all(append(slices.Clone(many), "after", "again 0", "again 1")...)
}

func TestRestore_OfBytesThatAreNoWholeSnapshotChangesNothing(t *testing.T) {
	data, _ := written(t, "a", "b")
	dir, j := t.TempDir(), &journal{}
	s := open(t, dir, j)
	propose(t, s, "kept")
	refuse := func(what string, damaged []byte) {
		t.Helper()
		if err := s.Restore(t.Context(), bytes.NewReader(damaged)); !errors.Is(err, raftstore.ErrBadSnapshot) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for at := range data {
		for _, bits := range []byte{1, 16, 128} {
			damaged := bytes.Clone(data)
			damaged[at] ^= bits
			refuse(fmt.Sprintf("byte %d changed", at), damaged)
		}
		refuse(fmt.Sprintf("cut off after %d bytes", at), data[:at])
	}
	if got := j.all(); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("the commands are %q", got)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "restore-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	propose(t, s, "goes on")
	if err := s.Restore(t.Context(), bytes.NewReader(data)); err != nil || !slices.Equal(j.all(), []string{"a", "b"}) {
		t.Errorf("the whole one: %q, %v", j.all(), err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "restore-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRestore_WhatTheMachineDoesNotTakeIsTakenBack(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		data, _ := written(t, "first", "second")
		dir := t.TempDir()
		s := open(t, dir, &wary{of: "second"})
		propose(t, s, "kept")
		if err := s.Restore(t.Context(), bytes.NewReader(data)); !errors.Is(err, raftstore.ErrHalted) || errors.Is(err, raftstore.ErrUnknownOutcome) {
			t.Errorf("it is restored: %v", err)
		}
		<-s.Failed()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		j := &journal{}
		s = open(t, dir, j)
		propose(t, s, "goes on")
		if got := j.all(); !slices.Equal(got, []string{"kept", "goes on"}) {
			t.Errorf("afterwards the commands are %q", got)
		}
	})
}

// gated is a machine that waits before it restores.
type gated struct {
	journal
	begun, proceed chan struct{}
}

func (g *gated) Restore(r io.Reader) error {
	select {
	case g.begun <- struct{}{}:
		<-g.proceed
	default: // nobody waits for it
	}
	return g.journal.Restore(r)
}

// What it has by then may be nobody else's: it would apply to it what they agree on.
func TestRestore_AServerThatCannotKnowWhetherTheOthersHaveItGoesOnNoMore(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		data, _ := written(t, "restored")
		begun, proceed := make(chan struct{}), make(chan struct{})
		machines := map[int]*gated{}
		c := raftstoretest.New(t, raftstoretest.Config{
			Servers: 3, Timeouts: patient, Change: func(_ int, cfg *raftstore.Config) { cfg.Log = kindOf(t) },
			Machine: func(n int) raftstore.StateMachine {
				machines[n] = &gated{begun: begun, proceed: proceed}
				return machines[n]
			},
		})
		leader := c.Leader()
		s := c.Store(leader)
		propose(t, s, "kept")
		ended := make(chan error, 1)
		go func() { ended <- s.Restore(t.Context(), bytes.NewReader(data)) }()
		<-begun
		c.Isolate(leader)
		close(proceed)
		if err := <-ended; !errors.Is(err, raftstore.ErrUnknownOutcome) {
			t.Errorf("it is restored: %v", err)
		}
		<-s.Failed()
		if err := s.Err(); !errors.Is(err, raftstore.ErrDamaged) {
			t.Errorf("it goes on, with %v", err)
		}
		c.Stop(leader)
		c.Heal()
		next := c.Leader(others(leader)...)
		propose(t, c.Store(next), "goes on")
		if got := machines[next].all(); !slices.Equal(got, []string{"kept", "goes on"}) {
			t.Errorf("the others have %q", got)
		}
		_, err := raftstore.Open(t.Context(), raftstore.Config{Dir: c.Dir(leader), ServerName: fmt.Sprint(leader)}, &journal{})
		if !errors.Is(err, raftstore.ErrDamaged) || !strings.Contains(err.Error(), "remove this server from its cluster") {
			t.Errorf("it is opened again: %v", err)
		}
	})
}

func TestWriteSnapshot_HasAllThatWasAcknowledgedAndNoGap(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		j := &journal{}
		s := open(t, t.TempDir(), j)
		ctx, cancel := context.WithCancel(t.Context())
		proposed := make(chan error, 1)
		go func() {
			for n := 0; ; n++ {
				if _, err := s.Propose(ctx, []byte(fmt.Sprint(n))); err != nil {
					proposed <- err
					return
				}
			}
		}()
		var pieces [][]byte
		var acknowledged []int
		for range 3 {
			before := len(j.all())
			until(t, "commands are applied", func() bool { return len(j.all()) > before+5 })
			acknowledged = append(acknowledged, len(j.all())-1) // the last may not be answered yet
			var out bytes.Buffer
			if _, err := s.WriteSnapshot(t.Context(), &out); err != nil {
				t.Fatal(err)
			}
			pieces = append(pieces, out.Bytes())
		}
		cancel()
		<-proposed
		for i, data := range pieces {
			k := &journal{}
			again := open(t, t.TempDir(), k)
			if err := again.Restore(t.Context(), bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			got := k.all()
			if len(got) < acknowledged[i] || !slices.Equal(got, j.all()[:len(got)]) {
				t.Errorf("of %d commands it has %d: %q", acknowledged[i], len(got), got)
			}
		}
	})
}

func TestRestore_WhatACrashLeftOfOneIsRemoved(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "restore-1.tmp"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir, &journal{})
	if left, err := filepath.Glob(filepath.Join(dir, "restore-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRestore_ProposalsMeanwhileAreMadeOrOfUnknownOutcomeAndLaterOnesChangeTheNewState(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		data, _ := written(t, "restored")
		j := &journal{}
		s := open(t, t.TempDir(), j)
		ctx, cancel := context.WithCancel(t.Context())
		var proposing sync.WaitGroup
		for n := range 8 {
			proposing.Go(func() {
				for ctx.Err() == nil {
					if _, err := s.Propose(ctx, []byte(fmt.Sprint("meanwhile ", n))); err != nil && !errors.Is(err, raftstore.ErrUnknownOutcome) && ctx.Err() == nil {
						t.Errorf("a proposal meanwhile: %v", err)
					}
				}
			})
		}
		for range 5 {
			if err := s.Restore(t.Context(), bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
			propose(t, s, "later")
			if got := j.all(); got[0] != "restored" || !slices.Contains(got, "later") || slices.Index(got[1:], "restored") >= 0 {
				t.Errorf("a restore and a command behind it make %q", got)
			}
		}
		cancel()
		proposing.Wait()
	})
}
