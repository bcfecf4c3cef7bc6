package raftstore

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// identity says who a data directory is. It is made once: a wiped disk gets another one, so that it is never taken for the server it was.
type identity struct {
	Version   int    `json:"version"`
	ClusterID string `json:"clusterId"`
	ServerID  string `json:"serverId"`
	// Founded is set when there is something in the log. Before that an empty log is no loss.
	Founded bool `json:"founded"`
	// Joined is set when the cluster's id came from another server.
	Joined bool `json:"joined,omitempty"`
	// Member is the index of the first committed list of members that is known to have this server; 0 before.
	Member uint64 `json:"member,omitempty"`
	// Restoring is set while this server, as one of several, restores the state of all: what it has may not have come to the others.
	Restoring bool `json:"restoring,omitempty"`
	// checked: its file has a checksum of the present form. One that has not is of an older version, and gets it at the next start: the id may have a flipped bit and still be an id, of a
	// server that the cluster does not know.
	checked bool
}

const (
	identityFile = "identity.json"
	// checkMark comes before the last member of the document, the checksum of all bytes before the mark, so that a later version can write more members than this one knows. Those that
	// older versions summed up are in the member sum: they take a document without it as it is.
	checkMark = `,"check":`
)

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
	if id, err = decodeIdentity(data); err != nil {
		return identity{}, false, &DamagedError{Path: path, Cause: err}
	}
	if id.Version != 1 || id.ServerID == "" || id.ClusterID == "" && (id.Founded || id.Joined) {
		return identity{}, false, &DamagedError{Path: path, Cause: errors.New("it is incomplete, or of another version")}
	}
	return id, true, nil
}

// encode is the document of an identity.
func (id identity) encode() ([]byte, error) {
	data, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	return withCheck(data[:len(data)-1]), nil
}

// withCheck completes a document that lacks the end.
func withCheck(begun []byte) []byte {
	return fmt.Appendf(slices.Clone(begun), "%s\"%08x\"}\n", checkMark, crc32.Checksum(begun, castagnoli))
}

// decodeIdentity reads a document of this version, a later or an older one.
func decodeIdentity(data []byte) (identity, error) {
	wrong := errors.New("its checksum does not match")
	if at := bytes.LastIndex(data, []byte(checkMark)); at >= 0 {
		if !bytes.Equal(data, withCheck(data[:at])) {
			return identity{}, wrong
		}
		id := identity{checked: true}
		err := json.Unmarshal(data, &id)
		return id, err
	}
	var older struct {
		identity
		Sum string `json:"sum"`
	}
	// Older versions wrote no other members: one that is not known is one of these, or the checksum, with a flipped bit.
	in := json.NewDecoder(bytes.NewReader(data))
	in.DisallowUnknownFields()
	if err := in.Decode(&older); err != nil {
		return identity{}, err
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return identity{}, errors.New("something comes behind it")
	}
	id := older.identity
	sum := crc32.Checksum(fmt.Appendf(nil, "%d %q %q %t %t %d", id.Version, id.ClusterID, id.ServerID, id.Founded, id.Joined, id.Member), castagnoli)
	if older.Sum != "" && older.Sum != fmt.Sprintf("%08x", sum) {
		return identity{}, wrong
	}
	return id, nil
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
	data, err := id.encode()
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	path := filepath.Join(dir, identityFile)
	if err := writeSynced(path+".tmp", data); err != nil {
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
