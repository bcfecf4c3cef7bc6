package raftstore

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// diskWait is how long a write of the log may take. Raft sends heartbeats besides it, and a leader whose disk hangs would lead on without doing anything.
const diskWait = 5 * time.Second

// termKey is under which raft keeps its term; see guard.SetUint64.
const termKey = "CurrentTerm"

// guard stands between raft and its disk. It remembers since when each write is under way. After one has failed it lets no other through: what a disk holds after a failed
// flush is not known, and a second one that succeeds says nothing of the first.
type guard struct {
	persistent
	broken atomic.Pointer[error]
	// used is called after each write and before it is told; nil does nothing.
	used func() error
	// failed is called with the first error; it must not block.
	failed func(error)

	mu     sync.Mutex
	writes map[int]time.Time // those under way, and when they began
	next   int
}

func (g *guard) write(do func() error) error {
	if err := g.broken.Load(); err != nil {
		return *err
	}
	end := g.begin()
	err := do()
	if err == nil && g.used != nil {
		err = g.used()
	}
	end()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%w: %w: make room or look at the disk, and start this server again: what it acknowledged is there, or with the other servers", ErrDiskFailed, err)
	if g.broken.CompareAndSwap(nil, &err) {
		g.failed(err)
	}
	return err
}

// begin notes a write, until end. Raft removes old entries beside its other writes.
func (g *guard) begin() (end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.writes == nil {
		g.writes = map[int]time.Time{}
	}
	g.next++
	write := g.next
	g.writes[write] = time.Now()
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.writes, write)
	}
}

// longest is for how long the write that began first is under way; 0 without any.
func (g *guard) longest() (d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, began := range g.writes {
		d = max(d, time.Since(began))
	}
	return d
}

// IsMonotonic implements raft.MonotonicLogStore: a log without gaps is emptied when a snapshot from another server goes beyond its end.
func (g *guard) IsMonotonic() bool {
	m, ok := g.persistent.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// StoreLog implements raft.LogStore.
func (g *guard) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. Raft makes one such call at a time.
func (g *guard) StoreLogs(logs []*raft.Log) error {
	return g.write(func() error { return g.persistent.StoreLogs(logs) })
}

// DeleteRange implements raft.LogStore.
func (g *guard) DeleteRange(first, last uint64) error {
	return g.write(func() error { return g.persistent.DeleteRange(first, last) })
}

// Set implements raft.StableStore.
func (g *guard) Set(key, value []byte) error {
	return g.write(func() error { return g.persistent.Set(key, value) })
}

// SetUint64 implements raft.StableStore. Raft panics when its term cannot be stored, which would end the process without a word that helps. So that failure is only told
// to the store, which ends in order. Until then raft acts in a term that it may forget: it can neither store an entry nor vote in it, and a server that did neither may
// take part in that term again.
func (g *guard) SetUint64(key []byte, value uint64) error {
	err := g.write(func() error { return g.persistent.SetUint64(key, value) })
	if string(key) == termKey {
		return nil
	}
	return err
}

// watch returns an error when a write takes longer than diskWait, and nil when stop is closed.
func (g *guard) watch(stop <-chan struct{}) error {
	ticks := time.NewTicker(diskWait / 5)
	defer ticks.Stop()
	for {
		select {
		case <-stop:
			return nil
		case <-ticks.C:
			if g.longest() > diskWait {
				return fmt.Errorf("%w: a write of the log takes longer than %v: look at the disk, and start this server again", ErrDiskHangs, diskWait)
			}
		}
	}
}

// watchDisk fails the store for good when the disk hangs.
func (s *Store) watchDisk() {
	if err := s.guard.watch(s.stopped); err != nil {
		s.fail(err)
		close(s.diskHangs)
	}
}

// fail ends the use of the store; the first reason stays.
func (s *Store) fail(err error) {
	s.fault.CompareAndSwap(nil, &err)
	s.fsm.fail()
}
