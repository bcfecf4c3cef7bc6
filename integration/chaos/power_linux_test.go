package chaos_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/disk"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

var powerCuts = flag.Int("powercuts", 30, "how often the power is cut, with each kind of log")

// TestPowerLoss_WhatWasAcknowledgedIsThereAfterwards cuts the power of a router's disk while it takes changes and dead letters.
func TestPowerLoss_WhatWasAcknowledgedIsThereAfterwards(t *testing.T) {
	for _, kind := range []string{"bbolt", "wal"} {
		t.Run(kind, func(t *testing.T) { cutPower(t, proc.NewRouter(t, "RAFT_LOG="+kind)) })
	}
}

// cutPower loses power again and again while a router stores changes and letters.
func cutPower(t *testing.T, router *proc.Router) {
	run := record(t)
	t.Logf("go test ./chaos -run %s -powercuts=%d -seed=%d", t.Name(), *powerCuts, *seed)
	random := chaos.Generator(*seed, "faults")
	d := disk.New(t, 192<<20)
	router.KeepIn(filepath.Join(d.Dir(), "router"))
	router.Start()
	router.AwaitReady()
	c, err := client.Dial(t.Context(), []string{router.Addr()}, client.WithTimeout(5*time.Second), client.WithRetryFor(0))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var acknowledged writes
	letters, late := 0, 0
	for n := range *powerCuts {
		session := register(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := acknowledged.last() + 1; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("r%d-%d", n, i)
				if _, err := c.StoreDeadLetters(ctx, session, []*controlv1.Letter{chaos.DeadLetter("p", id)}); err != nil {
					return
				}
				acknowledged.letter(id)
				if _, err := chaos.Write(ctx, c, "k", fmt.Sprint(i)); err != nil {
					return
				}
				acknowledged.write(i)
			}
		}()
		pass(t, time.Duration(100+random.IntN(300))*time.Millisecond)
		// Whoever is told something after that could not have been: a flush that is under way when the file system is shut down may be said to have been made.
		wrote, stored := acknowledged.now()
		d.Cut()
		run.Faults["power lost"]++
		router.Kill()
		cancel()
		<-done
		d.Restore()
		router.Start()
		router.AwaitReady()
		// The write that was under way may have been made.
		said, err := chaos.Read(t.Context(), c, "k")
		got, invalid := strconv.Atoi("0" + said)
		if last := acknowledged.last(); err != nil || invalid != nil || got < wrote || got > last+1 {
			t.Fatalf("cut %d: the value is %q (%v), and %d was acknowledged", n, said, err, wrote)
		} else if got < last {
			late++
			acknowledged.write(got)
		}
		missing := len(stored)
		for l, err := range c.Letters(t.Context(), &controlv1.LetterFilter{AllNamespaces: true}, 0) {
			if err != nil {
				t.Fatalf("cut %d: %v", n, err)
			}
			if stored[l.GetRecord().GetId()] {
				missing--
			}
		}
		if missing > 0 {
			t.Fatalf("cut %d: %d of %d acknowledged letters are missing", n, missing, len(stored))
		}
		letters = len(stored)
	}
	t.Logf("after %d cuts something was told that was cut off", late)
	wrote := acknowledged.last()
	run.Changes, run.Letters = wrote, letters
	t.Logf("%d power cuts, %d changes and %d letters acknowledged", *powerCuts, wrote, letters)
	if wrote < *powerCuts || letters < *powerCuts {
		t.Error("hardly anything was acknowledged: the run proves nothing")
	}
}

// writes is what was acknowledged. Its methods may be called concurrently.
type writes struct {
	mu     sync.Mutex
	number int
	stored map[string]bool
}

func (w *writes) write(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.number = n
}

func (w *writes) letter(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stored == nil {
		w.stored = map[string]bool{}
	}
	w.stored[id] = true
}

func (w *writes) last() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.number
}

func (w *writes) now() (number int, stored map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.number, maps.Clone(w.stored)
}

func register(t *testing.T, c *client.Client) *controlv1.Session {
	t.Helper()
	resp, err := c.Register(t.Context(), &controlv1.RegisterRequest{SidecarId: "a", Address: "127.0.0.1:1", Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetSession()
}
