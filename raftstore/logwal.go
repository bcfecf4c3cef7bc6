package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
	meta  walMeta // which the library leaves open
	lock  *os.File
}

// StoreLogs implements raft.LogStore.
func (l *walLog) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	if err := l.files.settled(); err != nil {
		return fmt.Errorf("make the next segment of the log: %w", err)
	}
	if err := leaveBehind(l, logs[0].Index); err != nil {
		return err
	}
	return l.WAL.StoreLogs(logs)
}

// StoreLog implements raft.LogStore.
func (l *walLog) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// DeleteRange implements raft.LogStore.
func (l *walLog) DeleteRange(first, last uint64) error {
	if err := l.files.settled(); err != nil {
		return fmt.Errorf("make the next segment of the log: %w", err)
	}
	return l.WAL.DeleteRange(first, last)
}

// Close ends the use of the log.
func (l *walLog) Close() error { return errors.Join(l.WAL.Close(), l.meta.Close(), l.lock.Close()) }

// openWAL opens a WAL, after it was found to be whole and ready agrees to where it begins and ends; until then nothing is changed.
func openWAL(dir string, segmentBytes int, fresh bool, ready func(first, last uint64) error) (log persistent, err error) {
	if fresh {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open the log: %w", err)
		}
	}
	// The library would wait for another process without an end.
	lock, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	meta := walMeta{}
	defer func() {
		if err != nil && meta.boltFile != nil {
			err = errors.Join(err, meta.Close())
		}
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	switch held, err := flock(lock); {
	case held:
		return nil, fmt.Errorf("open %s: %w", dir, ErrInUse)
	case err != nil:
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// The library deletes segments that its file of contents does not name.
	parts, err := fs.Glob(os.DirFS(dir), "*.wal")
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if meta, err = openWALMeta(dir, fresh && len(parts) == 0); err != nil {
		return nil, err
	}
	state, err := meta.Load(dir)
	if err != nil {
		return nil, &DamagedError{Path: filepath.Join(dir, metadb.FileName), Cause: err}
	}
	if len(state.Segments) == 0 && !fresh {
		return nil, &DamagedError{Path: filepath.Join(dir, metadb.FileName), Cause: errors.New("it names no segment")}
	}
	found, err := inspectSegments(dir, meta, state)
	if err != nil {
		return nil, err
	}
	if err := ready(found.bounds()); err != nil {
		return nil, err
	}
	if err := found.mend(meta); err != nil {
		return nil, err
	}
	files := &segments{SegmentFiler: segment.NewFiler(dir, walfs.New()), meta: meta}
	w, err := wal.Open(dir, wal.WithMetaStore(contents{meta, files}), wal.WithSegmentFiler(files), wal.WithSegmentSize(segmentBytes), wal.WithLogger(hclog.NewNullLogger()))
	switch {
	case errors.Is(err, types.ErrCorrupt), errors.Is(err, fs.ErrNotExist):
		return nil, &DamagedError{Path: dir, Cause: err}
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	// The library does so when it first writes to a segment that it made, but not to one that it found: its name may not be on the disk yet.
	if err := syncDir(dir); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return &walLog{w, files, meta, lock}, nil
}
