package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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
	if err := checkTail(dir, state); err != nil {
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

// checkTail refuses damage in the segment that was being written. The library takes it for a write that a crash interrupted, and would drop what follows: but only the
// last batch can be unfinished, since each is flushed before the next begins. So there is damage where a whole batch follows what is none.
func checkTail(dir string, state types.PersistentState) error {
	if len(state.Segments) == 0 {
		return nil
	}
	tail := state.Segments[len(state.Segments)-1]
	if !tail.SealTime.IsZero() {
		return nil
	}
	path := filepath.Join(dir, segment.FileName(tail))
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its name may have been lost with the power, before anything was written
	}
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	begin := 0
	for frames := segmentHeader; ; frames = begin {
		end, whole := batchEnd(data, begin, frames)
		if !whole {
			break
		}
		begin = end
	}
	for at := (begin + frameHeader) &^ (frameHeader - 1); at+frameHeader <= len(data); at += frameHeader {
		if _, whole := batchEnd(data, at, at); whole {
			return &DamagedError{Path: path, Cause: fmt.Errorf("what was written from byte %d on is not there any more, but what was written from byte %d on is", begin, at)}
		}
	}
	return nil
}

// The form of a segment, as package segment of raft-wal documents it: a header, and frames of multiples of 8 bytes. Those of a batch end with a commit frame, which has
// the checksum of the others.
const (
	segmentHeader = 32
	frameHeader   = 8
	entryFrame    = 1
	indexFrame    = 2
	commitFrame   = 3
)

// batchEnd returns the end of the batch whose frames begin at an offset and whose checksum covers what begins at another; false when there is no whole one.
func batchEnd(data []byte, summed, frames int) (end int, whole bool) {
	entries := 0
	for at := frames; at+frameHeader <= len(data); {
		value := binary.LittleEndian.Uint32(data[at+4:])
		switch data[at] {
		case entryFrame, indexFrame:
			if data[at] == entryFrame {
				entries++
			}
			next := int64(at) + frameHeader + (int64(value)+frameHeader-1)/frameHeader*frameHeader
			if next > int64(len(data)) {
				return 0, false
			}
			at = int(next)
		case commitFrame:
			return at + frameHeader, entries > 0 && crc32.Checksum(data[summed:at], castagnoli) == value
		default:
			return 0, false
		}
	}
	return 0, false
}
