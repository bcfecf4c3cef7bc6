package raftstore

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

var (
	// ErrNotLeader is returned when this node does not lead: the command was not and will not be applied.
	ErrNotLeader = errors.New("not the leader of the cluster")
	// ErrUnknownOutcome is returned when a command may or may not have been applied, or may be later: the wait for it ended, or leadership did.
	ErrUnknownOutcome = errors.New("outcome of the command is unknown")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("raft store is closed")
	// ErrTooLarge is returned for a command over MaxCommandBytes.
	ErrTooLarge = errors.New("command is too large")
	// ErrHalted is what every *HaltedError is.
	ErrHalted = errors.New("state machine has halted")
	// ErrDiskHangs is what Err says when a write of the log does not end.
	ErrDiskHangs = errors.New("DISK_HANGS: disk hangs")
	// ErrDiskFailed is what Err says when the disk refused a write, as a full one does: after that nothing is known of what it holds until it is read again.
	ErrDiskFailed = errors.New("DISK_FAILED: disk failed")
	// ErrLowDisk is what every *LowDiskError is.
	ErrLowDisk = errors.New("the disk is nearly full")
	// ErrInUse is returned by Open when another process uses the directory.
	ErrInUse = errors.New("data directory is in use by another process")
	// ErrSeveralServers is returned by Open without Peers when the directory belongs to a cluster of several servers.
	ErrSeveralServers = errors.New("the cluster has several servers, and no peers are configured")
	// ErrAlone is returned for changes to the members of a cluster that was opened without Peers: nobody could reach it.
	ErrAlone = errors.New("no peers are configured: the cluster has one server")
	// ErrRefused is returned for a change to the members that cannot be made, such as one made of an outdated list. Nothing was changed.
	ErrRefused = errors.New("change to the members of the cluster was refused")
	// ErrBadSnapshot is returned by Restore for bytes that are not what WriteSnapshot wrote, or not all of it. Nothing was changed.
	ErrBadSnapshot = errors.New("not a whole snapshot")
	// ErrNothing is returned by Salvage for a directory that has not been in use.
	ErrNothing = errors.New("the directory holds nothing of a cluster")
	// ErrDamaged is what every *DamagedError is.
	ErrDamaged = errors.New("raft state is damaged")
)

// HaltedError says why a node stopped applying commands. It must not go on: the state behind the command is unknown to it.
type HaltedError struct {
	// Index is the log index of the command that the node could not apply.
	Index uint64
	// Reason is what the state machine said.
	Reason string
}

// Error is the reason with its place in the log.
func (e *HaltedError) Error() string {
	return fmt.Sprintf("state machine halted at log index %d: %s", e.Index, e.Reason)
}

// Is reports whether target is ErrHalted.
func (e *HaltedError) Is(target error) bool { return target == ErrHalted }

// OtherLogError says that the log in a directory is not of the kind that was asked for. Nothing was changed.
type OtherLogError struct {
	Dir         string
	Has, Wanted LogKind
}

// Error says what can be done.
func (e *OtherLogError) Error() string {
	return fmt.Sprintf("the log in %s is kept as %s, and %s was asked for: open it as it is; to change it, remove this server from its cluster, empty the directory, and add the server again",
		e.Dir, e.Has, e.Wanted)
}

// DamagedError says that the state on disk is not what was written. Nothing was changed or deleted.
type DamagedError struct {
	// Path is the damaged file or directory.
	Path string
	// Cause is what the check found.
	Cause error
	// Peers is set when the server is one of several. They have what it lost, and count on what it has promised, which a copy of the directory may not know of.
	Peers bool
}

// Error says what is damaged and what can be done. It begins with a word for scripts, as those of a disk do.
func (e *DamagedError) Error() string {
	if e.Peers {
		return fmt.Sprintf("RAFT_DAMAGED: raft state %s is damaged: %v; nothing was changed: remove this server from its cluster, move the directory away, start the server with an empty one and add it "+
			"again; never restore a copy, which has forgotten votes and entries that the others count on", e.Path, e.Cause)
	}
	return fmt.Sprintf("RAFT_DAMAGED: raft state %s is damaged: %v; nothing was changed: restore the directory from a copy, or move it away to begin with an empty cluster and apply "+
		"the manifests again", e.Path, e.Cause)
}

// Is reports whether target is ErrDamaged.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// Unwrap is what the check found.
func (e *DamagedError) Unwrap() error { return e.Cause }

// proposeError maps the library's errors to what they mean for the command.
func proposeError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	case errors.Is(err, raft.ErrRaftShutdown):
		return fmt.Errorf("%w: %w", ErrClosed, ErrUnknownOutcome)
	default:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
}
