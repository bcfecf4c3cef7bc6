package engine

import (
	"context"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// storing counts the calls and accepts everything.
type storing struct {
	Control
	calls atomic.Int32
}

func (s *storing) ReportCheckpoints(_ context.Context, points []*controlv1.Checkpoint) ([]controlv1.CheckpointResult, error) {
	s.calls.Add(1)
	results := make([]controlv1.CheckpointResult, len(points))
	for i := range results {
		results[i] = controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED
	}
	return results, nil
}

// moving always has a checkpoint to store.
type moving struct{ stores int }

func (*moving) checkpoint() *controlv1.Checkpoint { return &controlv1.Checkpoint{} }

func (m *moving) stored(*controlv1.Checkpoint, controlv1.CheckpointResult, error) { m.stores++ }

func TestCheckpointer_CollectsForAsLongAsItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		control := &storing{}
		c := newCheckpointer(control, noMemory{}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.run(ctx)
		}()
		defer func() { cancel(); <-done }()
		for _, pause := range []time.Duration{2 * time.Second, checkpointPause, time.Hour} {
			want := min(pause, maxCheckpointPause) // a router does not stop checkpoints
			c.pace(pause)
			busy := &moving{}
			c.report(busy)
			synctest.Wait()
			before := control.calls.Load()
			c.report(busy)
			time.Sleep(want - time.Millisecond)
			synctest.Wait()
			if control.calls.Load() != before {
				t.Errorf("stored after less than %v", want)
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if control.calls.Load() != before+1 {
				t.Errorf("%d calls after %v", control.calls.Load()-before, want)
			}
			time.Sleep(want)
		}
	})
}

func TestCheckpointer_GathersWhatSettlesAndLetsALaneThatWaitsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		control := &storing{}
		c := newCheckpointer(control, noMemory{}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.run(ctx)
		}()
		defer func() { cancel(); <-done }()

		busy, ending := &moving{}, &moving{}
		c.report(busy)
		synctest.Wait()
		for range 10 {
			c.report(busy)
			synctest.Wait()
		}
		if control.calls.Load() != 1 {
			t.Errorf("%d calls within one pause", control.calls.Load())
		}
		c.hurry(ending)
		synctest.Wait()
		if ending.stores != 1 || busy.stores != 2 || control.calls.Load() != 2 {
			t.Errorf("a lane that waits was stored %d times, the other %d times, in %d calls", ending.stores, busy.stores, control.calls.Load())
		}
		c.report(busy)
		time.Sleep(checkpointPause)
		synctest.Wait()
		if busy.stores != 3 {
			t.Error("nothing was stored behind the pause")
		}
	})
}

// forgetful is a memory whose disk takes nothing until it is told to.
type forgetful struct {
	noMemory
	full    bool
	written int
}

func (f *forgetful) Stored(points []*controlv1.Checkpoint) error {
	if f.full {
		return syscall.ENOSPC
	}
	f.written += len(points)
	return nil
}

// telling notes what a lane was told, and what was written by then.
type telling struct {
	memory   *forgetful
	accepted int
	waits    int
}

func (*telling) checkpoint() *controlv1.Checkpoint { return &controlv1.Checkpoint{} }

func (l *telling) stored(_ *controlv1.Checkpoint, result controlv1.CheckpointResult, err error) {
	if err != nil || result != controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED {
		l.waits++
		return
	}
	if l.accepted++; l.memory.written < l.accepted {
		panic("the lane was told before the checkpoint was written")
	}
}

func TestCheckpointer_ALaneHearsOfACheckpointOnlyOnceItIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := &forgetful{full: true}
		c := newCheckpointer(&storing{}, memory, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.run(ctx)
		}()
		defer func() { cancel(); <-done }()

		l := &telling{memory: memory}
		c.report(l)
		synctest.Wait()
		if l.accepted != 0 || l.waits != 1 {
			t.Errorf("with a full disk the lane was told %d times that its checkpoint is stored, and %d times to wait", l.accepted, l.waits)
		}
		memory.full = false
		c.report(l)
		time.Sleep(time.Minute)
		synctest.Wait()
		if l.accepted != 1 {
			t.Errorf("with room again the lane was told %d times", l.accepted)
		}
	})
}
