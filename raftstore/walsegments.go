package raftstore

import (
	"sync"

	"github.com/hashicorp/raft-wal/types"
)

// segments are the files of a log. The library makes the next one in the background when one is full, tells nobody why that failed, and lets a deletion overtake it, which ruins
// the log: so it is known here whether that is still to come.
type segments struct {
	types.SegmentFiler
	meta walMeta

	mu     sync.Mutex
	filled chan struct{} // closed when the next segment was made, or could not be; nil while none is full
	failed error
}

// Create implements types.SegmentFiler.
func (s *segments) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	w, err := s.SegmentFiler.Create(info)
	s.began(err)
	return &segmentWriter{w, s, info.ID, false}, err
}

// began notes that the next segment was made, or why it could not be.
func (s *segments) began(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failed = err
	}
	if s.filled != nil {
		close(s.filled)
		s.filled = nil
	}
}

// RecoverTail implements types.SegmentFiler.
func (s *segments) RecoverTail(info types.SegmentInfo) (types.SegmentWriter, error) {
	w, err := s.SegmentFiler.RecoverTail(info)
	return &segmentWriter{w, s, info.ID, false}, err
}

// settled waits until no segment is full, and returns why the next one could not be made. The library holds its lock from before that until it is in use.
func (s *segments) settled() error {
	s.mu.Lock()
	filled := s.filled
	s.mu.Unlock()
	if filled != nil {
		<-filled
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// segmentWriter notes that its segment is in use, and that it is full.
type segmentWriter struct {
	types.SegmentWriter
	s      *segments
	id     uint64
	marked bool
}

// Append implements types.SegmentWriter.
func (w *segmentWriter) Append(entries []types.LogEntry) error {
	if err := w.SegmentWriter.Append(entries); err != nil {
		return err
	}
	if !w.marked {
		if err := w.s.meta.markUsed(w.id); err != nil {
			return err
		}
		w.marked = true
	}
	full, _, err := w.Sealed()
	if full {
		w.s.mu.Lock()
		w.s.filled = make(chan struct{})
		w.s.mu.Unlock()
	}
	return err
}

// contents is the library's file of what segments there are. Without it none is made.
type contents struct {
	walMeta
	s *segments
}

// CommitState implements types.MetaStore.
func (c contents) CommitState(state types.PersistentState) error {
	err := c.walMeta.CommitState(state)
	if err != nil {
		c.s.began(err)
	}
	return err
}
