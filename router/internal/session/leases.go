// Package session keeps the leases of sidecars on the leader's own clock.
package session

import (
	"context"
	"sync"
	"time"
)

// Leases remembers when each session was last heard of. It lives in the leader's memory only: time is no part of the replicated state.
type Leases struct {
	ttl time.Duration

	mu   sync.Mutex
	held map[string]lease
}

type lease struct {
	epoch uint64
	until time.Time
}

// New returns leases of this length.
func New(ttl time.Duration) *Leases { return &Leases{ttl: ttl, held: map[string]lease{}} }

// Renew gives a session its full time again. A session that is not tracked yet is tracked from now on.
func (l *Leases) Renew(sidecar string, epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.held[sidecar]; !ok || old.epoch <= epoch {
		l.held[sidecar] = lease{epoch: epoch, until: time.Now().Add(l.ttl)}
	}
}

// Sync tracks exactly the given sessions, by sidecar id and epoch. Those that are new get their full time.
func (l *Leases) Sync(sessions map[string]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, held := range l.held {
		// A session that was just opened may be renewed before the caller's view knows it.
		if epoch, ok := sessions[id]; !ok || epoch > held.epoch {
			delete(l.held, id)
		}
	}
	for id, epoch := range sessions {
		if _, ok := l.held[id]; !ok {
			l.held[id] = lease{epoch: epoch, until: time.Now().Add(l.ttl)}
		}
	}
}

// Reset gives every session its full time: a new leader has not heard of anybody yet, and one that slept could not have.
func (l *Leases) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, held := range l.held {
		held.until = time.Now().Add(l.ttl)
		l.held[id] = held
	}
}

// Run calls expire for each session whose time is over, until ctx ends. expire is called again while the session stays tracked.
func (l *Leases) Run(ctx context.Context, expire func(ctx context.Context, sidecar string, epoch uint64)) {
	period := max(l.ttl/20, time.Millisecond)
	tick := time.NewTicker(period)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A process that was stopped heard nobody meanwhile: that is no evidence against them.
		now := time.Now()
		if now.Sub(last) > l.ttl/4 {
			l.Reset()
		}
		for id, held := range l.expired(now) {
			expire(ctx, id, held.epoch)
		}
		// What expire took is not a sleep.
		last = time.Now()
	}
}

func (l *Leases) expired(now time.Time) map[string]lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]lease{}
	for id, held := range l.held {
		if now.After(held.until) {
			out[id] = held
		}
	}
	return out
}
