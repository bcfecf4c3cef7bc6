package buffer_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/conveyor-etl/conveyor/buffer"
)

func TestQueue_KeepsOrderAndCounts(t *testing.T) {
	q := buffer.NewQueue[int](100, 1000)
	for i := range 20 { // over the first growth of the ring, with its start in the middle
		push(t, q, i, 3)
		if i%3 == 0 {
			if v, ok := q.TryPop(); !ok || v != i/3 {
				t.Fatalf("popped %d, %v; want %d", v, ok, i/3)
			}
		}
	}
	if q.Len() != 13 || q.Bytes() != 39 {
		t.Errorf("%d items, %d bytes; want 13, 39", q.Len(), q.Bytes())
	}
	dst := make([]int, 5)
	if n, err := q.PopUpTo(t.Context(), dst); n != 5 || err != nil || !slices.Equal(dst, []int{7, 8, 9, 10, 11}) {
		t.Errorf("PopUpTo = %d, %v: %v", n, err, dst)
	}
	if got := q.PopAll([]int{-1}); !slices.Equal(got, []int{-1, 12, 13, 14, 15, 16, 17, 18, 19}) {
		t.Errorf("PopAll = %v", got)
	}
	if q.Len() != 0 || q.Bytes() != 0 {
		t.Errorf("%d items, %d bytes left", q.Len(), q.Bytes())
	}
	if _, ok := q.TryPop(); ok {
		t.Error("popped from an empty queue")
	}
}

func TestQueue_WritersWaitForRoomInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := buffer.NewQueue[int](2, 10)
		push(t, q, 0, 6)
		var wg sync.WaitGroup
		for i, bytes := range []int64{6, 1, 1} { // the small ones must not overtake
			wg.Go(func() { push(t, q, i+1, bytes) })
			synctest.Wait()
		}
		if q.Len() != 1 || q.TryPush(9, 1) {
			t.Fatalf("a writer overtook: %d items", q.Len())
		}
		var got []int
		for range 4 {
			v, err := q.Pop(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, v)
			if q.Len() > 2 || q.Bytes() > 10 {
				t.Errorf("%d items, %d bytes", q.Len(), q.Bytes())
			}
		}
		wg.Wait()
		if !slices.Equal(got, []int{0, 1, 2, 3}) {
			t.Errorf("order %v", got)
		}
		if s := q.Stats(); s.Waits != 3 {
			t.Errorf("%d waits, want 3", s.Waits)
		}
	})
}

func TestQueue_LargeItemEntersAnEmptyQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := buffer.NewQueue[int](2, 10)
		push(t, q, 1, 1)
		done := make(chan error, 1)
		go func() { done <- q.Push(t.Context(), 2, 1<<40) }()
		synctest.Wait()
		if len(done) != 0 {
			t.Fatal("entered beside another")
		}
		q.TryPop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestQueue_CloseDrainsThenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := buffer.NewQueue[int](1, 10)
		push(t, q, 1, 1)
		writer := make(chan error, 1)
		go func() { writer <- q.Push(t.Context(), 2, 1) }()
		synctest.Wait()
		q.Close()
		q.Close()
		if err := <-writer; !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("waiting Push = %v, want ErrClosed", err)
		}
		if err := q.Push(t.Context(), 3, 1); !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("later Push = %v, want ErrClosed", err)
		}
		if v, err := q.Pop(t.Context()); v != 1 || err != nil {
			t.Errorf("Pop = %d, %v", v, err)
		}
		for range 2 {
			if _, err := q.Pop(t.Context()); !errors.Is(err, buffer.ErrClosed) {
				t.Errorf("Pop = %v, want ErrClosed", err)
			}
		}
		if _, err := q.PopUpTo(t.Context(), make([]int, 1)); !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("PopUpTo = %v, want ErrClosed", err)
		}
	})
}

func TestQueue_CloseWakesAllReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := buffer.NewQueue[int](1, 10)
		done := make(chan error, 3)
		for range 3 {
			go func() { _, err := q.Pop(t.Context()); done <- err }()
		}
		synctest.Wait()
		q.Close()
		for range 3 {
			if err := <-done; !errors.Is(err, buffer.ErrClosed) {
				t.Errorf("Pop = %v, want ErrClosed", err)
			}
		}
	})
}

func TestQueue_GivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := buffer.NewQueue[int](4, 10)
		push(t, q, 1, 5)
		cause := errors.New("stage stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		large, small := make(chan error, 1), make(chan error, 1)
		go func() { large <- q.Push(ctx, 2, 9) }()
		synctest.Wait()
		go func() { small <- q.Push(t.Context(), 3, 5) }()
		synctest.Wait()
		cancel(cause)
		if err := <-large; !errors.Is(err, cause) {
			t.Errorf("Push = %v, want %v", err, cause)
		}
		if err := <-small; err != nil { // fits, now that nobody is before it
			t.Errorf("Push = %v", err)
		}
		q.PopAll(nil)
		if _, err := q.Pop(ctx); !errors.Is(err, cause) {
			t.Errorf("Pop = %v, want %v", err, cause)
		}
		if err := q.Push(ctx, 1, 1); !errors.Is(err, cause) || q.Len() != 0 {
			t.Errorf("Push with an ended context = %v, %d items", err, q.Len())
		}
	})
}

// Many writers and readers at random: every value arrives once, each writer's values in order, and
// the bounds hold throughout.
func TestQueue_ConcurrentUseLosesNothing(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			const writers, perWriter, readers = 5, 200, 3
			q := buffer.NewQueue[[2]int](7, 50)
			var wg, readerWG sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, uint64(w)))
					for i := range perWriter {
						if err := q.Push(t.Context(), [2]int{w, i}, rnd.Int64N(60)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			results := make([][][2]int, readers)
			for r := range readers {
				readerWG.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, uint64(100+r)))
					for {
						if q.Len() > 7 || q.Bytes() > 50+60 {
							t.Errorf("%d items, %d bytes", q.Len(), q.Bytes())
						}
						dst := make([][2]int, 1+rnd.IntN(4))
						n, err := q.PopUpTo(t.Context(), dst)
						results[r] = append(results[r], dst[:n]...)
						if err != nil {
							return
						}
					}
				})
			}
			wg.Wait()
			q.Close()
			readerWG.Wait()
			seen := map[[2]int]int{}
			for r, got := range results {
				last := map[int]int{}
				for _, v := range got {
					seen[v]++
					if prev, ok := last[v[0]]; ok && prev >= v[1] {
						t.Errorf("reader %d got %v after %d", r, v, prev)
					}
					last[v[0]] = v[1]
				}
			}
			if len(seen) != writers*perWriter {
				t.Errorf("%d values arrived, want %d", len(seen), writers*perWriter)
			}
			for v, n := range seen {
				if n != 1 {
					t.Errorf("%v arrived %d times", v, n)
				}
			}
		})
	}
}

func push[T any](t *testing.T, q *buffer.Queue[T], v T, bytes int64) {
	t.Helper()
	if err := q.Push(t.Context(), v, bytes); err != nil {
		t.Errorf("push %v: %v", v, err)
	}
}
