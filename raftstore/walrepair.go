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

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// walFiles is what lies on the disk of a WAL.
type walFiles struct {
	state types.PersistentState
	found []*segmentFile // those of the state; only the newest may be missing
}

// inspectSegments checks the segments of a WAL before the library opens them, which believes what it reads. It changes nothing.
func inspectSegments(dir string, meta walMeta, state types.PersistentState) (*walFiles, error) {
	w := &walFiles{state: state}
	usedID, marked, err := meta.used()
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	for i, info := range state.Segments {
		newest := i == len(state.Segments)-1 && info.SealTime.IsZero()
		used := !newest || marked && usedID == info.ID
		f, err := readSegment(filepath.Join(dir, segment.FileName(info)))
		switch {
		case errors.Is(err, fs.ErrNotExist) && !used:
			continue // its name may have been lost with the power, before anything was written
		case errors.Is(err, fs.ErrNotExist):
			return nil, &DamagedError{Path: filepath.Join(dir, segment.FileName(info)), Cause: errors.New("it is missing")}
		case err != nil:
			return nil, fmt.Errorf("open the log: %w", err)
		case newest:
			err = f.checkNewest(info, used)
		default:
			err = f.checkSealed(info)
		}
		if err != nil {
			return nil, err
		}
		w.found = append(w.found, f)
	}
	return w, nil
}

// bounds are the first and the last entry, or 0.
func (w *walFiles) bounds() (first, last uint64) {
	for i, info := range w.state.Segments {
		switch {
		case !info.SealTime.IsZero():
			last = info.MaxIndex
		case i < len(w.found) && w.found[i].whole.entries > 0:
			last = info.BaseIndex + w.found[i].whole.entries - 1
		}
	}
	if last > 0 {
		first = w.state.Segments[0].MinIndex
	}
	return first, last
}

// mend does what a crash kept the library from doing.
func (w *walFiles) mend(meta walMeta) error {
	for i, f := range w.found {
		if err := f.mend(meta, &w.state, i); err != nil {
			return fmt.Errorf("finish segment %s of the log: %w", f.path, err)
		}
	}
	return nil
}

// segmentFile is what a segment holds.
type segmentFile struct {
	path  string
	data  []byte
	whole batch // all batches from the beginning on
}

func readSegment(path string) (*segmentFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return &segmentFile{path: path, data: data, whole: scan(data)}, nil
}

// checkNewest: only the last batch can be unfinished, since each is flushed before the next begins. The library would drop all that follows the first that is not whole.
func (f *segmentFile) checkNewest(info types.SegmentInfo, used bool) error {
	// Its room is reserved before it is written, and reaches the disk with what is first written to it. What a crash leaves of the making of a segment has nothing in it.
	if len(f.data) < int(info.SizeLimit) && (used || f.whole.entries > 0) {
		return &DamagedError{Path: f.path, Cause: fmt.Errorf("it ends at byte %d, and its room had been reserved to byte %d", len(f.data), info.SizeLimit)}
	}
	if used && f.whole.entries == 0 {
		return &DamagedError{Path: f.path, Cause: errors.New("what was written from its beginning on is not there any more")}
	}
	for at := (f.whole.end + frameHeader) &^ (frameHeader - 1); at+frameHeader <= len(f.data); at += frameHeader {
		if _, whole := readBatch(f.data, at, at); whole {
			return &DamagedError{Path: f.path, Cause: fmt.Errorf("what was written from byte %d on is not there any more, but what was written from byte %d on is", f.whole.end, at)}
		}
	}
	return nil
}

func (f *segmentFile) checkSealed(info types.SegmentInfo) error {
	if f.whole.entries <= info.MaxIndex-info.BaseIndex || info.IndexStart != 0 && uint64(f.whole.index) != info.IndexStart {
		return &DamagedError{Path: f.path, Cause: fmt.Errorf("what was written from byte %d on is not there any more", f.whole.end)}
	}
	return nil
}

// mend finishes the segment of that number.
func (f *segmentFile) mend(meta walMeta, state *types.PersistentState, number int) error {
	info := &state.Segments[number]
	switch sealed := !info.SealTime.IsZero(); {
	case sealed && info.IndexStart != 0:
		return nil
	case sealed:
		// The library gave up its end for other entries, and left it without the index that it wants at the next start.
		if f.whole.index == 0 {
			if err := f.addIndex(); err != nil {
				return err
			}
		}
		info.IndexStart = uint64(f.whole.index)
		return meta.CommitState(*state)
	}
	if f.whole.entries == 0 && len(f.data) < int(info.SizeLimit) {
		return os.Remove(f.path) // the library makes it, and reserves its room
	}
	if err := f.wipeRest(); err != nil || f.whole.index == 0 {
		return err
	}
	// It was filled, and the library had not come to begin the next: it would refuse everything from now on.
	info.SealTime, info.IndexStart, info.MaxIndex = time.Now(), uint64(f.whole.index), info.BaseIndex+f.whole.entries-1
	state.Segments = append(state.Segments, types.SegmentInfo{
		ID: state.NextSegmentID, BaseIndex: info.MaxIndex + 1, MinIndex: info.MaxIndex + 1, SizeLimit: info.SizeLimit, Codec: info.Codec, CreateTime: time.Now(),
	})
	state.NextSegmentID++
	return meta.CommitState(*state)
}

// wipeRest removes what is left of an unfinished batch: it might be taken for something later, behind what is written over its beginning.
func (f *segmentFile) wipeRest() error {
	rest := len(bytes.TrimRight(f.data[f.whole.end:], "\x00"))
	if rest == 0 {
		return nil
	}
	return overwrite(f.path, f.whole.end, make([]byte, rest))
}

// addIndex writes an index behind what is in the segment, as a batch.
func (f *segmentFile) addIndex() error {
	if err := f.wipeRest(); err != nil {
		return err
	}
	at := (f.whole.end + frameHeader - 1) &^ (frameHeader - 1)
	content := 4 * len(f.whole.offsets)
	b := make([]byte, frameHeader+(content+frameHeader-1)/frameHeader*frameHeader+frameHeader)
	b[0] = indexFrame
	binary.LittleEndian.PutUint32(b[4:], uint32(content))
	for i, offset := range f.whole.offsets {
		binary.LittleEndian.PutUint32(b[frameHeader+4*i:], uint32(offset))
	}
	commit := b[len(b)-frameHeader:]
	commit[0] = commitFrame
	binary.LittleEndian.PutUint32(commit[4:], crc32.Checksum(b[:len(b)-frameHeader], castagnoli))
	f.whole.index = at + frameHeader
	return overwrite(f.path, at, b)
}

// overwrite writes a part of a file, durably.
func overwrite(path string, at int, b []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, int64(at))
	return errors.Join(err, f.Sync(), f.Close())
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
