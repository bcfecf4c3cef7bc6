package buffer_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conveyor-etl/conveyor/buffer"
)

func TestWindow_CountsRecordsAndBytes(t *testing.T) {
	cases := []struct {
		name           string
		heldR          int
		heldB          int64
		records        int
		bytes          int64
		want           bool
		wantErrWaiting error // of Acquire when TryAcquire refuses and nothing is ever released
	}{
		{name: "fits both", records: 10, bytes: 1000, want: true},
		{name: "records full", heldR: 10, heldB: 1, records: 1, bytes: 1, wantErrWaiting: context.DeadlineExceeded},
		{name: "bytes full", heldR: 1, heldB: 1000, records: 1, bytes: 1, wantErrWaiting: context.DeadlineExceeded},
		{name: "one huge record, nothing outstanding", records: 1, bytes: 1 << 40, want: true},
		{name: "one huge record, something outstanding", heldR: 1, heldB: 1, records: 1, bytes: 1 << 40, wantErrWaiting: context.DeadlineExceeded},
		{name: "two records over bytes", records: 2, bytes: 1001, wantErrWaiting: buffer.ErrTooLarge},
		{name: "too many records", records: 11, bytes: 1, wantErrWaiting: buffer.ErrTooLarge},
		{name: "bytes that would overflow", heldR: 1, heldB: 1, records: 2, bytes: math.MaxInt64, wantErrWaiting: buffer.ErrTooLarge},
		{name: "bytes of no record", records: 0, bytes: 1000, want: true},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := buffer.New(10, 1000)
				if tc.heldR > 0 && !w.TryAcquire(tc.heldR, tc.heldB) {
					t.Fatal("first acquire refused")
				}
				if got := w.TryAcquire(tc.records, tc.bytes); got != tc.want {
					t.Fatalf("TryAcquire = %v, want %v", got, tc.want)
				}
				if tc.want {
					return
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := w.Acquire(ctx, tc.records, tc.bytes); !errors.Is(err, tc.wantErrWaiting) {
					t.Fatalf("Acquire = %v, want %v", err, tc.wantErrWaiting)
				}
				if r, b := w.Outstanding(); r != tc.heldR || b != tc.heldB {
					t.Errorf("a refused request left %d records, %d bytes outstanding", r, b)
				}
			})
		})
	}
}

func TestWindow_ServesWaitersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := buffer.New(4, 1000)
		acquire(t, w, 4, 4)
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		// The first wants most: the small ones behind it must not overtake it.
		for i, n := range []int{3, 1, 1, 2} {
			wg.Go(func() {
				if err := w.Acquire(t.Context(), n, int64(n)); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
			synctest.Wait()
		}
		if w.TryAcquire(0, 0) {
			t.Error("TryAcquire overtook the waiters")
		}
		for range 4 {
			w.Release(1, 1)
			synctest.Wait()
		}
		w.Release(1, 1)
		synctest.Wait()
		w.Release(2, 2)
		wg.Wait()
		if want := []int{0, 1, 2, 3}; !slices.Equal(order, want) {
			t.Errorf("served in order %v, want %v", order, want)
		}
	})
}

func TestWindow_GivingUpLetsTheNextOneGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := buffer.New(4, 1000)
		acquire(t, w, 2, 2)
		cause := errors.New("stage stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- w.Acquire(ctx, 3, 3) }()
		synctest.Wait()
		go func() { second <- w.Acquire(t.Context(), 2, 2) }()
		synctest.Wait()
		cancel(cause)
		if err := <-first; !errors.Is(err, cause) {
			t.Errorf("first = %v, want %v", err, cause)
		}
		if err := <-second; err != nil {
			t.Errorf("second = %v", err)
		}
	})
}

func TestWindow_EndedContextTakesNothing(t *testing.T) {
	w := buffer.New(4, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Acquire(ctx, 1, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Acquire = %v, want canceled", err)
	}
	if r, _ := w.Outstanding(); r != 0 {
		t.Errorf("%d records outstanding", r)
	}
}

func TestWindow_CloseEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := buffer.New(1, 1)
		acquire(t, w, 1, 1)
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- w.Acquire(t.Context(), 1, 1) }()
		}
		synctest.Wait()
		w.Close()
		w.Close()
		for range 2 {
			if err := <-done; !errors.Is(err, buffer.ErrClosed) {
				t.Errorf("waiting Acquire = %v, want ErrClosed", err)
			}
		}
		w.Release(1, 1)
		if err := w.Acquire(t.Context(), 1, 1); !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("later Acquire = %v, want ErrClosed", err)
		}
	})
}

func TestWindow_ResizeFreesAndRefusesWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := buffer.New(4, 1000)
		acquire(t, w, 4, 4)
		three, one := make(chan error, 1), make(chan error, 1)
		go func() { three <- w.Acquire(t.Context(), 3, 3) }()
		synctest.Wait()
		go func() { one <- w.Acquire(t.Context(), 1, 1) }()
		synctest.Wait()
		w.Resize(2, 1000) // three can never fit now
		if err := <-three; !errors.Is(err, buffer.ErrTooLarge) {
			t.Errorf("three = %v, want ErrTooLarge", err)
		}
		if r, b := w.Available(); r != 0 || b != 996 {
			t.Errorf("available = %d records, %d bytes; want 0, 996", r, b)
		}
		w.Resize(5, 1000)
		if err := <-one; err != nil {
			t.Errorf("one = %v", err)
		}
	})
}

func TestWindow_CountsBlockedTimeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := buffer.New(1, 100)
		acquire(t, w, 1, 1)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := w.Acquire(t.Context(), 1, 1); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(10 * time.Second)
		if got, want := w.Stats(), (buffer.Stats{Waits: 3, Blocked: 10 * time.Second}); got != want {
			t.Errorf("while blocked: %+v, want %+v", got, want)
		}
		for range 3 {
			w.Release(1, 1)
			time.Sleep(time.Second)
		}
		wg.Wait()
		if got, want := w.Stats(), (buffer.Stats{Waits: 3, Blocked: 12 * time.Second}); got != want {
			t.Errorf("afterwards: %+v, want %+v", got, want)
		}
	})
}

func TestWindow_FaultyCallersPanic(t *testing.T) {
	for name, f := range map[string]func(*buffer.Window){
		"release too many records": func(w *buffer.Window) { w.Release(3, 0) },
		"release too many bytes":   func(w *buffer.Window) { w.Release(0, 3) },
		"release negative":         func(w *buffer.Window) { w.Release(-1, 0) },
		"acquire negative":         func(w *buffer.Window) { w.TryAcquire(1, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			w := buffer.New(4, 4)
			acquire(t, w, 2, 2)
			func() {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				f(w)
			}()
			w.Release(2, 2) // the window still works
		})
	}
}

// Many goroutines at random: never more outstanding than the window holds, except one record alone;
// everybody is served in the end; and all credit is back.
func TestWindow_NeverExceedsItsSize(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const records, bytes = 8, 64
			w := buffer.New(records, bytes)
			var mu sync.Mutex
			outR, outB := 0, int64(0)
			var wg sync.WaitGroup
			for g := range uint64(16) {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, g))
					for range 50 {
						n := 1 + rnd.IntN(records)
						b := rnd.Int64N(bytes + 1)
						if n == 1 {
							b = rnd.Int64N(2 * bytes)
						}
						ctx, cancel := t.Context(), context.CancelFunc(func() {})
						if rnd.IntN(4) == 0 {
							ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(20))*time.Millisecond)
						}
						err := w.Acquire(ctx, n, b)
						cancel()
						if err != nil {
							if !errors.Is(err, context.DeadlineExceeded) {
								t.Errorf("Acquire = %v", err)
							}
							continue
						}
						mu.Lock()
						outR, outB = outR+n, outB+b
						if (outR > records || outB > bytes) && outR != 1 {
							t.Errorf("%d records and %d bytes outstanding", outR, outB)
						}
						mu.Unlock()
						time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
						mu.Lock()
						outR, outB = outR-n, outB-b
						mu.Unlock()
						w.Release(n, b)
					}
				})
			}
			wg.Wait()
			if r, b := w.Outstanding(); r != 0 || b != 0 {
				t.Errorf("seed %d: %d records, %d bytes outstanding at the end", seed, r, b)
			}
		})
	}
}

func acquire(t *testing.T, w *buffer.Window, records int, bytes int64) {
	t.Helper()
	if !w.TryAcquire(records, bytes) {
		t.Fatalf("acquire %d records, %d bytes: refused", records, bytes)
	}
}
