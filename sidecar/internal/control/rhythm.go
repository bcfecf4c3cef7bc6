package control

import (
	"math/rand/v2"
	"time"
)

// rhythm says when the heartbeats are due that come at the pace of the router. Sidecars that registered, or were heard again, at one moment do not send theirs at one moment
// for ever: the first is due after a random part of the pace, and the pace varies by a tenth. Heartbeats that come between, because something changed, change nothing of it.
type rhythm struct {
	every, ttl time.Duration
	chance     func() float64 // from 0 to below 1
	due        time.Time
	silent     bool // no router answers
}

func newRhythm(every, ttl time.Duration, now time.Time) *rhythm {
	r := &rhythm{every: every, ttl: ttl, chance: rand.Float64}
	r.begin(now)
	return r
}

// tried notes whether a heartbeat was answered.
func (r *rhythm) tried(answered bool, now time.Time) {
	if answered && r.silent {
		r.begin(now)
	}
	r.silent = !answered
}

// begin puts the next one at a random moment.
func (r *rhythm) begin(now time.Time) {
	r.due = now.Add(time.Duration(r.chance() * float64(r.every)))
}

// wait is how long it is until the next one, after a heartbeat.
func (r *rhythm) wait(now time.Time) time.Duration {
	if !now.Before(r.due) {
		r.due = now.Add(r.pause())
	}
	return r.due.Sub(now)
}

// pause is the time between two. It is above the pace only where the session can bear that: without an answer for half of its time the engine is cut off.
func (r *rhythm) pause() time.Duration {
	least := r.every - r.every/10
	most := min(r.every+r.every/10, max(r.every, r.ttl*2/5))
	return least + time.Duration(r.chance()*float64(most-least))
}
