// Package lock keeps two processes from using one data directory at the same time.
package lock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// file is the name of the lock file inside a data directory. It stays there when the lock is given
// up: removing it would let two processes hold locks on two files of one name.
const file = "LOCK"

// A HeldError is returned by [Acquire] when another process, or another part of this one, holds the
// directory.
type HeldError struct {
	Dir string
	PID int // the holder; 0 if it could not be read
}

// Error names the directory and the holder.
func (e *HeldError) Error() string {
	holder := "another process"
	switch {
	case e.PID == os.Getpid():
		holder = fmt.Sprintf("this process (pid %d)", e.PID)
	case e.PID > 0:
		holder = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("data directory %s is in use by %s: stop it, or choose another directory", e.Dir, holder)
}

// A Lock is the exclusive use of a data directory. The system gives it up when the process ends, in
// whatever way.
type Lock struct {
	once sync.Once
	f    *os.File
	err  error
}

// Acquire takes the directory, which it creates if needed (readable by the owner only). It does not
// wait: a directory in use is a [*HeldError].
func Acquire(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	path := filepath.Join(dir, file)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	held, err := tryLock(f)
	switch {
	case held:
		err = &HeldError{Dir: dir, PID: readPID(f)}
	case err != nil:
		err = fmt.Errorf("lock data directory %s: %w", dir, err)
	default:
		err = writePID(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Lock{f: f}, nil
}

// Close gives the directory up. It is idempotent.
func (l *Lock) Close() error {
	l.once.Do(func() {
		// The number is wiped first, so that nobody reads of a holder that is gone.
		l.err = errors.Join(l.f.Truncate(0), l.f.Close())
	})
	return l.err
}

func readPID(f *os.File) int {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("write pid to %s: %w", f.Name(), err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("write pid to %s: %w", f.Name(), err)
	}
	return nil
}
