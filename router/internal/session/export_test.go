package session

import "time"

// SetClock makes the leases read another clock. It is called before they are used.
func (l *Leases) SetClock(now func() time.Time) { l.now = now }

// Known is of how many ids something is remembered.
func (o *Instances) Known() int { return len(o.of) }
