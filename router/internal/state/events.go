package state

import (
	"errors"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// Event is a change of a resource.
type Event struct {
	Revision uint64
	Resource *statepb.Resource
	Deleted  bool
}

// ErrCompacted is returned when the events after a revision are no longer known.
var ErrCompacted = errors.New("the changes after this revision are no longer known: list again")

// eventsKept bounds the memory of events: a watcher that is further behind lists again.
const eventsKept = 4096

// eventLog remembers the last events. It is not part of the replicated state: a restarted node knows those that it applies anew.
type eventLog struct {
	events []Event
	// floor is the revision up to which events are forgotten.
	floor uint64
}

func (l *eventLog) add(e Event) {
	if len(l.events) >= 2*eventsKept {
		cut := len(l.events) - eventsKept
		// Events of one revision go together.
		for cut < len(l.events) && l.events[cut].Revision == l.events[cut-1].Revision {
			cut++
		}
		l.floor = l.events[cut-1].Revision
		l.events = append([]Event(nil), l.events[cut:]...)
	}
	l.events = append(l.events, e)
}

// EventsAfter returns the events after a revision, oldest first, and the index up to which they are complete.
func (m *Machine) EventsAfter(revision uint64) ([]Event, uint64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if revision < m.events.floor || revision > m.index {
		return nil, 0, ErrCompacted
	}
	all := m.events.events
	at := len(all)
	for at > 0 && all[at-1].Revision > revision {
		at--
	}
	return append([]Event(nil), all[at:]...), m.index, nil
}
