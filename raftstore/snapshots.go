package raftstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	snapshotsDir    = "snapshots"
	snapshotsKept   = 3
	unfinishedPaths = ".tmp"
)

// openSnapshots opens the snapshots and checks the newest one; index is where it ends.
func openSnapshots(dir string, logger hclog.Logger) (snapshots raft.SnapshotStore, index uint64, err error) {
	path := filepath.Join(dir, snapshotsDir)
	store, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, logger)
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
	index, err = checkNewestSnapshot(path, store, listed)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		// The library leaves behind what a crash interrupted, and it can be large.
		if e.IsDir() && strings.HasSuffix(e.Name(), unfinishedPaths) {
			if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
				return nil, 0, fmt.Errorf("remove an unfinished snapshot: %w", err)
			}
		}
	}
	return snapshotStore{store}, index, nil
}

// checkNewestSnapshot reads the newest snapshot, and returns where it ends.
func checkNewestSnapshot(path string, store raft.SnapshotStore, listed []*raft.SnapshotMeta) (index uint64, err error) {
	if len(listed) == 0 {
		return 0, nil
	}
	_, r, err := store.Open(listed[0].ID)
	if err != nil {
		return 0, &DamagedError{Path: filepath.Join(path, listed[0].ID), Cause: err}
	}
	if err := r.Close(); err != nil {
		return 0, fmt.Errorf("close snapshot: %w", err)
	}
	return listed[0].Index, nil
}

// ending is a snapshot that says where it ends, which the library tells nobody who restores it.
type ending struct {
	io.ReadCloser
	index uint64
}

// snapshotStore is the library's, with endings.
type snapshotStore struct{ raft.SnapshotStore }

// Open implements raft.SnapshotStore.
func (s snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, ending{r, meta.Index}, nil
}

// endOf is the index at which a snapshot ends that a snapshotStore opened.
func endOf(r io.ReadCloser) uint64 {
	for {
		switch wrapped := r.(type) {
		case ending:
			return wrapped.index
		case interface{ WrappedReadCloser() io.ReadCloser }: // the library counts what is read
			r = wrapped.WrappedReadCloser()
		default:
			return 0
		}
	}
}
