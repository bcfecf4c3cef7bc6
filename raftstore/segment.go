package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// repair checks the segments before the library opens them, which believes what it reads, and does for the newest what a crash kept the library from doing. It changes nothing
// when there is damage.
func repair(dir string, meta *metadb.BoltMetaDB, state types.PersistentState) error {
	for i, info := range state.Segments {
		path := filepath.Join(dir, segment.FileName(info))
		data, err := os.ReadFile(path)
		newest := i == len(state.Segments)-1 && info.SealTime.IsZero()
		switch {
		case errors.Is(err, fs.ErrNotExist) && newest:
			return nil // its name may have been lost with the power, before anything was written
		case errors.Is(err, fs.ErrNotExist):
			return &DamagedError{Path: path, Cause: err}
		case err != nil:
			return fmt.Errorf("open the log: %w", err)
		case newest:
			return repairNewest(path, data, meta, state)
		}
		found := scan(data)
		switch {
		case found.entries <= info.MaxIndex-info.BaseIndex, info.IndexStart != 0 && uint64(found.index) != info.IndexStart:
			return &DamagedError{Path: path, Cause: fmt.Errorf("what was written from byte %d on is not there any more", found.end)}
		case info.IndexStart == 0:
			// The library gave up its end for other entries, and left it without the index that it wants at the next start.
			if state.Segments[i].IndexStart, err = addIndex(path, data, found); err != nil {
				return err
			}
			if err := meta.CommitState(state); err != nil {
				return fmt.Errorf("note the index of a segment: %w", err)
			}
		}
	}
	return nil
}

// addIndex writes the index of a segment that has none behind what is in it, durably, and returns where it is.
func addIndex(path string, data []byte, found batch) (start uint64, err error) {
	if found.index != 0 {
		return uint64(found.index), nil
	}
	end := (found.end + frameHeader - 1) &^ (frameHeader - 1)
	content := 4 * len(found.offsets)
	b := make([]byte, frameHeader+(content+frameHeader-1)/frameHeader*frameHeader+frameHeader)
	b[0] = indexFrame
	binary.LittleEndian.PutUint32(b[4:], uint32(content))
	for i, offset := range found.offsets {
		binary.LittleEndian.PutUint32(b[frameHeader+4*i:], uint32(offset))
	}
	commit := b[len(b)-frameHeader:]
	commit[0] = commitFrame
	binary.LittleEndian.PutUint32(commit[4:], crc32.Checksum(b[:len(b)-frameHeader], castagnoli))
	// What an unfinished batch left is gone first.
	if rest := len(bytes.TrimRight(data[found.end:], "\x00")); rest > 0 {
		if err := overwrite(path, found.end, make([]byte, rest)); err != nil {
			return 0, err
		}
	}
	return uint64(end + frameHeader), overwrite(path, end, b)
}

func repairNewest(path string, data []byte, meta *metadb.BoltMetaDB, state types.PersistentState) error {
	found := scan(data)
	// Only the last batch can be unfinished, since each is flushed before the next begins. The library would drop all that follows the first that is not whole.
	for at := (found.end + frameHeader) &^ (frameHeader - 1); at+frameHeader <= len(data); at += frameHeader {
		if _, whole := readBatch(data, at, at); whole {
			return &DamagedError{Path: path, Cause: fmt.Errorf("what was written from byte %d on is not there any more, but what was written from byte %d on is", found.end, at)}
		}
	}
	// What is left of an unfinished batch might be taken for something later, behind what is written over its beginning.
	if rest := len(bytes.TrimRight(data[found.end:], "\x00")); rest > 0 {
		if err := overwrite(path, found.end, make([]byte, rest)); err != nil {
			return err
		}
	}
	if found.index == 0 {
		return nil
	}
	// It was filled, and the library had not come to begin the next: it would refuse everything from now on.
	full := &state.Segments[len(state.Segments)-1]
	full.SealTime, full.IndexStart, full.MaxIndex = time.Now(), uint64(found.index), full.BaseIndex+found.entries-1
	state.Segments = append(state.Segments, types.SegmentInfo{
		ID: state.NextSegmentID, BaseIndex: full.MaxIndex + 1, MinIndex: full.MaxIndex + 1, SizeLimit: full.SizeLimit, Codec: full.Codec, CreateTime: time.Now(),
	})
	state.NextSegmentID++
	if err := meta.CommitState(state); err != nil {
		return fmt.Errorf("begin the next segment of the log: %w", err)
	}
	return nil
}

// overwrite writes a part of a file, durably.
func overwrite(path string, at int, b []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	_, err = f.WriteAt(b, int64(at))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("finish the log: %w", err)
	}
	return nil
}

// The form of a segment, as package segment of raft-wal documents it: a header, and frames of multiples of 8 bytes. Those of a batch end with a commit frame, which has
// the checksum of the others, and for the first batch of the header too. The batch that fills a segment has an index of it.
const (
	segmentHeader = 32
	frameHeader   = 8
	entryFrame    = 1
	indexFrame    = 2
	commitFrame   = 3
)

// batch is what was flushed together.
type batch struct {
	end     int // behind its commit frame
	entries uint64
	index   int   // where the content of its index begins, or 0
	offsets []int // of the entries
}

// scan reads the whole batches from the beginning of a segment on, and returns them as one.
func scan(data []byte) (found batch) {
	for frames := segmentHeader; ; frames = found.end {
		b, whole := readBatch(data, found.end, frames)
		if !whole {
			return found
		}
		found = batch{end: b.end, entries: found.entries + b.entries, index: max(found.index, b.index), offsets: append(found.offsets, b.offsets...)}
	}
}

// readBatch reads the batch whose frames begin at an offset and whose checksum covers what begins at another; false when there is no whole one.
func readBatch(data []byte, summed, frames int) (b batch, whole bool) {
	for at := frames; at+frameHeader <= len(data); {
		value := binary.LittleEndian.Uint32(data[at+4:])
		switch data[at] {
		case entryFrame:
			b.entries++
			b.offsets = append(b.offsets, at)
		case indexFrame:
			b.index = at + frameHeader
		case commitFrame:
			b.end = at + frameHeader
			return b, (b.entries > 0 || b.index > 0) && crc32.Checksum(data[summed:at], castagnoli) == value
		default:
			return batch{}, false
		}
		next := int64(at) + frameHeader + (int64(value)+frameHeader-1)/frameHeader*frameHeader
		if next > int64(len(data)) {
			return batch{}, false
		}
		at = int(next)
	}
	return batch{}, false
}
