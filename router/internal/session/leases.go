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
	back []string // whose end was held back when it was last looked
}

type lease struct {
	epoch   uint64
	machine string
	until   time.Time
	// misses are the sidecars that this one does not reach, as it said last.
	misses []string
	// kept is when its end was last held back because too many had fallen silent; zero if never since it was heard.
	kept time.Time
}

// silent: several heartbeats have been missed.
func (l lease) silent(ttl time.Duration, now time.Time) bool { return now.After(l.until.Add(-ttl / 2)) }

// Tracked is what is known of a session.
type Tracked struct {
	Epoch uint64
	// Machine is where the sidecar runs.
	Machine string
}

// New returns leases of this length.
func New(ttl time.Duration) *Leases { return &Leases{ttl: ttl, held: map[string]lease{}} }

// Renew gives a session its full time again. A session that is not tracked yet is tracked from now on. unreachable are the sidecars that this one does not reach.
func (l *Leases) Renew(sidecar string, epoch uint64, unreachable ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.held[sidecar]; !ok || old.epoch <= epoch {
		l.held[sidecar] = lease{epoch: epoch, machine: old.machine, until: time.Now().Add(l.ttl), misses: unreachable}
	}
}

// Heard reports whether a sidecar was heard of within some time, under whichever session.
func (l *Leases) Heard(sidecar string, within time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held, ok := l.held[sidecar]
	return ok && time.Since(held.until.Add(-l.ttl)) <= within
}

// Sync tracks exactly the given sessions, by sidecar id. Those that are new get their full time.
func (l *Leases) Sync(sessions map[string]Tracked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, held := range l.held {
		// A session that was just opened may be renewed before the caller's view knows it.
		if s, ok := sessions[id]; !ok || s.Epoch > held.epoch {
			delete(l.held, id)
		}
	}
	for id, s := range sessions {
		held, ok := l.held[id]
		if !ok {
			held = lease{epoch: s.Epoch, until: time.Now().Add(l.ttl)}
		}
		held.machine = s.Machine
		l.held[id] = held
	}
}

// Reset gives every session its full time: a new leader has not heard of anybody yet, and one that slept could not have.
func (l *Leases) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.back = nil
	for id, held := range l.held {
		held.until = time.Now().Add(l.ttl)
		l.held[id] = held
	}
}

// Back are the sidecars whose sessions would have ended if too many others had not fallen silent with them, in order.
func (l *Leases) Back() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.back
}

// Silent reports whether a sidecar has not been heard of for so long that it may be gone.
func (l *Leases) Silent(sidecar string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held, ok := l.held[sidecar]
	return ok && held.silent(l.ttl, time.Now())
}

// Run calls expire for each session whose time is over, until ctx ends, but see overdue. expire is called again while the session stays tracked.
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
	var out map[string]lease
	out, l.back = overdue(l.held, l.ttl, now)
	return out
}
