package state

import (
	"bytes"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

func (m *Machine) announceRouter(c *statepb.AnnounceRouter) any {
	if c.GetRouter().GetServerId() == "" {
		return reject(Malformed, "a router needs a server id")
	}
	m.routers[c.GetRouter().GetServerId()] = c.GetRouter()
	return nil
}

func (m *Machine) forgetRouter(c *statepb.ForgetRouter) any {
	delete(m.routers, c.GetServerId())
	return nil
}

// storeLetterMark refuses a mark that is not the next version: another store has written since. The same one again is taken for the repeat that it is.
func (m *Machine) storeLetterMark(c *statepb.StoreLetterMark) any {
	have := m.letterMark
	if c.GetVersion() == have.GetVersion() && bytes.Equal(c.GetMark(), have.GetMark()) {
		return nil
	}
	if c.GetVersion() != have.GetVersion()+1 {
		return reject(Conflict, "the mark of the dead letters is at version %d, and version %d does not follow it: another router keeps them now", have.GetVersion(), c.GetVersion())
	}
	m.letterMark = &statepb.LetterMark{Version: c.GetVersion(), Mark: c.GetMark()}
	return nil
}

// LetterMark is the high-water mark of the dead letters; nil when there is none.
func (m *Machine) LetterMark() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.letterMark.GetMark()
}
