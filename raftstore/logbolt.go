package raftstore

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	boltFile = "raft.db"
	lockWait = time.Second
)

func openBolt(path string) (log persistent, err error) {
	// The library panics, and a file cut short faults, where damage meets its assumptions.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			log, err = nil, &DamagedError{Path: path, Cause: fmt.Errorf("%v", p)}
		}
	}()
	log, err = raftboltdb.New(raftboltdb.Options{
		Path: path,
		// A wait of zero would be for ever. The free list is rebuilt at open instead of being written with every entry.
		BoltOptions: &bbolt.Options{Timeout: lockWait, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
	})
	if err != nil {
		return nil, boltError(path, err)
	}
	return log, nil
}

// boltError says what an error of opening a bbolt file means.
func boltError(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("open %s: %w", path, ErrInUse)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch),
		strings.Contains(err.Error(), "file size too small"):
		return &DamagedError{Path: path, Cause: err}
	}
	return fmt.Errorf("open %s: %w", path, err)
}
