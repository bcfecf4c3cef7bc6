package buffer_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conveyor-etl/conveyor/buffer"
)

func TestSendLimit_WaitsForTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := buffer.NewSendLimit(buffer.Grant{})
		sent := make(chan error, 1)
		go func() { sent <- s.Acquire(t.Context(), 2, 100) }()
		wantWaiting := func(when string) {
			t.Helper()
			synctest.Wait()
			if len(sent) != 0 {
				t.Fatalf("%s: went ahead", when)
			}
		}
		wantWaiting("before any grant")
		s.Raise(buffer.Grant{Records: 4, Bytes: 100})
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		go func() { sent <- s.Acquire(t.Context(), 2, 50) }()
		wantWaiting("bytes used up")
		s.Raise(buffer.Grant{Records: 3, Bytes: 120}) // fewer records than before: they stay at 4
		wantWaiting("20 bytes are not 50")
		s.Raise(buffer.Grant{Records: 4, Bytes: 150})
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		s.Raise(buffer.Grant{Records: 1, Bytes: 1}) // late
		if r, b := s.Available(); r != 0 || b != 0 {
			t.Errorf("available: %d records, %d bytes", r, b)
		}
		if got, want := s.Used(), (buffer.Grant{Records: 4, Bytes: 150}); got != want {
			t.Errorf("used %+v, want %+v", got, want)
		}
	})
}

func TestSendLimit_OneRecordMayOverdrawWhenNothingIsOutstanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := buffer.NewSendLimit(buffer.Grant{Records: 8, Bytes: 100})
		if !s.TryAcquire(1, 40) {
			t.Fatal("40 bytes refused")
		}
		big := make(chan error, 1)
		go func() { big <- s.Acquire(t.Context(), 1, 5000) }()
		synctest.Wait()
		if len(big) != 0 {
			t.Fatal("overdrew with a record outstanding")
		}
		if s.Settle(2, 40) || s.Settle(1, 41) {
			t.Error("more was settled than was sent")
		}
		if !s.Settle(1, 40) {
			t.Error("settling was refused")
		}
		if err := <-big; err != nil {
			t.Fatal(err)
		}
		if s.TryAcquire(1, 1) {
			t.Error("sent more while overdrawn")
		}
		if r, b := s.Outstanding(); r != 1 || b != 5000 {
			t.Errorf("outstanding: %d records, %d bytes", r, b)
		}
		s.Raise(buffer.Grant{Records: 9, Bytes: 140}) // what the first record gave back
		if s.TryAcquire(1, 1) {
			t.Error("sent more while still overdrawn")
		}
		s.Raise(buffer.Grant{Records: 10, Bytes: 5140})
		if !s.TryAcquire(1, 100) {
			t.Error("the whole window is free again, 100 bytes refused")
		}
	})
}

func TestSendLimit_RefusesWhatCanNeverFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := buffer.NewSendLimit(buffer.Grant{})
		early := make(chan error, 1)
		go func() { early <- s.Acquire(t.Context(), 9, 1) }()
		synctest.Wait()
		s.Raise(buffer.Grant{Records: 8, Bytes: 100})
		if err := <-early; !errors.Is(err, buffer.ErrTooLarge) {
			t.Errorf("nine records before the first grant = %v, want ErrTooLarge", err)
		}
		if err := s.Acquire(t.Context(), 2, 101); !errors.Is(err, buffer.ErrTooLarge) {
			t.Errorf("101 bytes = %v, want ErrTooLarge", err)
		}
		s.Close()
		s.Close()
		if err := s.Acquire(t.Context(), 1, 1); !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("after Close = %v, want ErrClosed", err)
		}
	})
}

func TestSendLimit_EndOfWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := buffer.NewSendLimit(buffer.Grant{})
		closed := make(chan error, 1)
		go func() { closed <- s.Acquire(t.Context(), 1, 1) }()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := s.Acquire(ctx, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Acquire = %v, want deadline exceeded", err)
		}
		s.Close()
		if err := <-closed; !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("waiting Acquire = %v, want ErrClosed", err)
		}
		if got, want := s.Stats(), (buffer.Stats{Waits: 2, Blocked: 3 * time.Second}); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
	})
}

func TestRecvLimit_HoldsTheSenderToItsGrant(t *testing.T) {
	cases := []struct {
		name    string
		first   [2]int64 // records, bytes that arrived before
		records int
		bytes   int64
		ok      bool
	}{
		{name: "exactly the grant", records: 8, bytes: 100, ok: true},
		{name: "one record too many", records: 9, bytes: 1},
		{name: "one byte too many", records: 2, bytes: 101},
		{name: "one record over, alone", records: 1, bytes: 5000, ok: true},
		{name: "one record over, not alone", first: [2]int64{1, 1}, records: 1, bytes: 100},
		{name: "no record over, alone", records: 0, bytes: 101},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := buffer.NewRecvLimit(8, 100)
			if err := r.Check(int(tc.first[0]), tc.first[1]); err != nil {
				t.Fatal(err)
			}
			err := r.Check(tc.records, tc.bytes)
			var over *buffer.GrantError
			if tc.ok != (err == nil) || err != nil && !errors.As(err, &over) {
				t.Fatalf("Check = %v, want ok %v", err, tc.ok)
			}
			if gotR, gotB := r.Outstanding(); err != nil && (int64(gotR) != tc.first[0] || gotB != tc.first[1]) {
				t.Errorf("what was refused was accounted: %d records, %d bytes", gotR, gotB)
			}
		})
	}
}

func TestRecvLimit_CreditThatWasNotAnnouncedIsNotTheSenders(t *testing.T) {
	r := buffer.NewRecvLimit(8, 100)
	if err := r.Check(8, 80); err != nil {
		t.Fatal(err)
	}
	r.Settle(8, 80)
	if err := r.Check(2, 10); err == nil {
		t.Error("records beyond the announced grant were accepted")
	}
	if got, want := r.Announce(), (buffer.Grant{Records: 16, Bytes: 180}); got != want {
		t.Errorf("grant %+v, want %+v", got, want)
	}
	if err := r.Check(2, 10); err != nil {
		t.Error(err)
	}
}

func TestRecvLimit_AnnouncesWhenItMatters(t *testing.T) {
	type step struct {
		received, settled int // records of 10 bytes
		want              bool
	}
	cases := []struct {
		name  string
		steps []step
	}{
		{"nothing settled", []step{{received: 8}, {received: 8, want: false}}},
		{"a quarter settled", []step{{received: 8, settled: 3}, {settled: 1, want: true}}},
		{"any, when the sender has less than a quarter left", []step{{received: 13}, {settled: 1, want: true}}},
		{"any, when nothing is outstanding", []step{{received: 1, settled: 1, want: true}}},
		{"not for less while there is plenty", []step{{received: 8, settled: 3}, {settled: 0, want: false}}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := buffer.NewRecvLimit(16, 160)
			for i, s := range tc.steps {
				if err := r.Check(s.received, int64(10*s.received)); err != nil {
					t.Fatal(err)
				}
				r.Settle(s.settled, int64(10*s.settled))
				if got := r.ShouldAnnounce(); got != s.want {
					t.Errorf("step %d: ShouldAnnounce = %v, want %v", i, got, s.want)
				}
			}
			r.Announce()
			if r.ShouldAnnounce() {
				t.Error("announced and due again")
			}
		})
	}
}

func TestRecvLimit_ResizeNeverTakesBack(t *testing.T) {
	r := buffer.NewRecvLimit(8, 100)
	r.Resize(2, 10)
	if got, want := r.Announce(), (buffer.Grant{Records: 8, Bytes: 100}); got != want {
		t.Errorf("after shrinking: %+v, want %+v", got, want)
	}
	if err := r.Check(8, 100); err != nil {
		t.Fatal(err)
	}
	r.Settle(7, 95)
	if got, want := r.Announce(), (buffer.Grant{Records: 9, Bytes: 105}); got != want {
		t.Errorf("after settling: %+v, want %+v", got, want)
	}
	r.Resize(100, 1000)
	if got, want := r.Announce(), (buffer.Grant{Records: 107, Bytes: 1095}); got != want {
		t.Errorf("after growing: %+v, want %+v", got, want)
	}
}

// A sender and a receiver that exchange random batches over a delayed link, with grants repeated and
// overtaken: the receiver never sees more than it granted, and everything gets through.
func TestLimits_BothEndsAgree(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			type batch struct {
				records int
				bytes   int64
			}
			type answer struct {
				settled batch
				grant   buffer.Grant // zero: none
			}
			const batches, window, windowBytes = 200, 32, 1000
			rnd := rand.New(rand.NewPCG(seed, 1))
			recv := buffer.NewRecvLimit(window, windowBytes)
			send := buffer.NewSendLimit(recv.Granted())
			data, answers := make(chan batch, batches), make(chan answer, batches+1)

			go func() { // the sender
				defer close(data)
				rnd := rand.New(rand.NewPCG(seed, 2))
				for range batches {
					b := batch{1 + rnd.IntN(window), rnd.Int64N(windowBytes + 1)}
					if rnd.IntN(4) == 0 {
						b = batch{1, rnd.Int64N(4 * windowBytes)}
					}
					if err := send.Acquire(t.Context(), b.records, b.bytes); err != nil {
						t.Errorf("Acquire(%+v) = %v", b, err)
						return
					}
					data <- b
				}
			}()
			done := make(chan struct{})
			go func() { // what the sender hears
				defer close(done)
				var old buffer.Grant
				for a := range answers {
					time.Sleep(time.Millisecond)
					if !send.Settle(a.settled.records, a.settled.bytes) {
						t.Errorf("settling %+v was refused", a.settled)
					}
					send.Raise(a.grant)
					send.Raise(old)
					old = a.grant
				}
			}()
			open := []batch{}
			settleOne := func() {
				i := rnd.IntN(len(open))
				b := open[i]
				open = append(open[:i], open[i+1:]...)
				recv.Settle(b.records, b.bytes)
				a := answer{settled: b}
				if recv.ShouldAnnounce() {
					a.grant = recv.Announce()
				}
				answers <- a
			}
			got := 0
			for data != nil || len(open) > 0 {
				var in chan batch
				if len(open) == 0 || data != nil && rnd.IntN(2) == 0 {
					in = data
				}
				select {
				case b, ok := <-in:
					if !ok {
						data = nil
						continue
					}
					got++
					if err := recv.Check(b.records, b.bytes); err != nil {
						t.Fatalf("seed %d: an honest sender was refused: %v", seed, err)
					}
					if r, n := recv.Outstanding(); (r > window || n > windowBytes) && r != 1 {
						t.Fatalf("seed %d: %d records, %d bytes outstanding", seed, r, n)
					}
					open = append(open, b)
				case <-time.After(time.Millisecond):
					if len(open) > 0 {
						settleOne()
					}
				}
			}
			close(answers)
			<-done
			if got != batches {
				t.Errorf("seed %d: %d batches arrived, want %d", seed, got, batches)
			}
		})
	}
}
