package embed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// replicationDir is where a server of a cluster keeps what it and the others agreed on, beside the streams themselves.
const replicationDir = "_js_"

// Leave makes the directory of a server of a cluster that of a server that is alone, which has the streams as this one had its copies of them: what only the others had is not in them. It is for what is left of a
// cluster that is lost; to its other servers, should they come back, this one is gone. No server must use the directory. After an error or a crash it can be called again, and it does nothing to a directory that belongs
// to a server that is alone.
func Leave(dir string) error {
	if err := leave(dir); err != nil {
		return fmt.Errorf("make %s the directory of a server that is alone: %w", dir, err)
	}
	return nil
}

func leave(dir string) error {
	path := filepath.Join(dir, markerFile)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var have marker
	if err == nil {
		if err := json.Unmarshal(b, &have); err != nil {
			return fmt.Errorf("%s is damaged: %w", path, err)
		}
	}
	if have.Mode == modeAlone {
		return nil
	}
	system := filepath.Join(dir, jetStreamDir, systemAccount)
	if err := os.RemoveAll(filepath.Join(system, replicationDir)); err != nil {
		return err
	}
	if err := syncDir(system); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeMarker(path, marker{Mode: modeAlone})
}
