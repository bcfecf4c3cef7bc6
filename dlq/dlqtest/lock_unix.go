//go:build unix

package dlqtest

import (
	"io"
	"os"
	"syscall"
)

// lockByte takes the lock on one byte of a file until the process ends, and reports whether no other process has it.
func lockByte(f *os.File, at int64) bool {
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1}
	return syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &lock) == nil
}
