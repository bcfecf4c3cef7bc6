package engine

import "sync"

// reach says whether routers are reached. The zero value says that they are.
type reach struct {
	mu      sync.Mutex
	cut     bool
	changed chan struct{} // closed at the next change; nil while nobody waits for it
}

// set notes it, and reports whether that is news.
func (r *reach) set(cut bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut == cut {
		return false
	}
	r.cut = cut
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
	return true
}

// look reports whether no router is reached, and what is closed when that changes.
func (r *reach) look() (cut bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.cut, r.changed
}
