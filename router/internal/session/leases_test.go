package session_test

import (
	"context"
	"maps"
	"sync"
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
		l.Sync(map[string]uint64{"quiet": 1, "loud": 2})
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
		l.Sync(map[string]uint64{"a": 1})
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
		l.Sync(map[string]uint64{"a": 1})
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

func TestLeases_AnOlderSessionDoesNotRenewANewerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := session.New(ttl)
		l.Sync(map[string]uint64{"a": 2})
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
		l.Sync(map[string]uint64{"a": 1})
		ended := run(t, l)
		l.Sync(nil)
		time.Sleep(2 * ttl)
		if len(ended()) > 0 {
			t.Error("ended")
		}
	})
}
