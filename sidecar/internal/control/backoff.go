package control

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	firstPause = 50 * time.Millisecond
	maxPause   = 5 * time.Second
)

// backoff spaces tries: each pause is random, below a limit that doubles.
type backoff struct{ round int }

// pause waits; false when ctx ended first.
func (b *backoff) pause(ctx context.Context) bool {
	limit := min(maxPause, firstPause<<min(b.round, 10))
	b.round++
	return sleep(ctx, limit/4+rand.N(limit))
}

func (b *backoff) reset() { b.round = 0 }

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
