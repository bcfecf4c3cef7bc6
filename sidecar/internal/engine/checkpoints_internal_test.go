package engine

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/conveyor-etl/conveyor/client"
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

// busy are routers that refuse some reports first, with the time after which to come again.
type busy struct {
	storing
	refuse int
	after  time.Duration
	calls  []time.Time
	points []*controlv1.Checkpoint // of the last call
}

func (b *busy) ReportCheckpoints(ctx context.Context, points []*controlv1.Checkpoint) ([]controlv1.CheckpointResult, error) {
	b.calls, b.points = append(b.calls, time.Now()), points
	if b.refuse > 0 {
		b.refuse--
		return nil, fmt.Errorf("report checkpoints: %w", &client.Error{Code: codes.ResourceExhausted, Reason: client.ReasonBusy, RetryAfter: b.after})
	}
	return b.storing.ReportCheckpoints(ctx, points)
}

// settling is a lane on which records settle, one a second.
type settling struct {
	c      *checkpointer
	began  time.Time
	stores uint64
}

func (l *settling) checkpoint() *controlv1.Checkpoint {
	return &controlv1.Checkpoint{Sequence: uint64(time.Since(l.began) / time.Second)}
}

func (l *settling) stored(p *controlv1.Checkpoint, _ controlv1.CheckpointResult, err error) {
	if err != nil {
		l.c.report(l)
		return
	}
	l.stores = p.GetSequence()
}

func TestCheckpointer_ComesAgainWithTheNewestWhenBusyRoutersSaySo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const refused, after, lanes = 3, 20 * time.Second, 5
		control := &busy{refuse: refused, after: after}
		c := newCheckpointer(control, noMemory{}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.run(ctx)
		}()
		defer func() { cancel(); <-done }()
		began := time.Now()
		var all []*settling
		for range lanes {
			l := &settling{c: c, began: began}
			all = append(all, l)
			c.report(l)
		}
		for range 100 {
			time.Sleep(time.Second)
			c.hurry(all[0]) // a lane that waits does not make it impatient
		}
		synctest.Wait()
		for n := 1; n <= refused; n++ {
			if waited := control.calls[n].Sub(control.calls[n-1]); waited < after || waited > 2*after {
				t.Errorf("it came again after %v, and was asked not to for %v", waited, after)
			}
		}
		at := uint64(control.calls[refused].Sub(began) / time.Second)
		for i, l := range all[1:] {
			if l.stores != at {
				t.Errorf("lane %d: stored %d, and the newest was %d", i+1, l.stores, at)
			}
		}
	})
}
