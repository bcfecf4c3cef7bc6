package session_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conveyor-etl/conveyor/router/internal/session"
)

const ttl = 10 * time.Second

// run starts the leases and returns the ended sessions so far.
func run(t *testing.T, l *session.Leases) func() map[string]uint64 {
	var mu sync.Mutex
	ended := map[string]uint64{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx, func(_ context.Context, id string, epoch uint64) {
			mu.Lock()
			defer mu.Unlock()
			ended[id] = epoch
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func() map[string]uint64 {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(ended)
	}
}

func TestLeases_EndAfterSilenceAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		l.Sync(map[string]session.Tracked{"quiet": {Epoch: 1, Machine: "m"}, "loud": {Epoch: 2, Machine: "m"}})
		ended := run(t, l)
		for range 5 {
			time.Sleep(3 * time.Second)
			l.Renew("loud", 2)
			if ended()["loud"] != 0 {
				t.Fatal("a session ended that was heard of")
			}
		}
		if got := ended(); len(got) != 1 || got["quiet"] != 1 {
			t.Errorf("ended %v", got)
		}
	})
}

func TestLeases_SilenceShorterThanTheTTLEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		l.Sync(map[string]session.Tracked{"a": {Epoch: 1, Machine: "m"}})
		ended := run(t, l)
		time.Sleep(ttl - time.Millisecond)
		if len(ended()) > 0 {
			t.Error("ended early")
		}
	})
}

func TestLeases_ANewLeaderWaitsAFullTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		l.Sync(map[string]session.Tracked{"a": {Epoch: 1, Machine: "m"}})
		time.Sleep(time.Hour) // as a follower
		l.Reset()
		ended := run(t, l)
		time.Sleep(ttl - time.Second)
		if len(ended()) > 0 {
			t.Error("ended before a full TTL as leader")
		}
		time.Sleep(2 * time.Second)
		if len(ended()) != 1 {
			t.Error("never ended")
		}
	})
}

// runSlowly starts the leases with an end that calls first before it returns, if it is the first one, and returns who was ended, in order.
func runSlowly(t *testing.T, l *session.Leases, first func(sidecar string)) func() []string {
	var mu sync.Mutex
	var ended []string
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx, func(_ context.Context, id string, _ uint64) {
			mu.Lock()
			ended = append(ended, id)
			begun := len(ended) == 1
			mu.Unlock()
			if begun {
				first(id)
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func() []string {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(ended)
	}
}

// three are sessions that fall silent together, on a machine that can fail as a whole.
func three() *session.Leases {
	l := session.New(ttl)
	l.Sync(map[string]session.Tracked{"a": {Epoch: 1, Machine: "m"}, "b": {Epoch: 1, Machine: "m"}, "c": {Epoch: 1, Machine: "m"}})
	return l
}

func others(than string) []string {
	return slices.DeleteFunc([]string{"a", "b", "c"}, func(id string) bool { return id == than })
}

func TestLeases_WhoIsHeardWhileTheEndOfAnotherOneTakesLongIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := three()
		heard := ""
		ended := runSlowly(t, l, func(first string) {
			time.Sleep(ttl / 2)
			heard = others(first)[0]
			l.Renew(heard, 1)
			time.Sleep(ttl / 4)
		})
		time.Sleep(ttl + ttl/2 + ttl/3)
		got := ended()
		if slices.Contains(got, heard) {
			t.Errorf("ended %v, of which %s was heard meanwhile", got, heard)
		}
		if want := others(heard); !slices.Equal(slices.Compact(slices.Sorted(slices.Values(got))), want) {
			t.Errorf("ended %v, and %v were not heard", got, want)
		}
	})
}

func TestLeases_ARouterThatSleepsWhileAnEndIsUnderWayEndsNoneOfTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := three()
		var slept atomic.Int64
		l.SetClock(func() time.Time { return time.Now().Add(time.Duration(slept.Load())) })
		ended := runSlowly(t, l, func(string) { slept.Add(int64(ttl)) })
		time.Sleep(ttl + ttl/2)
		if got := ended(); len(got) != 1 {
			t.Errorf("ended %v, and there was no time to hear of more than the first", got)
		}
	})
}

func TestLeases_AnOlderSessionDoesNotRenewANewerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		l.Sync(map[string]session.Tracked{"a": {Epoch: 2, Machine: "m"}})
		ended := run(t, l)
		time.Sleep(ttl - time.Second)
		l.Renew("a", 1)
		time.Sleep(3 * time.Second)
		if ended()["a"] != 2 {
			t.Error("renewed by an older session")
		}
	})
}

func TestLeases_AGoneSessionIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		l.Sync(map[string]session.Tracked{"a": {Epoch: 1, Machine: "m"}})
		ended := run(t, l)
		l.Sync(nil)
		time.Sleep(2 * ttl)
		if len(ended()) > 0 {
			t.Error("ended")
		}
	})
}

// fleet tracks sidecars on as many machines, and returns what is heard of some of them for a while.
func fleet(l *session.Leases, machines ...string) (hear func(d time.Duration, which ...int)) {
	tracked := map[string]session.Tracked{}
	for i, m := range machines {
		tracked[fmt.Sprint(i)] = session.Tracked{Epoch: 1, Machine: m}
	}
	l.Sync(tracked)
	return func(d time.Duration, which ...int) {
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
			for _, i := range which {
				l.Renew(fmt.Sprint(i), 1)
			}
		}
	}
}

func TestLeases_ManyThatFallSilentTogetherAreKeptForTwoTTLsMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		hear := fleet(l, "a", "b", "c", "d")
		ended := run(t, l)
		hear(3*ttl-2*time.Second, 0, 1)
		if got := ended(); len(got) > 0 {
			t.Fatalf("ended %v, of four of which two fell silent", got)
		}
		if got := l.Back(); !slices.Equal(got, []string{"2", "3"}) {
			t.Errorf("kept %v", got)
		}
		hear(4*time.Second, 0, 1)
		if got := ended(); len(got) != 2 || got["2"] != 1 || got["3"] != 1 {
			t.Errorf("ended %v", got)
		}
	})
}

func TestLeases_WhenTheOthersAreHeardAgainTheLastOneHasATTLToBeHeardToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		hear := fleet(l, "a", "b", "c", "d")
		ended := run(t, l)
		hear(ttl + 2*time.Second)
		hear(ttl-2*time.Second, 0, 1, 2)
		if got := ended(); len(got) > 0 {
			t.Fatalf("ended %v, of four of which three were heard again a moment before", got)
		}
		hear(4*time.Second, 0, 1, 2)
		if got := ended(); len(got) != 1 || got["3"] != 1 {
			t.Errorf("ended %v", got)
		}
	})
}

func TestLeases_AFewSilentOnesAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		hear := fleet(l, "a", "b", "c", "d")
		ended := run(t, l)
		hear(ttl+2*time.Second, 0, 1, 2)
		if got := ended(); len(got) != 1 || got["3"] != 1 {
			t.Errorf("ended %v", got)
		}
	})
}

func TestLeases_OneMachineCanFailAsAWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		hear := fleet(l, "a", "b", "b", "b")
		ended := run(t, l)
		hear(ttl+2*time.Second, 0)
		if got := ended(); len(got) != 3 {
			t.Errorf("ended %v", got)
		}
	})
}

func TestLeases_WhoIsNotReachedByOthersEitherIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		hear := fleet(l, "a", "b", "c", "d", "e")
		ended := run(t, l)
		hear(ttl-time.Second, 0, 1)
		for range 3 {
			l.Renew("0", 1, "2")
			l.Renew("1", 1)
			time.Sleep(time.Second)
		}
		if got := ended(); len(got) != 1 || got["2"] != 1 {
			t.Errorf("ended %v, and sidecar 0 does not reach 2", got)
		}
	})
}

func TestLeases_KnowForHowLongASidecarHasSaidWhomItDoesNotReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		var slept atomic.Int64
		l.SetClock(func() time.Time { return time.Now().Add(time.Duration(slept.Load())) })
		fleet(l, "m", "n")
		run(t, l)
		want := func(what string, want map[string]time.Duration) {
			t.Helper()
			if got := l.Misses("0"); !maps.Equal(got, want) {
				t.Errorf("%s: misses %v, want %v", what, got, want)
			}
		}
		want("before it said anything", nil)
		l.Renew("0", 1, "1")
		time.Sleep(3 * time.Second)
		l.Renew("0", 1, "1", "2")
		time.Sleep(time.Second)
		want("said twice", map[string]time.Duration{"1": 4 * time.Second, "2": time.Second})
		l.Renew("0", 1, "2")
		l.Renew("0", 1, "1", "2")
		time.Sleep(time.Second)
		want("after a moment without it", map[string]time.Duration{"1": time.Second, "2": 2 * time.Second})
		l.Renew("0", 2, "1")
		want("in another session", map[string]time.Duration{"1": 0})
		time.Sleep(time.Second)
		slept.Add(int64(ttl))
		time.Sleep(time.Second)
		if got := l.Misses("0")["1"]; got > time.Second {
			t.Errorf("after a sleep of the router: misses for %v", got)
		}
	})
}
