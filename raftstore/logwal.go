package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

const (
	walDir = "wal"
	// walSegment is allocated on the disk before it is written.
	walSegment = 16 << 20
)

// walLog is a log of raft-wal.
type walLog struct {
	*wal.WAL
	files *segments
	meta  *metadb.BoltMetaDB // which the library leaves open
	lock  *os.File
}

// segments are the files of a log. The next one is made in the background, and the library tells nobody why that failed.
type segments struct {
	*segment.Filer
	failed atomic.Pointer[error]
}

// Create implements types.SegmentFiler.
func (s *segments) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	w, err := s.Filer.Create(info)
	if err != nil {
		s.failed.Store(&err)
	}
	return w, err
}

// StoreLogs implements raft.LogStore.
func (l *walLog) StoreLogs(logs []*raft.Log) error {
	err := l.WAL.StoreLogs(logs)
	if failed := l.files.failed.Load(); err != nil && failed != nil {
		return fmt.Errorf("make the next segment of the log: %w", *failed)
	}
	return err
}

// StoreLog implements raft.LogStore.
func (l *walLog) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// Close ends the use of the log.
func (l *walLog) Close() error { return errors.Join(l.WAL.Close(), l.meta.Close(), l.lock.Close()) }

func openWAL(dir string) (log persistent, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	// The library would wait for another process without an end.
	lock, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	meta, path := &metadb.BoltMetaDB{}, filepath.Join(dir, metadb.FileName)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			log, err = nil, &DamagedError{Path: path, Cause: fmt.Errorf("%v", p)}
		}
		if err != nil {
			err = errors.Join(err, meta.Close(), lock.Close())
		}
	}()
	switch held, err := flock(lock); {
	case held:
		return nil, fmt.Errorf("open %s: %w", dir, ErrInUse)
	case err != nil:
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// The library deletes segments that its file of contents does not name.
	if parts, err := filepath.Glob(filepath.Join(dir, "*.wal")); err != nil || len(parts) > 0 {
		if _, gone := os.Stat(path); gone != nil {
			return nil, errors.Join(err, &DamagedError{Path: path, Cause: gone})
		}
	}
	state, err := meta.Load(dir)
	if err != nil {
		return nil, boltError(path, err)
	}
	if err := repair(dir, meta, state); err != nil {
		return nil, err
	}
	files := &segments{Filer: segment.NewFiler(dir, walfs.New())}
	w, err := wal.Open(dir, wal.WithMetaStore(meta), wal.WithSegmentFiler(files), wal.WithSegmentSize(walSegment), wal.WithLogger(hclog.NewNullLogger()))
	switch {
	case errors.Is(err, types.ErrCorrupt), errors.Is(err, fs.ErrNotExist):
		return nil, &DamagedError{Path: dir, Cause: err}
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return &walLog{w, files, meta, lock}, nil
}
