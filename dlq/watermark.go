package dlq

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

const watermarkFile = "high-water"

// watermark is what the store remembers outside of the stream, so that a stream that lost letters cannot hide it: how far letters were
// acknowledged, and how many of those were removed on purpose. Stream and mark must add up.
//
// Its file is replaced as a whole (write, fsync, rename, fsync of the directory), so it is always one state or the next.
type watermark struct {
	path string

	mu    sync.Mutex // held while the file is written: writers queue, and the last one writes for all
	state markState
	// saved is the highest Last on disk.
	saved uint64
}

// markState is the content of the file.
type markState struct {
	// Last is the highest acknowledged ID.
	Last uint64 `json:"last"`
	// Removed counts the letters up to Last that are gone on purpose or were reported lost.
	Removed uint64 `json:"removed"`
	// Removing are letters whose removal was begun; each may be gone or not.
	Removing map[uint64]bool `json:"removing,omitempty"`
	// Lost are the losses that nobody has accepted yet.
	Lost []LostError `json:"lost,omitempty"`
}

// openWatermark reads the file; found is false when there is none yet.
func openWatermark(dir string) (w *watermark, found bool, err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, false, fmt.Errorf("make the directory of the high-water mark: %w", err)
	}
	w = &watermark{path: filepath.Join(dir, watermarkFile)}
	b, err := os.ReadFile(w.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return w, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("read the high-water mark: %w", err)
	}
	sum, body, ok := strings.Cut(string(b), "\n")
	if !ok || sum != checksumLine(body) {
		return nil, false, fmt.Errorf("read the high-water mark: %s does not match its checksum; "+
			"after moving it away the store opens, but cannot tell whether letters are missing", w.path)
	}
	if err := json.Unmarshal([]byte(body), &w.state); err != nil {
		return nil, false, fmt.Errorf("read the high-water mark %s: %w", w.path, err)
	}
	w.saved = w.state.Last
	return w, true, nil
}

// advance makes durable that letters up to last were acknowledged.
func (w *watermark) advance(last uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last <= w.saved {
		return nil
	}
	w.state.Last = max(w.state.Last, last)
	return w.save()
}

// begin makes durable that these letters are about to be removed on purpose.
func (w *watermark) begin(ids []uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Removing == nil {
		w.state.Removing = make(map[uint64]bool, len(ids))
	}
	for _, id := range ids {
		w.state.Removing[id] = true
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

// change edits the state and makes it durable.
func (w *watermark) change(edit func(*markState)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	edit(&w.state)
	return w.save()
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

// save writes the file. The lock is held.
func (w *watermark) save() error {
	body, err := json.Marshal(&w.state)
	if err != nil {
		return fmt.Errorf("write the high-water mark: %w", err)
	}
	if err := replaceFile(w.path, checksumLine(string(body))+"\n"+string(body)); err != nil {
		return fmt.Errorf("write the high-water mark: %w", err)
	}
	w.saved = w.state.Last
	return nil
}

func checksumLine(body string) string {
	return fmt.Sprintf("conveyor-dlq 1 crc32c %08x", crc32.Checksum([]byte(body), castagnoli))
}

// replaceFile puts content at path so that after a power cut either the old or the new content is there, whole.
func replaceFile(path, content string) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
