package raftstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	logFile         = "raft.db"
	snapshotsDir    = "snapshots"
	snapshotsKept   = 3
	lockWait        = time.Second
	unfinishedPaths = ".tmp"
)

// openLog opens the log. Its file lock is what keeps a second process out.
func openLog(dir string) (log *raftboltdb.BoltStore, err error) {
	path := filepath.Join(dir, logFile)
	// The library panics, and a file cut short faults, where damage meets its assumptions.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			log, err = nil, &DamagedError{Path: path, Cause: fmt.Errorf("%v", p)}
		}
	}()
	log, err = raftboltdb.New(raftboltdb.Options{
		Path: path,
		// A wait of zero would be for ever. The free list is rebuilt at open instead of being written with every entry.
		BoltOptions: &bbolt.Options{Timeout: lockWait, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: %w", path, ErrInUse)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, &DamagedError{Path: path, Cause: err}
	case err != nil && strings.Contains(err.Error(), "file size too small"):
		return nil, &DamagedError{Path: path, Cause: err}
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return log, nil
}

// checkLog reads what the library will read, so that damage is an error here and not a panic there.
func checkLog(dir string, log *raftboltdb.BoltStore, snapshotIndex uint64) (err error) {
	damaged := func(cause error) error { return &DamagedError{Path: filepath.Join(dir, logFile), Cause: cause} }
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged(fmt.Errorf("%v", p))
		}
	}()
	first, err := log.FirstIndex()
	if err != nil {
		return damaged(err)
	}
	last, err := log.LastIndex()
	if err != nil {
		return damaged(err)
	}
	if last == 0 {
		// A follower that got a snapshot may have no log yet, but its term lies in the same file.
		if term, err := log.GetUint64([]byte("CurrentTerm")); snapshotIndex > 0 && (err != nil || term == 0) {
			return damaged(errors.New("the log is empty behind a snapshot"))
		}
		return nil
	}
	if first > snapshotIndex+1 {
		return damaged(fmt.Errorf("the log begins at index %d and the newest snapshot ends at %d", first, snapshotIndex))
	}
	for index := max(first, snapshotIndex+1); index <= last; index++ {
		var entry raft.Log
		if err := log.GetLog(index, &entry); err != nil {
			return damaged(fmt.Errorf("log index %d: %w", index, err))
		}
		if entry.Index != index {
			return damaged(fmt.Errorf("log index %d holds the entry %d", index, entry.Index))
		}
		if entry.Type == raft.LogCommand {
			if _, err := unseal(entry.Data); err != nil {
				return damaged(fmt.Errorf("log index %d: %w", index, err))
			}
		}
	}
	return nil
}

// openSnapshots opens the snapshots and checks the newest one; index is where it ends.
func openSnapshots(dir string, logger hclog.Logger) (store *raft.FileSnapshotStore, index uint64, err error) {
	path := filepath.Join(dir, snapshotsDir)
	store, err = raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, logger)
	if err != nil {
		return nil, 0, fmt.Errorf("open snapshots: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, 0, fmt.Errorf("open snapshots: %w", err)
	}
	listed, err := store.List()
	if err != nil {
		return nil, 0, fmt.Errorf("list snapshots: %w", err)
	}
	known := map[string]bool{}
	for _, s := range listed {
		known[s.ID] = true
	}
	for _, e := range entries {
		// The library passes over a snapshot that it cannot list, and would take an older one for the newest.
		if e.IsDir() && !strings.HasSuffix(e.Name(), unfinishedPaths) && !known[e.Name()] && len(listed) < snapshotsKept {
			return nil, 0, &DamagedError{Path: filepath.Join(path, e.Name()), Cause: errors.New("its description cannot be read")}
		}
	}
	if len(listed) == 0 {
		return store, 0, nil
	}
	_, r, err := store.Open(listed[0].ID)
	if err != nil {
		return nil, 0, &DamagedError{Path: filepath.Join(path, listed[0].ID), Cause: err}
	}
	if err := r.Close(); err != nil {
		return nil, 0, fmt.Errorf("close snapshot: %w", err)
	}
	return store, listed[0].Index, nil
}
