package control

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	testEvery = 3 * time.Second
	testTTL   = 10 * time.Second
)

// crowd returns how many heartbeats of a thousand sidecars come within the busiest tenth of a second of a time, and in the quietest.
func crowd(beats []time.Duration, from, to time.Duration) (most, least int) {
	counts := make([]int, (to-from)/(100*time.Millisecond))
	for _, at := range beats {
		if at >= from && at < to {
			counts[(at-from)/(100*time.Millisecond)]++
		}
	}
	return slices.Max(counts), slices.Min(counts)
}

func TestRhythm_SidecarsThatBeganAtOneMomentAreHeardEvenly(t *testing.T) {
	const sidecars, minute, outage = 1000, time.Minute, 30 * time.Second
	zero := time.Unix(0, 0)
	var beats []time.Duration
	for range sidecars {
		r := newRhythm(testEvery, testTTL, zero)
		now := zero.Add(r.wait(zero))
		// What it was told to run, all at one moment, is a reason for one out of turn.
		r.wait(zero.Add(time.Millisecond))
		beats = append(beats, time.Millisecond)
		heardAgain := false
		for ; now.Before(zero.Add(2*minute + outage)); now = now.Add(r.wait(now)) {
			if now.After(zero.Add(minute)) && !heardAgain {
				// No router answered for a while, and then all were heard within one moment.
				heardAgain = true
				r.tried(false, now)
				now = zero.Add(minute + outage)
				r.tried(true, now)
			}
			beats = append(beats, now.Sub(zero))
		}
	}
	// A thirtieth of a thousand would be even.
	for _, from := range []time.Duration{time.Second, 20 * time.Second, minute + outage + time.Second, 2 * minute} {
		if most, least := crowd(beats, from, from+testEvery); most > 80 || least < 1 {
			t.Errorf("in the 3 s behind %v, from %d to %d of %d sidecars are heard within a tenth of a second", from, least, most, sidecars)
		}
	}
}

func TestRhythm_IsNeverSlowerThanTheSessionBears(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ttl := time.Duration(rapid.Int64Range(int64(100*time.Millisecond), int64(time.Hour)).Draw(t, "ttl"))
		every := time.Duration(rapid.Int64Range(int64(minHeartbeat), int64(max(ttl/3, minHeartbeat))).Draw(t, "every"))
		now := time.Unix(0, 0)
		r := newRhythm(every, ttl, now)
		r.chance = func() float64 { return rapid.Float64Range(0, 0.999999).Draw(t, "chance") }
		r.begin(now)
		if w := r.wait(now); w > every+every/10 {
			t.Fatalf("the first one is due after %v", w)
		}
		for range 20 {
			now = now.Add(max(r.wait(now), 0))
			w := r.wait(now)
			if w > every+every/10 || w > max(ttl/2, every) || w < every-every/10-1 {
				t.Fatalf("every %v of %v: %v", every, ttl, w)
			}
			now = now.Add(time.Duration(rapid.Float64Range(0, 1).Draw(t, "out of turn") * float64(w)))
		}
	})
}

func TestRhythm_VariesByATenth(t *testing.T) {
	now := time.Unix(0, 0)
	r := newRhythm(testEvery, testTTL, now)
	for chance, want := range map[float64]time.Duration{0: 2700 * time.Millisecond, 0.5: testEvery, 1: 3300 * time.Millisecond} {
		r.chance = func() float64 { return chance }
		now = now.Add(r.wait(now))
		if got := r.wait(now); got != want {
			t.Errorf("at %v it waits for %v, want %v", chance, got, want)
		}
		if got := r.wait(now.Add(time.Second)); got != want-time.Second {
			t.Errorf("after a heartbeat out of turn it waits for %v, want %v", got, want-time.Second)
		}
	}
}
