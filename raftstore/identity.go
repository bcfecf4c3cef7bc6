package raftstore

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// identity says who a data directory is. It is made once: a wiped disk gets another one, so that it is never taken for the server it was.
type identity struct {
	Version   int    `json:"version"`
	ClusterID string `json:"clusterId"`
	ServerID  string `json:"serverId"`
	// Founded is set after the first configuration is in the log. Before that an empty log is no loss.
	Founded bool `json:"founded"`
	// Joined is set when the cluster's id came from another server.
	Joined bool `json:"joined,omitempty"`
}

const identityFile = "identity.json"

// loadIdentity reads the identity of dir; ok is false when there is none.
func loadIdentity(dir string) (id identity, ok bool, err error) {
	path := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, false, nil
	}
	if err != nil {
		return identity{}, false, fmt.Errorf("read identity: %w", err)
	}
	if err := json.Unmarshal(data, &id); err != nil {
		return identity{}, false, &DamagedError{Path: path, Cause: err}
	}
	if id.Version != 1 || id.ServerID == "" || id.ClusterID == "" && (id.Founded || id.Joined) {
		return identity{}, false, &DamagedError{Path: path, Cause: errors.New("it is incomplete, or of another version")}
	}
	return id, true, nil
}

// newIdentity makes a server that belongs to no cluster yet.
func newIdentity(serverName string) identity {
	return identity{Version: 1, ServerID: serverName + "-" + randomHex(4)}
}

func newClusterID() string { return randomHex(16) }

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// save writes the identity so that after a power loss either the old or the new one is there, whole.
func (id identity) save(dir string) error {
	data, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	path := filepath.Join(dir, identityFile)
	if err := writeSynced(path+".tmp", append(data, '\n')); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return syncDir(dir)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
