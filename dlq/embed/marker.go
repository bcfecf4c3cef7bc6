package embed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrOtherMode is returned by Open for a directory that belongs to a server of another kind, cluster or name. Nothing in it was touched.
var ErrOtherMode = errors.New("the directory belongs to another server")

const (
	markerFile = "conveyor.json"
	markerMode = 0o640
	// jetStreamDir and metaDir are the server's own: where it keeps its streams, and the records of a cluster.
	jetStreamDir = "jetstream"
	metaDir      = replicationDir + "/_meta_"

	modeAlone   = "standalone"
	modeCluster = "cluster"
)

// marker says whose directory it is. The server itself would not ask: one of a cluster deletes the streams that one alone has left, and one with another name takes
// part in the cluster with the memory of somebody else.
type marker struct {
	Mode    string `json:"mode"`
	Cluster string `json:"cluster,omitempty"`
	Server  string `json:"server,omitempty"`
}

func (m marker) String() string {
	if m.Mode == modeCluster {
		return fmt.Sprintf("server %s of cluster %s", m.Server, m.Cluster)
	}
	return "a server that is alone"
}

// mark makes the directory the server's, or fails with ErrOtherMode when it is another one's.
func mark(dir string, want marker) error {
	path := filepath.Join(dir, markerFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		have, used, err := guess(dir, want)
		if err != nil {
			return err
		}
		if used && have != want {
			return otherMode(have, want)
		}
		return writeMarker(path, want)
	}
	if err != nil {
		return fmt.Errorf("read whose directory it is: %w", err)
	}
	var have marker
	if err := json.Unmarshal(b, &have); err != nil {
		return fmt.Errorf("read whose directory it is: %s is damaged: %w; when it is sure that the directory belongs to %s, remove that file", path, err, want)
	}
	if have != want {
		return otherMode(have, want)
	}
	return nil
}

// guess finds out whose a directory from before the marker is, as far as that can be seen.
func guess(dir string, want marker) (have marker, used bool, err error) {
	if st, err := os.Stat(filepath.Join(dir, jetStreamDir)); err != nil || !st.IsDir() {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return marker{}, false, err
	}
	_, err = os.Stat(filepath.Join(dir, jetStreamDir, systemAccount, metaDir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return marker{Mode: modeAlone}, true, nil
	case err != nil:
		return marker{}, false, err
	case want.Mode == modeCluster:
		return want, true, nil
	default:
		return marker{Mode: modeCluster}, true, nil
	}
}

func otherMode(have, want marker) error {
	todo := "start it as that one, or give it another directory"
	switch {
	case have.Mode != want.Mode && want.Mode == modeCluster:
		todo = "a store is not turned into one of a cluster in place: give the cluster a directory of its own, and move the letters into it (dlq.Migrate)"
	case have.Mode != want.Mode:
		todo = "start it in its cluster, where its letters are"
	case have.Cluster == want.Cluster:
		todo = "the other servers have copies of what is in it: remove the directory, and this server gets copies of its own"
	}
	return fmt.Errorf("%w: it is that of %s, not of %s; %s", ErrOtherMode, have, want, todo)
}

// writeMarker puts the file in place as a whole.
func writeMarker(path string, m marker) error {
	b, err := json.Marshal(m)
	if err == nil {
		err = replaceFile(path, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write whose directory it is: %w", err)
	}
	return nil
}

// replaceFile puts content in the place of a file, as a whole.
func replaceFile(path string, content []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, markerMode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
