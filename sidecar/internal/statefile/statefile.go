// Package statefile keeps what a sidecar must remember over its restarts: its id, its last session, what it was told to run and
// where its lanes were last checkpointed.
//
// Its two files are written whole, each to a new file that is flushed and then takes the place of the old one; they carry a checksum. One
// process at a time uses the directory.
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
	// Boots counts the processes that opened the directory, this one included.
	Boots uint64
	// Registration is the answer to the last one; nil before the first.
	Registration *controlv1.RegisterResponse
	// Place is where the sidecar was when it registered.
	Place Place
	// Desired is what that session was last told to run; nil before the first time.
	Desired *controlv1.WatchAssignmentsResponse
}

// Place is where a sidecar is: what it was told elsewhere is of no use to it.
type Place struct {
	// Address at which other sidecars reach it.
	Address string `json:"address,omitempty"`
	// Routers of its cluster.
	Routers []string `json:"routers,omitempty"`
}

// stored is the form of State in the file.
type stored struct {
	SidecarID string `json:"sidecarId"`
	Boots     uint64 `json:"boots,omitempty"`
	Session   []byte `json:"registration,omitempty"` // protobuf
	Place     Place  `json:"place,omitzero"`
	Desired   []byte `json:"desired,omitempty"` // protobuf
}

// File is a sidecar's data directory. Its methods may be called at once.
type File struct {
	path string
	lock *lock.Lock

	mu    sync.Mutex
	state State // guarded by mu

	lanes *lanes
}

// Open takes the directory, which it creates if needed, reads what is remembered there, and decides on the sidecar's id: id itself; if that
// is empty the remembered one; else a new one from newID. That, and that there is one more boot, is on disk before Open returns. A directory in use is a
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
		state = State{SidecarID: id, Boots: state.Boots}
	case state.SidecarID == "":
		state = State{SidecarID: newID(), Boots: state.Boots}
	}
	state.Boots++
	f.state = state
	if f.lanes, err = openLanes(filepath.Join(filepath.Dir(f.path), lanesName)); err != nil {
		return err
	}
	return f.write(state)
}

// State returns what is remembered. Desired is shared and must not be changed.
func (f *File) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Record remembers what a session was told to run; it is on disk when Record returns without an error. Lanes of other assignments are forgotten.
func (f *File) Record(registration *controlv1.RegisterResponse, place Place, desired *controlv1.WatchAssignmentsResponse) error {
	if err := f.change(State{Registration: registration, Place: place, Desired: desired}); err != nil {
		return err
	}
	return f.lanes.retain(desired.GetAssignments())
}

// Forget remembers no session any more: it was ended.
func (f *File) Forget() error {
	if err := f.change(State{}); err != nil {
		return err
	}
	return f.lanes.retain(nil)
}

func (f *File) change(next State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next.SidecarID, next.Boots = f.state.SidecarID, f.state.Boots
	if err := f.write(next); err != nil {
		return err
	}
	f.state = next
	return nil
}

// Close gives the directory up. It may be called more than once.
func (f *File) Close() error { return f.lock.Close() }

func (f *File) write(s State) error {
	form, err := encode(s)
	if err != nil {
		return fmt.Errorf("write state file %s: %w", f.path, err)
	}
	return write(f.path, form)
}

// write puts a form at a path: magic, length, checksum of what follows, JSON.
func write(path string, form any) error {
	data, err := frame(form)
	if err == nil {
		err = atomicfile.Write(path, data)
	}
	if err != nil {
		return fmt.Errorf("write state file %s: %w", path, err)
	}
	return nil
}

func encode(s State) (form stored, err error) {
	form = stored{SidecarID: s.SidecarID, Boots: s.Boots, Place: s.Place}
	if s.Registration != nil {
		if form.Session, err = proto.Marshal(s.Registration); err != nil {
			return stored{}, err
		}
	}
	if s.Desired != nil {
		if form.Desired, err = proto.Marshal(s.Desired); err != nil {
			return stored{}, err
		}
	}
	return form, nil
}

func frame(form any) ([]byte, error) {
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

// unframe reads the content of a file into a form; reason says what is wrong with it.
func unframe(data []byte, form any) (reason string) {
	if len(data) < len(magic) || string(data[:len(magic)]) != magic {
		return "it does not begin like one, or was written by another version"
	}
	data = data[len(magic):]
	if len(data) < 8 {
		return "it is cut off"
	}
	size, sum, body := binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:]), data[8:]
	if int64(size) != int64(len(body)) {
		return fmt.Sprintf("it has %d bytes of content instead of %d", len(body), size)
	}
	if crc32.Checksum(body, castagnoli) != sum {
		return "its checksum is wrong"
	}
	if err := json.Unmarshal(body, form); err != nil {
		return fmt.Sprintf("its content cannot be read: %v", err)
	}
	return ""
}

func decode(form stored) (s State, reason string) {
	s = State{SidecarID: form.SidecarID, Boots: form.Boots, Place: form.Place}
	if form.Session != nil {
		s.Registration = &controlv1.RegisterResponse{}
		if err := proto.Unmarshal(form.Session, s.Registration); err != nil {
			return State{}, fmt.Sprintf("its registration cannot be read: %v", err)
		}
	}
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
	var form stored
	if err := load(path, &form); err != nil {
		return State{}, err
	}
	s, reason := decode(form)
	if reason != "" {
		return State{}, &CorruptError{Path: path, Reason: reason}
	}
	return s, nil
}

// load leaves the form alone when there is no file.
func load(path string, form any) error {
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open state file: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(in, maxBytes+1024))
	if err = errors.Join(err, in.Close()); err != nil {
		return fmt.Errorf("read state file %s: %w", path, err)
	}
	if reason := unframe(data, form); reason != "" {
		return &CorruptError{Path: path, Reason: reason}
	}
	return nil
}
