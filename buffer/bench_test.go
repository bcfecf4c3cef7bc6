package buffer_test

import (
	"testing"

	"github.com/conveyor-etl/conveyor/buffer"
)

func BenchmarkWindow_AcquireRelease(b *testing.B) {
	w := buffer.New(8192, 1<<20)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Acquire(ctx, 1, 100); err != nil {
			b.Fatal(err)
		}
		w.Release(1, 100)
	}
}

func BenchmarkLimits_SendReceiveSettle(b *testing.B) {
	r := buffer.NewRecvLimit(8192, 1<<20)
	s := buffer.NewSendLimit(r.Granted())
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Acquire(ctx, 1, 100); err != nil {
			b.Fatal(err)
		}
		if err := r.Check(1, 100); err != nil {
			b.Fatal(err)
		}
		r.Settle(1, 100)
		if r.ShouldAnnounce() {
			s.Raise(r.Announce())
		}
		s.Settle(1, 100)
	}
}

func BenchmarkQueue_PushPop(b *testing.B) {
	q := buffer.NewQueue[int](8192, 1<<20)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := q.Push(ctx, 1, 100); err != nil {
			b.Fatal(err)
		}
		if _, err := q.Pop(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMerge_8Inputs(b *testing.B) {
	m := buffer.NewMerge[int](1 << 16)
	var inputs []*buffer.Queue[int]
	for range 8 {
		q := buffer.NewQueue[int](8192, 1<<20)
		if err := m.Add(q, 1); err != nil {
			b.Fatal(err)
		}
		inputs = append(inputs, q)
	}
	ctx := b.Context()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := inputs[i%8].Push(ctx, 1, 100); err != nil {
			b.Fatal(err)
		}
		if _, _, err := m.Pop(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// The promise of the hot path, as a test: it allocates nothing.
func TestHotPath_AllocatesNothing(t *testing.T) {
	ctx := t.Context()
	w := buffer.New(8, 100)
	r := buffer.NewRecvLimit(8, 100)
	s := buffer.NewSendLimit(r.Granted())
	q := buffer.NewQueue[int](8, 100)
	for name, f := range map[string]func() error{
		"window": func() error {
			defer w.Release(1, 1)
			return w.Acquire(ctx, 1, 1)
		},
		"limits": func() error {
			if err := s.Acquire(ctx, 1, 1); err != nil {
				return err
			}
			if err := r.Check(1, 1); err != nil {
				return err
			}
			r.Settle(1, 1)
			s.Settle(1, 1)
			s.Raise(r.Announce())
			return nil
		},
		"queue": func() error {
			if err := q.Push(ctx, 1, 1); err != nil {
				return err
			}
			_, err := q.Pop(ctx)
			return err
		},
	} {
		if n := testing.AllocsPerRun(100, func() {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
