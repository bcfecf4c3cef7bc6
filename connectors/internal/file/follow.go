package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/conveyor-etl/conveyor/sdk"
)

// atEnd decides what happens at the end of the open file: the rest of it, when it has no line's end, is a unit; then comes the next file,
// or the wait for one. It reports goOn false at the end of everything.
func (r *reader) atEnd(ctx context.Context, rest bool) (u unit, goOn bool, err error) {
	for {
		switch {
		case len(r.later) > 0:
			if rest {
				return r.split.finish(false), true, nil
			}
			next := r.later[0]
			r.later = r.later[1:]
			return unit{}, true, r.open(next, 0)
		case !r.cfg.Follow && rest:
			return r.split.finish(false), true, nil
		case !r.cfg.Follow:
			return unit{}, false, nil
		}
		grown, err := r.grown()
		if err != nil || grown {
			return unit{}, true, err
		}
		next, err := r.rotated()
		if err != nil {
			return unit{}, false, err
		}
		if next != nil {
			return r.leave(next, rest)
		}
		if !sleep(ctx, pollEvery) {
			return unit{}, false, nil
		}
	}
}

// sleep waits for d and reports false when ctx is done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// grown reports whether the open file has more than was read, and errs when it has less.
func (r *reader) grown() (bool, error) {
	info, err := r.file.Stat()
	if err != nil {
		return false, ioError(r.file.Name(), "stat", err)
	}
	if info.Size() < r.split.offset {
		return false, fmt.Errorf("%w: %s was truncated to %d bytes, reading is at byte %d", sdk.ErrPositionGone, r.file.Name(), info.Size(), r.split.offset)
	}
	return info.Size() > r.split.offset, nil
}

// rotated returns the file at the path when it is another one than the open one.
func (r *reader) rotated() (*os.File, error) {
	here, err := r.file.Stat()
	if err != nil {
		return nil, ioError(r.file.Name(), "stat", err)
	}
	there, err := os.Stat(r.cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // between the two steps of a rotation
	}
	if err != nil {
		return nil, ioError(r.cfg.Path, "stat", err)
	}
	if os.SameFile(here, there) {
		return nil, nil
	}
	f, err := openRegular(r.cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// leave goes on with another file, after what came to the old one since its end was reached.
func (r *reader) leave(next *os.File, rest bool) (unit, bool, error) {
	if grown, err := r.grown(); err != nil || grown {
		return unit{}, true, errors.Join(err, next.Close())
	}
	// A copy in the place of the deleted original is the same file with another inode.
	if r.deleted() && checkIdentity(next, r.cfg.Path, r.here()) == nil {
		return unit{}, true, r.continueIn(next)
	}
	if rest {
		return r.split.finish(false), true, next.Close()
	}
	return unit{}, true, r.use(next, 0)
}

func (r *reader) here() position {
	hash, err := identityAt(r.file, r.split.offset)
	if err != nil {
		return position{hash: "unreadable", offset: r.split.offset}
	}
	return position{hash, r.split.offset}
}

// continueIn swaps the open file for its copy; the unit in the making stays.
func (r *reader) continueIn(next *os.File) error {
	if _, err := next.Seek(r.split.offset, 0); err != nil {
		return errors.Join(ioError(next.Name(), "seek in", err), next.Close())
	}
	old := r.file
	r.file = next
	r.mark = marker{file: next}
	r.split.in.Reset(next)
	if err := old.Close(); err != nil {
		return ioError(old.Name(), "close", err)
	}
	return nil
}

func (r *reader) deleted() bool {
	info, err := r.file.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 0
}

// notText are the endings of files that are not rotated ones, or not any more.
var notText = []string{".gz", ".bz2", ".xz", ".zst", ".zip", ".partial", ".lock", ".tmp", ".swp"}

// findRotated returns the file of a position among the rotated ones beside path, and behind it those that were rotated after it and the
// file at path itself, in order. It returns nothing when there is no such file.
func findRotated(path string, at position) ([]string, error) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean("./" + dir))
	if filepath.IsAbs(path) {
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		return nil, ioError(path, "list the directory of", err)
	}
	type candidate struct {
		path    string
		changed time.Time
		is      bool
	}
	var all []candidate
	for _, e := range entries {
		info, err := e.Info()
		rotated := strings.HasPrefix(e.Name(), base+".") || strings.HasPrefix(e.Name(), base+"-")
		if err != nil || !rotated || !info.Mode().IsRegular() || slices.Contains(notText, filepath.Ext(e.Name())) {
			continue
		}
		c := candidate{path: filepath.Join(dir, e.Name()), changed: info.ModTime()}
		if f, err := os.Open(c.path); err == nil {
			c.is = checkIdentity(f, c.path, at) == nil
			if err := f.Close(); err != nil {
				return nil, ioError(c.path, "close", err)
			}
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Or(a.changed.Compare(b.changed), cmp.Compare(b.path, a.path)) })
	first := slices.IndexFunc(all, func(c candidate) bool { return c.is })
	if first < 0 {
		return nil, nil
	}
	var paths []string
	for _, c := range all[first:] {
		paths = append(paths, c.path)
	}
	if _, err := os.Stat(path); err == nil {
		paths = append(paths, path)
	}
	return paths, nil
}
