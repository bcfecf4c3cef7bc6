package state

import (
	"errors"
	"slices"
	"sort"

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

const (
	// eventsKept and eventBytesKept bound the memory of events: a watcher that is further behind lists again. A manifest is between some hundred bytes and 256 KiB, so that neither bound
	// stands for the other, and 64 MiB are little beside what a router needs anyway.
	eventsKept     = 8192
	eventBytesKept = 64 << 20
	// eventBytes is what an event holds besides its texts, roughly.
	eventBytes = 512
	// eventBytesRead bounds what one reading returns, since whoever has it may be long in passing it on, and many may: what they hold is kept besides the events.
	eventBytesRead = 256 << 10
)

// bytes is how much memory an event holds.
func (e Event) bytes() int {
	r := e.Resource
	return eventBytes + len(r.GetKind()) + len(r.GetNamespace()) + len(r.GetName()) + len(r.GetUid()) + len(r.GetOwner()) + len(r.GetManifest())
}

// eventLog remembers the last events. It is not part of the replicated state: a restarted node knows those that it applies anew.
type eventLog struct {
	events []Event
	bytes  int
	// floor is the revision up to which events are forgotten.
	floor uint64
}

func (l *eventLog) add(e Event) {
	l.events = append(l.events, e)
	l.bytes += e.bytes()
	for len(l.events) > eventsKept || l.bytes > eventBytesKept {
		l.forget()
	}
}

// forget forgets the oldest revision. Events of one revision go together.
func (l *eventLog) forget() {
	l.floor = l.events[0].Revision
	cut := 0
	for cut < len(l.events) && l.events[cut].Revision == l.floor {
		l.bytes -= l.events[cut].bytes()
		cut++
	}
	clear(l.events[:cut]) // or the array would hold them until it is replaced
	l.events = l.events[cut:]
}

// EventsAfter returns the next events after a revision, oldest first, and the revision up to which they are complete. When there are none, all are known up to there; else there
// may be more behind it, which are read then.
func (m *Machine) EventsAfter(revision uint64) ([]Event, uint64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if revision < m.events.floor || revision > m.index {
		return nil, 0, ErrCompacted
	}
	all := m.events.events
	first := sort.Search(len(all), func(i int) bool { return all[i].Revision > revision })
	last, bytes := first, 0
	for last < len(all) && (bytes < eventBytesRead || all[last].Revision == all[last-1].Revision) {
		bytes += all[last].bytes()
		last++
	}
	if last == len(all) {
		return slices.Clone(all[first:]), m.index, nil
	}
	return slices.Clone(all[first:last]), all[last-1].Revision, nil
}
