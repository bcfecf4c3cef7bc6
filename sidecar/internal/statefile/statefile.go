// Package statefile keeps what a sidecar must remember over its restarts: its id, its last session and what it was told to run.
//
// The file is written whole, to a new file that is flushed and then takes the place of the old one; it carries a checksum. One process at a
// time uses the directory.
package statefile

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/internal/atomicfile"
	"github.com/conveyor-etl/conveyor/internal/lock"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// name of the state file in the data directory.
const name = "state"

const (
	magic    = "conveyor-sidecar-state 1\n"
	maxBytes = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CorruptError is returned when a state file is not what was written.
type CorruptError struct {
	// Path of the file.
	Path string
	// Reason why it cannot be read.
	Reason string
}

// Error says what to do.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("state file %s is damaged: %s. Nothing was changed. Check the disk; then move the file away and start again with SIDECAR_ID set to "+
		"the id that this sidecar had, or without it to get a new one: the routers say again what to run, and no record is lost", e.Path, e.Reason)
}

// State is what is remembered.
type State struct {
	// SidecarID in use.
	SidecarID string
	// Session that was registered last; its epoch is 0 before the first.
	Session uint64
	// Desired is what that session was last told to run; nil before the first time.
	Desired *controlv1.WatchAssignmentsResponse
}

// stored is the form of State in the file.
type stored struct {
	SidecarID string `json:"sidecarId"`
	Session   uint64 `json:"session,omitempty"`
	Desired   []byte `json:"desired,omitempty"` // protobuf
}

// File is a sidecar's data directory. Its methods may be called at once.
type File struct {
	path string
	lock *lock.Lock

	mu    sync.Mutex
	state State // guarded by mu
}

// Open takes the directory, which it creates if needed, reads what is remembered there, and decides on the sidecar's id: id itself; if that
// is empty the remembered one; else a new one from newID. The decision is remembered before Open returns. A directory in use is a
// *lock.HeldError, a damaged file a *CorruptError.
func Open(dir, id string, newID func() string) (*File, error) {
	held, err := lock.Acquire(dir)
	if err != nil {
		return nil, err
	}
	f := &File{path: filepath.Join(dir, name), lock: held}
	if err := f.open(id, newID); err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return f, nil
}

func (f *File) open(id string, newID func() string) error {
	state, err := read(f.path)
	if err != nil {
		return err
	}
	switch {
	case id != "" && id != state.SidecarID:
		// What another id was told to run is nothing to this one.
		state = State{SidecarID: id}
	case state.SidecarID == "":
		state = State{SidecarID: newID()}
	default:
		f.state = state
		return nil
	}
	f.state = state
	return f.write(state)
}

// State returns what is remembered. Desired is shared and must not be changed.
func (f *File) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Record remembers what a session was told to run; it is on disk when Record returns without an error.
func (f *File) Record(session *controlv1.Session, desired *controlv1.WatchAssignmentsResponse) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := State{SidecarID: f.state.SidecarID, Session: session.GetEpoch(), Desired: desired}
	if err := f.write(next); err != nil {
		return err
	}
	f.state = next
	return nil
}

// Close gives the directory up. It may be called more than once.
func (f *File) Close() error { return f.lock.Close() }

func (f *File) write(s State) error {
	data, err := encode(s)
	if err == nil {
		err = atomicfile.Write(f.path, data)
	}
	if err != nil {
		return fmt.Errorf("write state file %s: %w", f.path, err)
	}
	return nil
}

// encode lays a state out as: magic, length, checksum of what follows, JSON.
func encode(s State) ([]byte, error) {
	form := stored{SidecarID: s.SidecarID, Session: s.Session}
	if s.Desired != nil {
		desired, err := proto.Marshal(s.Desired)
		if err != nil {
			return nil, err
		}
		form.Desired = desired
	}
	body, err := json.Marshal(form)
	if err != nil {
		return nil, err
	}
	if len(body) > maxBytes {
		return nil, fmt.Errorf("%d bytes are more than %d", len(body), maxBytes)
	}
	data := []byte(magic)
	data = binary.BigEndian.AppendUint32(data, uint32(len(body)))
	data = binary.BigEndian.AppendUint32(data, crc32.Checksum(body, castagnoli))
	return append(data, body...), nil
}

// decode reads the content of a state file; reason says what is wrong with it.
func decode(data []byte) (s State, reason string) {
	if len(data) < len(magic) || string(data[:len(magic)]) != magic {
		return State{}, "it does not begin like one, or was written by another version"
	}
	data = data[len(magic):]
	if len(data) < 8 {
		return State{}, "it is cut off"
	}
	size, sum, body := binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:]), data[8:]
	if int64(size) != int64(len(body)) {
		return State{}, fmt.Sprintf("it has %d bytes of content instead of %d", len(body), size)
	}
	if crc32.Checksum(body, castagnoli) != sum {
		return State{}, "its checksum is wrong"
	}
	var form stored
	if err := json.Unmarshal(body, &form); err != nil {
		return State{}, fmt.Sprintf("its content cannot be read: %v", err)
	}
	s = State{SidecarID: form.SidecarID, Session: form.Session}
	if form.Desired != nil {
		s.Desired = &controlv1.WatchAssignmentsResponse{}
		if err := proto.Unmarshal(form.Desired, s.Desired); err != nil {
			return State{}, fmt.Sprintf("its assignments cannot be read: %v", err)
		}
	}
	return s, ""
}

// read returns the zero State when there is no file.
func read(path string) (State, error) {
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("open state file: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(in, maxBytes+1024))
	if err = errors.Join(err, in.Close()); err != nil {
		return State{}, fmt.Errorf("read state file %s: %w", path, err)
	}
	s, reason := decode(data)
	if reason != "" {
		return State{}, &CorruptError{Path: path, Reason: reason}
	}
	return s, nil
}
