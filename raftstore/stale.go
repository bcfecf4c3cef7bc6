package raftstore

import (
	"sync"
	"time"
)

// Staleness says how old a read at this node may be that did not ask the leader.
type Staleness struct {
	// AppliedIndex is how far the log is applied here.
	AppliedIndex uint64
	// Known is false while this node has neither caught up with a leader nor led since it was opened; Age means nothing then.
	Known bool
	// Age is how long ago everything that the leader had committed was applied here; 0 on the leader.
	Age time.Duration
}

// StaleRead says how stale the machine is here. It does not block, and asks nobody.
func (s *Store) StaleRead() Staleness {
	out := Staleness{AppliedIndex: s.raft.AppliedIndex()}
	if s.Leadership().Leader {
		out.Known = true
		return out
	}
	if at := s.server.heard.current(out.AppliedIndex); !at.IsZero() {
		out.Known, out.Age = true, time.Since(at)
	}
	return out
}

// heard remembers what leaders, this node among them, said of how far they had committed, and when this node had come as far. That a leader was heard says little by itself: one that begins
// anew sends heartbeats long before it sends what was missed.
type heard struct {
	mu     sync.Mutex
	commit uint64
	at     time.Time // when commit was heard
	caught time.Time // the newest at whose commit was applied
}

// take notes that a leader has committed up to an index which is in the log here.
func (h *heard) take(commit, applied uint64, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.update(applied)
	h.commit, h.at = commit, now
}

// led notes how far this node had committed when it led last; what a leader after it has said is newer.
func (h *heard) led(commit, applied uint64, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.update(applied)
	if at.After(h.at) {
		h.commit, h.at = commit, at
	}
}

func (h *heard) update(applied uint64) {
	if !h.at.IsZero() && applied >= h.commit {
		h.caught = h.at
	}
}

// current is when the leader had committed no more than is applied here; the zero time when that was never.
func (h *heard) current(applied uint64) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.update(applied)
	return h.caught
}
