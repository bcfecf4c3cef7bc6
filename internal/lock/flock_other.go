//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package lock

import (
	"errors"
	"os"
	"runtime"
)

// tryLock refuses: without a lock two processes could destroy a data directory.
func tryLock(*os.File) (held bool, err error) {
	return false, errors.New("locking is not supported on " + runtime.GOOS)
}
