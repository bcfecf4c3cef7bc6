//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package raftstore

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// flock takes the exclusive lock of a file, or reports that somebody else has it. The system gives it up with the process. (The binaries have a package for that, which a
// library of others does not depend on.)
func flock(f *os.File) (held bool, err error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return false, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return true, nil
		case !errors.Is(err, unix.EINTR):
			return false, os.NewSyscallError("flock", err)
		}
	}
}
