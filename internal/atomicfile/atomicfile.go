// Package atomicfile replaces files so that a power loss leaves either the old content or the new.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write puts data at path in place of what is there, readable by its owner only. When it returns without an error, the new content is on stable storage; with one, the
// old content is there still. The folder must exist. It is not for several writers of one path at a time: all of them would write to path.next first, which a crash may
// leave behind and the next Write uses again.
func Write(path string, data []byte) error {
	if err := write(path, data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func write(path string, data []byte) error {
	next := path + ".next"
	out, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return syncDir(filepath.Dir(path))
}

// Rename gives a file or a folder another name in a folder of the same volume. When it returns without an error, a power loss does not bring the old name back.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(to), filepath.Dir(from)} {
		if err := syncDir(dir); err != nil {
			return fmt.Errorf("rename %s to %s: %w", from, to, err)
		}
	}
	return nil
}

// Remove removes a file. When it returns without an error, a power loss does not bring it back.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
