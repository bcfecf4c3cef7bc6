//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package raftstore

import (
	"errors"
	"os"
)

// flock refuses: two processes could destroy each other's log.
func flock(*os.File) (held bool, err error) { return false, errors.ErrUnsupported }
