package control

import (
	"sync"
	"time"
)

// contact tells when the routers have been silent for too long, and when they are heard again.
type contact struct {
	patience time.Duration
	tell     func(lost bool)
	timer    *time.Timer

	mu   sync.Mutex // also held while it tells, so that the last word is right
	last time.Time
	over bool
}

// newContact begins as if a router had answered just now, or has been silent since ever. lost ends it.
func newContact(patience time.Duration, silent bool, tell func(lost bool)) *contact {
	c := &contact{patience: patience, tell: tell, last: time.Now()}
	if silent {
		tell(true)
	}
	c.timer = time.AfterFunc(patience, c.silent)
	return c
}

func (c *contact) silent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over && time.Since(c.last) >= c.patience {
		c.tell(true)
	}
}

// made notes that what was sent at a time was answered. The routers count from when they got it, which was not before.
func (c *contact) made(sent time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = sent
	left := c.patience - time.Since(sent)
	c.timer.Reset(max(left, 0))
	if left > 0 {
		c.tell(false)
	}
}

// lost ends the contact: until there is a new one, others may own what is assigned here.
func (c *contact) lost() {
	c.timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.tell(true)
}
