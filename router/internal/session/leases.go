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
	now func() time.Time

	mu     sync.Mutex
	held   map[string]lease
	back   []string  // whose end was held back when it was last looked
	looked time.Time // when this process was last seen to run
}

type lease struct {
	epoch   uint64
	machine string
	until   time.Time
	// misses are the sidecars that this one does not reach, as it said last, and since when it has said so each time.
	misses map[string]time.Time
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
func New(ttl time.Duration) *Leases {
	return &Leases{ttl: ttl, now: time.Now, held: map[string]lease{}}
}

// Renew gives a session its full time again. A session that is not tracked yet is tracked from now on. unreachable are the sidecars that this one does not reach.
func (l *Leases) Renew(sidecar string, epoch uint64, unreachable ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.held[sidecar]; !ok || old.epoch <= epoch {
		now := l.now()
		l.held[sidecar] = lease{epoch: epoch, machine: old.machine, until: now.Add(l.ttl), misses: old.missesNow(epoch, unreachable, now)}
	}
}

// missesNow are those of the session with this epoch after it said whom it does not reach. What an earlier session said is another matter.
func (l lease) missesNow(epoch uint64, unreachable []string, now time.Time) map[string]time.Time {
	if len(unreachable) == 0 {
		return nil
	}
	out := make(map[string]time.Time, len(unreachable))
	for _, id := range unreachable {
		out[id] = now
		if since, ok := l.misses[id]; ok && l.epoch == epoch {
			out[id] = since
		}
	}
	return out
}

// Misses are the sidecars that this one does not reach, as it said last, and for how long it has said so without a break. They are nil when it is not known.
func (l *Leases) Misses(sidecar string) map[string]time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	misses := l.held[sidecar].misses
	if len(misses) == 0 {
		return nil
	}
	now := l.now()
	out := make(map[string]time.Duration, len(misses))
	for id, since := range misses {
		out[id] = now.Sub(since)
	}
	return out
}

// Heard reports whether a sidecar was heard of within some time, under whichever session.
func (l *Leases) Heard(sidecar string, within time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held, ok := l.held[sidecar]
	return ok && l.now().Sub(held.until.Add(-l.ttl)) <= within
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
			held = lease{epoch: s.Epoch, until: l.now().Add(l.ttl)}
		}
		held.machine = s.Machine
		l.held[id] = held
	}
}

// Reset gives every session its full time: a new leader has not heard of anybody yet, and one that slept could not have.
func (l *Leases) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reset()
}

func (l *Leases) reset() {
	l.back = nil
	for id, held := range l.held {
		held.until = l.now().Add(l.ttl)
		for missed := range held.misses { // whether it was so all the time is not known either
			held.misses[missed] = l.now()
		}
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
	return ok && held.silent(l.ttl, l.now())
}

// Run calls expire for each session whose time is over, one after the other, until ctx ends, but see overdue. expire may block; it is called again while the session
// stays tracked.
func (l *Leases) Run(ctx context.Context, expire func(ctx context.Context, sidecar string, epoch uint64)) {
	l.mu.Lock()
	l.looked = l.now()
	l.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	// It looks also while expire blocks: that is not a sleep, but one may fall into it.
	wg.Go(func() { l.everyTick(ctx, l.look) })
	l.everyTick(ctx, func() {
		for id, held := range l.expired() {
			if ctx.Err() == nil && l.over(id, held.epoch) {
				expire(ctx, id, held.epoch)
			}
		}
	})
}

// everyTick calls do often within a TTL, until ctx ends.
func (l *Leases) everyTick(ctx context.Context, do func()) {
	tick := time.NewTicker(max(l.ttl/20, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// look notices a sleep.
func (l *Leases) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.awake()
}

// awake returns the time, and gives all sessions their full time again when this process was stopped: it heard nobody meanwhile, which is no evidence against them.
// The caller holds mu.
func (l *Leases) awake() time.Time {
	now := l.now()
	if now.Sub(l.looked) > l.ttl/4 {
		l.reset()
	}
	l.looked = now
	return now
}

func (l *Leases) expired() map[string]lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out map[string]lease
	out, l.back = overdue(l.held, l.ttl, l.awake())
	return out
}

// over reports whether the time of a session is over still: it may have been heard of while the end of another one was waited for.
func (l *Leases) over(sidecar string, epoch uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.awake()
	held, ok := l.held[sidecar]
	return ok && held.epoch == epoch && now.After(held.until)
}
