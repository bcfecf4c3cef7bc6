package raftstore

import (
	"testing"
	"time"
)

func TestHeard_IsCurrentOnlyWhenEverythingCommittedWasApplied(t *testing.T) {
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var h heard
	if got := h.current(100); !got.IsZero() {
		t.Errorf("before any leader was heard: %v", got)
	}
	h.take(115, 0, at(1)) // it was restarted, and is behind
	if got := h.current(64); !got.IsZero() {
		t.Errorf("while it is behind: %v", got)
	}
	h.take(116, 64, at(2))
	if got := h.current(116); got != at(2) {
		t.Errorf("after it has caught up: %v, want %v", got, at(2))
	}
	h.take(200, 116, at(3)) // cut off before it could apply that
	if got := h.current(150); got != at(2) {
		t.Errorf("while it is behind again: %v, want %v", got, at(2))
	}
}
