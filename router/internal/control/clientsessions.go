package control

import (
	"context"
	"time"

	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// idleClients finds the client sessions that nobody uses. It is the memory of one leadership: a session gets its full time anew at each. It belongs to one goroutine.
type idleClients struct {
	after time.Duration
	seen  map[uint64]lastUse
}

type lastUse struct {
	index uint64
	at    time.Time
}

// idle returns the sessions that were not used for the whole time, with the index of their last use.
func (c *idleClients) idle(sessions map[uint64]uint64, now time.Time) map[uint64]uint64 {
	next := make(map[uint64]lastUse, len(sessions))
	var out map[uint64]uint64
	for id, index := range sessions {
		use, ok := c.seen[id]
		if !ok || use.index != index {
			use = lastUse{index, now}
		}
		next[id] = use
		if now.Sub(use.at) > c.after {
			if out == nil {
				out = map[uint64]uint64{}
			}
			out[id] = index
		}
	}
	c.seen = next
	return out
}

// endIdleClients ends client sessions of programs that are gone. One that is used meanwhile stays: the end is conditional on its last use.
func (c *Controller) endIdleClients(ctx context.Context, m *state.Machine) error {
	for id, index := range c.clients.idle(m.ClientSessions(), time.Now()) {
		err := c.try(ctx, &statepb.Command{Kind: &statepb.Command_EndClientSession{EndClientSession: &statepb.EndClientSession{Session: id, LastIndex: index}}})
		if err != nil {
			return err
		}
	}
	return nil
}
