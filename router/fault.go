package router

import (
	"errors"

	"github.com/conveyor-etl/conveyor/raftstore"
)

// Code is for operators and scripts: it says what kind of error ended a router. The text of the error has it too.
type Code string

// The codes.
const (
	// CodeDamaged: the state on disk is not what was written. To start again does not help.
	CodeDamaged Code = "RAFT_DAMAGED"
	// CodeDiverged: the state is not that of the other routers. To start again does not help.
	CodeDiverged Code = "STATE_DIVERGED"
	// CodeDiskFailed: the disk refused a write, as a full one does.
	CodeDiskFailed Code = "DISK_FAILED"
	// CodeDiskHangs: a write of the disk did not end.
	CodeDiskHangs Code = "DISK_HANGS"
)

// CodeOf is the code of an error of Run, or empty.
func CodeOf(err error) Code {
	switch {
	case errors.Is(err, raftstore.ErrDamaged):
		return CodeDamaged
	case errors.Is(err, ErrDiverged):
		return CodeDiverged
	case errors.Is(err, raftstore.ErrDiskHangs):
		return CodeDiskHangs
	case errors.Is(err, raftstore.ErrDiskFailed):
		return CodeDiskFailed
	}
	return ""
}
