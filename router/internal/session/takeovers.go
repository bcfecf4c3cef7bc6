package session

import (
	"sync"
	"time"
)

const (
	// takeovers of one id within takeoverWindow are taken for two sidecars that were given the same one: a sidecar that is moved to another machine does not come back.
	takeovers      = 3
	takeoverWindow = 5 * time.Minute
)

// Takeovers remembers which sidecars registered while another one with their id was heard, so that two with the same id do not take each other's stages for ever. It lives
// in the leader's memory only. The zero value is ready; its methods may be called concurrently.
type Takeovers struct {
	mu sync.Mutex
	of map[string][]time.Time // by sidecar id, in order
}

// Allow reports whether a sidecar may take over an id whose holder was just heard of, and counts it if so.
func (o *Takeovers) Allow(sidecar string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	for id, times := range o.of {
		for len(times) > 0 && now.Sub(times[0]) > takeoverWindow {
			times = times[1:]
		}
		if o.of[id] = times; len(times) == 0 {
			delete(o.of, id)
		}
	}
	if len(o.of[sidecar]) >= takeovers {
		return false
	}
	if o.of == nil {
		o.of = map[string][]time.Time{}
	}
	o.of[sidecar] = append(o.of[sidecar], now)
	return true
}
