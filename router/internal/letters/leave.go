package letters

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/dlq/embed"
	"github.com/conveyor-etl/conveyor/internal/atomicfile"
)

// CheckLeave reports what Leave would fail at, and changes nothing.
func CheckLeave(dir string) error {
	shared, lone := filepath.Join(dir, sharedDir), filepath.Join(dir, loneDir)
	for _, d := range []string{shared, lone} {
		if _, err := os.Stat(d); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return fmt.Errorf("look for dead letters: %w", err)
		}
	}
	return fmt.Errorf("%s has the dead letters of a cluster, and %s those from before it, which the cluster had not taken over: move one of the two away", shared, lone)
}

// HasCopy reports whether dir has a copy of the letters of a cluster: of more than three routers not all have one.
func HasCopy(dir string) bool {
	found, err := fs.Glob(os.DirFS(filepath.Join(dir, sharedDir)), "*/*/streams/"+dlq.DefaultStream)
	return err == nil && len(found) > 0
}

// Leave makes the dead letters in dir, as one router of a cluster has them, those of a router that is alone; no router must run there. mark is the high-water mark that the
// cluster had, nil for none: letters that it tells of and that are not in dir, which may be all of them, are reported as lost when the store is opened. After a crash it can
// be called again, and it does nothing where there are no letters of a cluster.
func Leave(dir string, mark []byte) error {
	if err := CheckLeave(dir); err != nil {
		return err
	}
	shared, lone := filepath.Join(dir, sharedDir), filepath.Join(dir, loneDir)
	if _, err := os.Stat(lone); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if mark != nil {
		if err := dlq.AdoptMark(dir, mark); err != nil {
			return err
		}
	}
	_, err := os.Stat(shared)
	switch {
	case errors.Is(err, fs.ErrNotExist) && mark == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		err = os.Mkdir(lone, 0o750) // a store without letters, of which the mark tells what is missing
	case err == nil:
		if err = embed.Leave(shared); err == nil {
			err = atomicfile.Rename(shared, lone)
		}
	}
	if err != nil {
		return fmt.Errorf("keep the dead letters for a router that is alone: %w", err)
	}
	return nil
}
