package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/conveyor-etl/conveyor/sdk"
)

// claim is the file .NAME.conveyor beside a sink's file. It is locked while a process writes, and says whose the file is.
type claim struct {
	path   string // of the sink's file
	file   *os.File
	fresh  bool // it said nothing
	Claims claimText
}

// claimText is the content of a claim.
type claimText struct {
	Pipeline string `json:"pipeline"`
	Stage    string `json:"stage"`
	// Life is the opening that asked to begin anew, so that its repetition does not.
	Life *life `json:"life,omitempty"`
	// Size and Identity are of the finished file.
	Size     int64  `json:"size,omitempty"`
	Identity string `json:"identity,omitempty"`
}

type life struct {
	Generation  uint64 `json:"generation"`
	Incarnation uint64 `json:"incarnation"`
	Index       uint64 `json:"index"`
}

func claimPath(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".conveyor")
}

// takeClaim opens and locks the claim, and makes it when there is none.
func takeClaim(path string, o sdk.Opening) (*claim, error) {
	name := claimPath(path)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, ioError(name, "open", err)
	}
	c := &claim{path: path, file: f}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = sdk.Unavailable(sdk.Code("LOCKED", fmt.Errorf("write %s: another process writes it", path)))
		} else {
			err = ioError(name, "lock", err)
		}
		return nil, errors.Join(err, f.Close())
	}
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, errors.Join(ioError(name, "read", err), f.Close())
	}
	if len(data) == 0 {
		c.fresh = true
		c.Claims = claimText{Pipeline: o.Pipeline, Stage: o.Stage}
		return c, nil
	}
	if err := json.Unmarshal(data, &c.Claims); err != nil {
		err = notOurs("write %s: %s does not tell whose the file is: %w", path, name, err)
		return nil, errors.Join(err, f.Close())
	}
	return c, nil
}

func notOurs(format string, args ...any) error {
	return sdk.Permanent(sdk.Code("NOT_OURS", fmt.Errorf(format, args...)))
}

// check refuses files that are not those of the pipeline's stage.
func (c *claim) check(o sdk.Opening, finished, begun bool) error {
	switch {
	case c.fresh && finished:
		return errors.Join(notOurs("write %s: it exists and was not written by this pipeline; move it away or name another path", c.path), c.forget())
	case c.fresh && begun:
		return errors.Join(notOurs("write %s: %s.partial exists and was not written by this pipeline; move it away or name another path", c.path, c.path), c.forget())
	case c.Claims.Pipeline != o.Pipeline || c.Claims.Stage != o.Stage:
		return notOurs("write %s: it belongs to pipeline %s, stage %s; move it and %s away or name another path",
			c.path, c.Claims.Pipeline, c.Claims.Stage, claimPath(c.path))
	case finished && begun:
		return notOurs("write %s: both it and %s.partial exist, and only the latter is of this pipeline; move one away", c.path, c.path)
	case finished:
		return c.checkFinished()
	}
	return nil
}

// checkFinished refuses a finished file that somebody changed.
func (c *claim) checkFinished() error {
	f, err := os.Open(c.path)
	if err != nil {
		return ioError(c.path, "open", err)
	}
	return errors.Join(c.compare(f), f.Close())
}

func (c *claim) compare(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return ioError(c.path, "stat", err)
	}
	identity, err := identityAt(f, min(info.Size(), prefixBytes))
	if err != nil {
		return ioError(c.path, "read", err)
	}
	if info.Size() != c.Claims.Size || identity != c.Claims.Identity {
		return notOurs("write %s: it is not as pipeline %s left it (%d bytes, beginning with %s), but has %d bytes and begins with %s; move it away",
			c.path, c.Claims.Pipeline, c.Claims.Size, c.Claims.Identity, info.Size(), identity)
	}
	return nil
}

// beginsAnew reports whether the opening asks to forget what is there and did not do so before. The same generation asks again whenever
// it opens, with a newer epoch; a lower epoch shows that the cluster itself is a new one.
func (c *claim) beginsAnew(o sdk.Opening) bool {
	if !o.FromStart {
		return false
	}
	l := c.Claims.Life
	return l == nil || l.Generation != o.Generation || o.Epoch.Compare(sdk.Epoch{Incarnation: l.Incarnation, Index: l.Index}) < 0
}

// store makes the claim durable before anything else is.
func (c *claim) store(o sdk.Opening) error {
	if c.beginsAnew(o) {
		c.Claims.Life = &life{o.Generation, o.Epoch.Incarnation, o.Epoch.Index}
	} else if !c.fresh {
		return nil
	}
	c.fresh = false
	if err := c.write(); err != nil {
		return err
	}
	return syncDir(c.path)
}

// finish notes how the finished file looks.
func (c *claim) finish(f *os.File, size int64) error {
	identity, err := identityAt(f, min(size, prefixBytes))
	if err != nil {
		return ioError(f.Name(), "read", err)
	}
	c.Claims.Size, c.Claims.Identity = size, identity
	return c.write()
}

// write replaces the content. It is small enough to be written at once, and never gets shorter than what is valid: the rest is blank.
func (c *claim) write() error {
	data, err := json.Marshal(c.Claims)
	if err != nil {
		return fmt.Errorf("encode the claim of %s: %w", c.path, err)
	}
	info, err := c.file.Stat()
	if err != nil {
		return ioError(c.file.Name(), "stat", err)
	}
	data = append(data, '\n')
	for int64(len(data)) < info.Size() {
		data = append(data, ' ')
	}
	if _, err := c.file.WriteAt(data, 0); err != nil {
		return ioError(c.file.Name(), "write", err)
	}
	if err := c.file.Sync(); err != nil {
		return ioError(c.file.Name(), "sync", err)
	}
	return nil
}

// forget removes a claim that was made in vain.
func (c *claim) forget() error {
	if err := os.Remove(c.file.Name()); err != nil {
		return ioError(c.file.Name(), "remove", err)
	}
	return nil
}

// release gives the lock back.
func (c *claim) release() error {
	if err := c.file.Close(); err != nil {
		return ioError(c.file.Name(), "close", err)
	}
	return nil
}
