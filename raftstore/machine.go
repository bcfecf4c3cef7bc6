package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// StateMachine is what commands change. Apply, Snapshot and Restore are never called concurrently with each other; the function that Snapshot returns runs
// concurrently with them.
type StateMachine interface {
	// Apply changes the state by one command. It must be a function of the state and its arguments alone: no clock, no randomness, no map order, and no panic,
	// whatever the bytes. What it returns reaches the proposer as Result.Value. A Halt value stops the node: no later command is applied.
	Apply(index uint64, cmd []byte) any
	// Snapshot captures the state at once, and returns a function that writes it later.
	Snapshot() (func(io.Writer) error, error)
	// Restore replaces the state by a snapshot.
	Restore(r io.Reader) error
}

// Halt is returned by StateMachine.Apply for a command that this build cannot apply, such as one of a newer version. Skipping it would make this node's state
// differ from that of others.
type Halt struct {
	// Reason is for people.
	Reason string
}

// Commands are stored with a checksum, because the log's file has none of its own.
const (
	envelopeVersion = 1
	envelopeBytes   = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func seal(cmd []byte) []byte {
	out := make([]byte, envelopeBytes, envelopeBytes+len(cmd))
	out[0] = envelopeVersion
	binary.BigEndian.PutUint32(out[1:], crc32.Checksum(cmd, castagnoli))
	return append(out, cmd...)
}

func unseal(data []byte) ([]byte, error) {
	if len(data) < envelopeBytes {
		return nil, fmt.Errorf("a command of %d bytes has no checksum", len(data))
	}
	if data[0] != envelopeVersion {
		return nil, fmt.Errorf("a command has the unknown format %d", data[0])
	}
	cmd := data[envelopeBytes:]
	if crc32.Checksum(cmd, castagnoli) != binary.BigEndian.Uint32(data[1:]) {
		return nil, errors.New("the checksum of a command does not match")
	}
	return cmd, nil
}

// members is a list of members that is committed.
type members struct {
	index uint64
	list  raft.Configuration
}

// fsm adapts a StateMachine to the library.
type fsm struct {
	machine  StateMachine
	applied  atomic.Uint64
	members  atomic.Pointer[members]
	listed   func(index uint64, list raft.Configuration) // is told of each committed list; nil is not
	halted   atomic.Pointer[HaltedError]
	restores atomic.Uint64                   // how many were begun
	undo     atomic.Pointer[func(id string)] // is told of a snapshot that the machine did not take, in place of raft; nil is not
	failed   chan struct{}
	failOnce sync.Once
}

// Apply implements raft.FSM. All calls come from one goroutine.
func (f *fsm) Apply(l *raft.Log) any {
	if err := f.halted.Load(); err != nil {
		return err
	}
	cmd, err := unseal(l.Data)
	if err != nil {
		return f.halt(l.Index, err.Error())
	}
	value := f.machine.Apply(l.Index, cmd)
	if h, ok := value.(Halt); ok {
		return f.halt(l.Index, h.Reason)
	}
	f.applied.Store(l.Index)
	return value
}

func (f *fsm) halt(index uint64, reason string) error {
	err := &HaltedError{Index: index, Reason: reason}
	f.halted.Store(err)
	f.fail()
	return err
}

func (f *fsm) fail() { f.failOnce.Do(func() { close(f.failed) }) }

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.halted.Load(); err != nil {
		return nil, err
	}
	write, err := f.machine.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("capture the state: %w", err)
	}
	return snapshot(write), nil
}

// Restore implements raft.FSM.
func (f *fsm) Restore(r io.ReadCloser) error {
	meta := metaOf(r)
	f.restores.Add(1)
	if err := errors.Join(f.machine.Restore(r), r.Close()); err != nil {
		undo := f.undo.Load()
		if undo != nil {
			(*undo)(meta.ID)
		}
		// What the machine holds now is nobody's state, and raft would go on applying to it.
		if err := f.halt(meta.Index, fmt.Sprintf("a snapshot cannot be restored: %v", err)); undo == nil {
			return err
		}
		return nil
	}
	f.applied.Store(meta.Index)
	f.StoreConfiguration(meta.ConfigurationIndex, meta.Configuration)
	return nil
}

// StoreConfiguration implements raft.ConfigurationStore.
func (f *fsm) StoreConfiguration(index uint64, list raft.Configuration) {
	f.members.Store(&members{index, list})
	if f.listed != nil {
		f.listed(index, list)
	}
}

type snapshot func(io.Writer) error

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s(sink); err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (snapshot) Release() {}
