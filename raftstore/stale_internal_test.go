package raftstore

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
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

func TestHeard_AFollowerThatGetsALongLogInPartsIsNotCurrentAfterEach(t *testing.T) {
	req := &raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 10, PrevLogTerm: 2, LeaderCommitIndex: 1000}
	for i := range uint64(64) {
		req.Entries = append(req.Entries, &raft.Log{Index: 11 + i, Term: 2, Data: make([]byte, chunkBytes/4)})
	}
	parts := split(&controlv1.RaftTarget{}, req)
	for _, part := range parts {
		if last := part.GetEntries()[len(part.GetEntries())-1].GetIndex(); part.GetLeaderCommitIndex() != last || part.GetCommitted() != 1000 {
			t.Errorf("a part that ends at %d says that %d may be committed, of %d that are", last, part.GetLeaderCommitIndex(), part.GetCommitted())
		}
	}
	var h heard
	h.take(parts[0].GetCommitted(), 74, time.Now())
	if at := h.current(74); len(parts) < 2 || !at.IsZero() {
		t.Errorf("after one of %d parts: current at %v", len(parts), at)
	}
}
