package session

import (
	"slices"
	"sync"
)

const (
	// maxSuperseded is how many earlier instances of one id are remembered: an instance that is started again is another one, so only few can still come back.
	maxSuperseded = 8
	// maxIDs is how many ids are remembered before those that have no session are forgotten: twice as many as there may be sessions.
	maxIDs = 20_000
)

// Instances remembers which process of a sidecar has its session and which ones had it before, so that two processes that were given one id, the copies of a machine for
// example, do not take it from each other for ever. It lives in the leader's memory only: a leader that knows nothing lets one more of them take over. The zero value is
// ready; its methods may be called concurrently.
type Instances struct {
	mu sync.Mutex
	of map[string]instances // by sidecar id
}

type instances struct {
	epoch      uint64 // of the session
	current    string
	superseded []string // in order
}

// Superseded reports whether an instance had the id before another one took it, which has it still, by the session of this epoch.
func (o *Instances) Superseded(sidecar string, epoch uint64, instance string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	known, ok := o.of[sidecar]
	if ok && known.epoch < epoch {
		// Another leader opened that session, and what was known before says nothing of it.
		delete(o.of, sidecar)
		return false
	}
	return slices.Contains(known.superseded, instance)
}

// Opened notes which instance a session was opened for; an empty one is of a sidecar that tells none. has reports whether there is a session of a sidecar.
func (o *Instances) Opened(sidecar string, epoch uint64, instance string, has func(sidecar string) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of == nil {
		o.of = map[string]instances{}
	}
	known := o.of[sidecar]
	before := known.current
	if epoch > known.epoch {
		known.epoch, known.current = epoch, instance
	} else {
		before = instance // it came first, and is told of later
	}
	if before != "" && before != known.current {
		known.superseded = append(slices.DeleteFunc(known.superseded, func(s string) bool { return s == before }), before)
	}
	known.superseded = slices.DeleteFunc(known.superseded, func(s string) bool { return s == known.current })
	known.superseded = known.superseded[max(len(known.superseded)-maxSuperseded, 0):]
	o.of[sidecar] = known
	if len(o.of) > maxIDs {
		for id := range o.of {
			if !has(id) {
				delete(o.of, id)
			}
		}
	}
}
