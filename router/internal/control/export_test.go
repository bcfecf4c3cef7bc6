package control

import "time"

// SetClock makes the controller read another clock. It is called before it is used.
func (c *Controller) SetClock(now func() time.Time) { c.now = now }
