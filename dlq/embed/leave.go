package embed

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server"
)

const (
	// replicationDir is where a server of a cluster keeps what it and the others agreed on, beside the streams themselves. It may have messages that are not in the streams yet.
	replicationDir = "_js_"
	// leftDir is where Leave puts that.
	leftDir = "replication.left"
)

// Leave makes the directory of a server of a cluster that of a server that is alone, which has the streams as this one had its copies of them. What only the others had
// is not in them, nor is what this server was told of and had not yet taken into the streams when it ended: that stays in the directory replication.left, which no server
// reads. It is for what is left of a cluster that is lost; to its other servers, should they come back, this one is gone. No server must use the directory. After an error
// or a crash it can be called again, and it does nothing to a directory that belongs to a server that is alone.
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
	streams, err := fs.Glob(os.DirFS(filepath.Join(dir, jetStreamDir)), "*/streams/*/"+server.JetStreamMetaFile)
	if err != nil {
		return err
	}
	for _, stream := range streams {
		if err := oneCopy(filepath.Join(dir, jetStreamDir, stream)); err != nil {
			return fmt.Errorf("%s: %w", stream, err)
		}
	}
	system := filepath.Join(dir, jetStreamDir, systemAccount)
	if err := os.Rename(filepath.Join(system, replicationDir), filepath.Join(dir, leftDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range []string{system, dir} {
		if err := syncDir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return writeMarker(path, marker{Mode: modeAlone})
}

// oneCopy lets a stream have one copy. A server that is alone passes over those with more.
func oneCopy(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]json.RawMessage
	if err := json.Unmarshal(b, &config); err != nil {
		return err
	}
	var name string
	if err := json.Unmarshal(config["name"], &name); err != nil {
		return fmt.Errorf("its name: %w", err)
	}
	config["num_replicas"] = json.RawMessage("1")
	if b, err = json.Marshal(config); err != nil {
		return err
	}
	// As the server does: the key of the checksum is the hash of the stream's name.
	key := sha256.Sum256([]byte(name))
	sum, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return err
	}
	_, _ = sum.Write(b) // never fails
	if err := replaceFile(path, b); err != nil {
		return err
	}
	return replaceFile(filepath.Join(filepath.Dir(path), server.JetStreamMetaFileSum), []byte(hex.EncodeToString(sum.Sum(nil))))
}
