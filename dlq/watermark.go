package dlq

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

const (
	watermarkFile = "high-water"
	watermarkHead = "CVHW"
	// slotBytes holds the largest state there can be: maxRemoving removals and maxLost losses.
	slotBytes = 64 << 10
	maxLost   = 64
	// unwritten is the version of a mark that was made and never written to.
	unwritten = 1
)

// watermark is what the store remembers outside of the stream, so that a stream that lost letters cannot hide it: how far letters were
// acknowledged, and how many of those were removed on purpose. Stream and mark must add up.
//
// Every acknowledgement waits until it is saved.
type watermark struct {
	keeper keeper

	mu    sync.Mutex // held while it is saved
	state markState
	// saved is the highest Last that is saved.
	saved uint64
}

// slots keeps a mark in a file.
//
// The file has two slots of fixed size that are written in turn, each with a checksum: a write that a power cut tears leaves the
// other slot, with the state before it. One sync of a block that is in place already costs a tenth of replacing a file.
type slots struct{ file *os.File }

// markState is the content of a slot.
type markState struct {
	// Version counts the writes: the higher one of the two slots is the state.
	Version uint64 `json:"version"`
	// Writer is another one for each store that saves in a Mark; in a file there is none.
	Writer string `json:"writer,omitempty"`
	// Last is the highest acknowledged ID.
	Last uint64 `json:"last"`
	// Removed counts the letters up to Last that are gone on purpose or were reported lost.
	Removed uint64 `json:"removed"`
	// Removing are letters whose removal was begun; each may be gone or not.
	Removing map[uint64]bool `json:"removing,omitempty"`
	// Lost are the losses that nobody has accepted yet.
	Lost []LostError `json:"lost,omitempty"`
}

// openWatermark reads the file, or makes it; found says that it was there.
func openWatermark(dir string) (w *watermark, found bool, err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, false, fmt.Errorf("make the directory of the high-water mark: %w", err)
	}
	path := filepath.Join(dir, watermarkFile)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if f, err = createWatermark(path, &markState{Version: unwritten}); err != nil {
			return nil, false, fmt.Errorf("make the high-water mark: %w", err)
		}
	case err != nil:
		return nil, false, fmt.Errorf("open the high-water mark: %w", err)
	default:
		found = true
	}
	w = &watermark{keeper: slots{f}}
	if w.state, err = (slots{f}).load(); err != nil {
		return nil, false, errors.Join(fmt.Errorf("read the high-water mark: %w", err), f.Close())
	}
	w.saved = w.state.Last
	// A mark that was made but never written to says nothing about the stream.
	return w, found && w.state.Version > unwritten, nil
}

// createWatermark makes a file of full size, so that later writes need no new blocks, and puts it in place as a whole.
func createWatermark(path string, state *markState) (f *os.File, err error) {
	first, err := encodeMark(state)
	if err != nil {
		return nil, err
	}
	content := make([]byte, 2*slotBytes)
	copy(content[slotOf(state.Version):], first)
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, 0o640); err != nil {
		return nil, err
	}
	if f, err = os.OpenFile(tmp, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := f.Sync(); err != nil {
		return f, err
	}
	if err := os.Rename(tmp, path); err != nil {
		return f, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return f, err
	}
	return f, errors.Join(dir.Sync(), dir.Close())
}

// load takes the newer of the sound slots.
func (s slots) load() (state markState, err error) {
	for slot := range int64(2) {
		b := make([]byte, slotBytes)
		if _, err := s.file.ReadAt(b, slot*slotBytes); err != nil {
			return state, fmt.Errorf("%s: %w", s.file.Name(), err)
		}
		if found, ok := decodeMark(b); ok && found.Version > state.Version {
			state = found
		}
	}
	if state.Version == 0 {
		return state, fmt.Errorf("%s is damaged; after moving it away the store opens, but cannot tell whether letters are missing", s.file.Name())
	}
	return state, nil
}

// close writes the state into both slots of a file, so that damage to one of them is harmless, and ends its use.
func (w *watermark) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	if _, ok := w.keeper.(slots); ok {
		if err = w.save(); err == nil {
			err = w.save()
		}
	}
	return errors.Join(err, w.keeper.close())
}

// advance makes durable that letters up to last were acknowledged.
func (w *watermark) advance(last uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last <= w.saved && !w.superseded() {
		return nil
	}
	w.state.Last = max(w.state.Last, last)
	return w.save()
}

// begin makes durable that these letters are about to be removed on purpose, at most maxRemoving at a time.
func (w *watermark) begin(ids []uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Removing == nil {
		w.state.Removing = make(map[uint64]bool, len(ids))
	}
	for _, id := range ids {
		w.state.Removing[id] = true
		// What can be removed was stored.
		w.state.Last = max(w.state.Last, id)
	}
	return w.save()
}

// removed notes that a begun removal happened. It reaches the disk with the next write; until then the letter counts as begun, and
// whether it is gone is found out at the next opening.
func (w *watermark) removed(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Removing[id] {
		delete(w.state.Removing, id)
		w.state.Removed++
	}
}

// kept notes that a begun removal did not happen.
func (w *watermark) kept(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.state.Removing, id)
}

// change edits the state and makes it durable.
func (w *watermark) change(edit func(*markState)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	edit(&w.state)
	return w.save()
}

// lose adds losses to the state. Beyond maxLost the last one stands for all that follow.
func (m *markState) lose(lost []LostError) {
	for _, l := range lost {
		if len(m.Lost) < maxLost {
			m.Lost = append(m.Lost, l)
			continue
		}
		end := &m.Lost[maxLost-1]
		end.From, end.To, end.Count = min(end.From, l.From), max(end.To, l.To), end.Count+l.Count
	}
}

// snapshot returns a copy of the state.
func (w *watermark) snapshot() markState {
	w.mu.Lock()
	defer w.mu.Unlock()
	state := w.state
	state.Removing = maps.Clone(state.Removing)
	state.Lost = slices.Clone(state.Lost)
	return state
}

// superseded reports whether another store is known to have saved since.
func (w *watermark) superseded() bool {
	select {
	case <-w.keeper.superseded():
		return true
	default:
		return false
	}
}

// save saves the state as the next version. The lock is held.
func (w *watermark) save() error {
	next := w.state
	next.Version++
	if err := w.keeper.save(&next); err != nil {
		return fmt.Errorf("write the high-water mark: %w: %w", ErrUnavailable, err)
	}
	w.state.Version, w.saved = next.Version, next.Last
	return nil
}

// save writes the slot whose turn it is. After an error the same one is written again next time: the other one is sound.
func (s slots) save(next *markState) error {
	b, err := encodeMark(next)
	if err == nil {
		_, err = s.file.WriteAt(b, slotOf(next.Version))
	}
	if err == nil {
		err = syncData(s.file)
	}
	return err
}

func (s slots) superseded() <-chan struct{} { return nil }

func (s slots) close() error { return s.file.Close() }

// slotOf returns where a version is written: not over the one before it.
func slotOf(version uint64) int64 { return int64(version%2) * slotBytes }

// encodeMark makes the beginning of a slot: head, length, checksum of what follows, state.
func encodeMark(state *markState) ([]byte, error) {
	body, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	b := append([]byte{}, watermarkHead...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
	if b = append(b, body...); len(b) > slotBytes {
		return nil, fmt.Errorf("a state of %d bytes exceeds its slot", len(b))
	}
	return b, nil
}

// decodeMark reads a slot; false means that it is empty, torn or damaged.
func decodeMark(b []byte) (state markState, ok bool) {
	const head = len(watermarkHead)
	if len(b) < head+8 || string(b[:head]) != watermarkHead {
		return state, false
	}
	size, sum := binary.BigEndian.Uint32(b[head:]), binary.BigEndian.Uint32(b[head+4:])
	body := b[head+8:]
	if uint64(size) > uint64(len(body)) || crc32.Checksum(body[:size], castagnoli) != sum {
		return state, false
	}
	return state, json.Unmarshal(body[:size], &state) == nil
}
