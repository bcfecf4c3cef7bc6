package raftstore

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// diskWait is how long a write of the log may take. Raft sends heartbeats besides it, and a leader whose disk hangs would lead on without doing anything.
const diskWait = 5 * time.Second

// watchedLog remembers since when a write is under way.
type watchedLog struct {
	raft.LogStore
	began atomic.Pointer[time.Time]
}

// StoreLog implements raft.LogStore.
func (w *watchedLog) StoreLog(l *raft.Log) error { return w.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. Raft makes one such call at a time.
func (w *watchedLog) StoreLogs(logs []*raft.Log) error {
	now := time.Now()
	w.began.Store(&now)
	defer w.began.Store(nil)
	return w.LogStore.StoreLogs(logs)
}

// watch returns an error when a write takes longer than limit, and nil when stop is closed.
func (w *watchedLog) watch(limit time.Duration, stop <-chan struct{}) error {
	ticks := time.NewTicker(limit / 5)
	defer ticks.Stop()
	for {
		select {
		case <-stop:
			return nil
		case <-ticks.C:
			if began := w.began.Load(); began != nil && time.Since(*began) > limit {
				return fmt.Errorf("%w: a write of the log takes longer than %v: look at the disk, and start this server again", ErrDiskHangs, limit)
			}
		}
	}
}

// watchDisk fails the store for good when the disk hangs.
func (s *Store) watchDisk() {
	if err := s.watched.watch(diskWait, s.stopped); err != nil {
		s.hung.Store(&err)
		close(s.diskHangs)
		s.fsm.fail()
	}
}
