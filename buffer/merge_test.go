package buffer_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conveyor-etl/conveyor/buffer"
)

// item is a value that knows its size.
type item struct{ from, seq, bytes int }

func fill(t *testing.T, q *buffer.Queue[item], from, n, bytes int) {
	t.Helper()
	for i := range n {
		push(t, q, item{from, i, bytes}, int64(bytes))
	}
}

func newQueue() *buffer.Queue[item] { return buffer.NewQueue[item](1<<20, 1<<40) }

func TestMerge_SharesByBytesAndWeight(t *testing.T) {
	const kib = 1 << 10
	cases := []struct {
		name          string
		sizes         []int
		weights       []int
		want          []float64 // shares of the bytes
		quantum       int64
		maxItem, slop int
	}{
		{name: "equal items", sizes: []int{kib, kib}, weights: []int{1, 1}, want: []float64{.5, .5}, quantum: kib},
		{name: "large and small items", sizes: []int{64 * kib, 100}, weights: []int{1, 1}, want: []float64{.5, .5}, quantum: kib},
		{name: "large quantum", sizes: []int{64 * kib, 100, 5000}, weights: []int{1, 1, 1}, want: []float64{1. / 3, 1. / 3, 1. / 3}, quantum: 128 * kib},
		{name: "weights", sizes: []int{kib, kib, 3 * kib}, weights: []int{1, 3, 4}, want: []float64{.125, .375, .5}, quantum: 2 * kib},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			m := buffer.NewMerge[item](tc.quantum)
			const total = 16 << 20
			for i, size := range tc.sizes {
				q := newQueue()
				fill(t, q, i, total/size+1, size) // enough for any share
				if err := m.Add(q, tc.weights[i]); err != nil {
					t.Fatal(err)
				}
			}
			got, sum := make([]float64, len(tc.sizes)), 0.
			for sum < total {
				v, q := m.TryPop()
				if q == nil {
					t.Fatal("nothing to read")
				}
				got[v.from] += float64(v.bytes)
				sum += float64(v.bytes)
			}
			for i, want := range tc.want {
				if share := got[i] / sum; share < want-.03 || share > want+.03 {
					t.Errorf("input %d got %.3f of the bytes, want %.3f", i, share, want)
				}
			}
		})
	}
}

func TestMerge_ItemsWithoutBytesTakeTurnsToo(t *testing.T) {
	m := buffer.NewMerge[item](1 << 10)
	for i := range 2 {
		q := newQueue()
		fill(t, q, i, 1000, 0)
		if err := m.Add(q, 1); err != nil {
			t.Fatal(err)
		}
	}
	var got [2]int
	for range 500 {
		v, _ := m.TryPop()
		got[v.from]++
	}
	if got[0] < 200 || got[1] < 200 {
		t.Errorf("shares %v", got)
	}
}

func TestMerge_ABusyInputDoesNotDelayAnIdleOne(t *testing.T) {
	m := buffer.NewMerge[item](1 << 10)
	busy, idle := newQueue(), newQueue()
	fill(t, busy, 0, 1000, 1<<10)
	for _, q := range []*buffer.Queue[item]{busy, idle} {
		if err := m.Add(q, 1); err != nil {
			t.Fatal(err)
		}
	}
	for range 500 {
		if _, q := m.TryPop(); q != busy {
			t.Fatal("the idle input yielded something")
		}
	}
	push(t, idle, item{from: 1}, 100)
	for n := 1; ; n++ {
		if v, _ := m.TryPop(); v.from == 1 {
			break
		}
		if n == 3 {
			t.Fatalf("the idle input waited for %d items", n)
		}
	}
}

func TestMerge_PopWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := buffer.NewMerge[item](1 << 10)
		type popped struct {
			v   item
			q   *buffer.Queue[item]
			err error
		}
		results := make(chan popped, 1)
		pop := func(ctx context.Context) {
			v, q, err := m.Pop(ctx)
			results <- popped{v, q, err}
		}
		go pop(t.Context())
		synctest.Wait()
		q := newQueue()
		push(t, q, item{seq: 1}, 1)
		if err := m.Add(q, 1); err != nil { // with something in it already
			t.Fatal(err)
		}
		if got := <-results; got.err != nil || got.v.seq != 1 || got.q != q {
			t.Errorf("Pop = %+v", got)
		}
		go pop(t.Context())
		synctest.Wait()
		push(t, q, item{seq: 2}, 1)
		if got := <-results; got.err != nil || got.v.seq != 2 {
			t.Errorf("Pop = %+v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go pop(ctx)
		if got := <-results; !errors.Is(got.err, context.DeadlineExceeded) {
			t.Errorf("Pop = %+v, want deadline exceeded", got)
		}
	})
}

func TestMerge_InputsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, other := buffer.NewMerge[item](1<<10), buffer.NewMerge[item](1<<10)
		a, b := newQueue(), newQueue()
		for _, q := range []*buffer.Queue[item]{a, b} {
			if err := m.Add(q, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := other.Add(a, 1); !errors.Is(err, buffer.ErrMerged) {
			t.Errorf("Add to a second merge = %v, want ErrMerged", err)
		}
		push(t, a, item{seq: 1}, 1)
		if !m.Remove(a) || m.Remove(a) || m.Len() != 1 {
			t.Error("Remove is not right")
		}
		if v, err := a.Pop(t.Context()); v.seq != 1 || err != nil {
			t.Errorf("what a removed queue held: %v, %v", v, err)
		}
		if err := other.Add(a, 1); err != nil {
			t.Errorf("Add after Remove = %v", err)
		}

		// A closed input is drained, and leaves.
		push(t, b, item{seq: 2}, 1)
		b.Close()
		if v, q, err := m.Pop(t.Context()); v.seq != 2 || q != b || err != nil {
			t.Errorf("Pop = %v, %v", v, err)
		}
		ended := make(chan error, 2)
		for range 2 {
			go func() { _, _, err := m.Pop(t.Context()); ended <- err }()
		}
		synctest.Wait()
		if m.Len() != 0 || len(ended) != 0 {
			t.Errorf("%d inputs left, %d readers ended", m.Len(), len(ended))
		}
		m.Close()
		m.Close()
		for range 2 {
			if err := <-ended; !errors.Is(err, buffer.ErrClosed) {
				t.Errorf("Pop = %v, want ErrClosed", err)
			}
		}
		if err := m.Add(newQueue(), 1); !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("Add after Close = %v, want ErrClosed", err)
		}
	})
}

func TestMerge_CloseWaitsForTheInputs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := buffer.NewMerge[item](1 << 10)
		open, removed := newQueue(), newQueue()
		for _, q := range []*buffer.Queue[item]{open, removed} {
			if err := m.Add(q, 1); err != nil {
				t.Fatal(err)
			}
		}
		m.Close()
		ended := make(chan error, 1)
		go func() { _, _, err := m.Pop(t.Context()); ended <- err }()
		synctest.Wait()
		open.Close()
		synctest.Wait()
		if len(ended) != 0 {
			t.Fatal("Pop ended with an input left")
		}
		m.Remove(removed)
		if err := <-ended; !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("Pop = %v, want ErrClosed", err)
		}
	})
}

// Random inputs that appear, fill, close and are removed under two readers: every item arrives once,
// through the merge or from the removed queue, in the order of its input.
func TestMerge_LosesNothingWhileInputsChange(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			const inputs, items = 12, 100
			m := buffer.NewMerge[item](1 << 10)
			var mu sync.Mutex
			seen := map[item]int{}
			note := func(v item) {
				mu.Lock()
				defer mu.Unlock()
				v.bytes = 0
				seen[v]++
			}
			var readers, writers sync.WaitGroup
			for range 2 {
				readers.Go(func() {
					last := map[int]int{}
					for {
						v, _, err := m.Pop(t.Context())
						if err != nil {
							if !errors.Is(err, buffer.ErrClosed) {
								t.Error(err)
							}
							return
						}
						if prev, ok := last[v.from]; ok && prev >= v.seq {
							t.Errorf("item %d of input %d after %d", v.seq, v.from, prev)
						}
						last[v.from] = v.seq
						note(v)
					}
				})
			}
			for from := range inputs {
				writers.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, uint64(from)))
					time.Sleep(time.Duration(rnd.IntN(50)) * time.Millisecond)
					q := buffer.NewQueue[item](8, 10_000)
					if err := m.Add(q, 1+rnd.IntN(3)); err != nil {
						t.Error(err)
					}
					leave := items
					if rnd.IntN(2) == 0 {
						leave = rnd.IntN(items)
					}
					for i := range items {
						if i == leave {
							m.Remove(q)
							for _, v := range q.PopAll(nil) {
								note(v)
							}
							if err := m.Add(q, 1); err != nil {
								t.Error(err)
							}
						}
						bytes := rnd.IntN(12_000)
						push(t, q, item{from, i, bytes}, int64(bytes))
						if rnd.IntN(10) == 0 {
							time.Sleep(time.Millisecond)
						}
					}
					q.Close()
				})
			}
			writers.Wait()
			m.Close()
			readers.Wait()
			if len(seen) != inputs*items {
				t.Errorf("seed %d: %d items arrived, want %d", seed, len(seen), inputs*items)
			}
			for v, n := range seen {
				if n != 1 {
					t.Errorf("seed %d: %v arrived %d times", seed, v, n)
				}
			}
		})
	}
}
