package raftstore

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/types"
)

// usedKey is where the contents of a WAL have the newest segment that something was acknowledged in.
const usedKey = "used"

// walMeta says what segments a WAL has, and holds the term and the votes beside it. Its form is that of the library's file, with a checksum and a mark that the library passes over.
type walMeta struct{ *boltFile }

func openWALMeta(dir string, fresh bool) (walMeta, error) {
	f, err := openBoltFile(filepath.Join(dir, metadb.FileName), fresh, "", metadb.MetaBucket, metadb.StableBucket)
	return walMeta{f}, err
}

// Load implements types.MetaStore.
func (m walMeta) Load(string) (state types.PersistentState, err error) {
	data, err := m.get(metadb.MetaBucket, []byte(metadb.MetaKey))
	if err != nil || data == nil {
		return state, err
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return state, fmt.Errorf("%w: read what segments there are: %w", types.ErrCorrupt, err)
	}
	return state, nil
}

// CommitState implements types.MetaStore.
func (m walMeta) CommitState(state types.PersistentState) error {
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return m.put(metadb.MetaBucket, []byte(metadb.MetaKey), data)
}

// GetStable implements types.MetaStore.
func (m walMeta) GetStable(key []byte) ([]byte, error) { return m.get(metadb.StableBucket, key) }

// SetStable implements types.MetaStore.
func (m walMeta) SetStable(key, value []byte) error { return m.put(metadb.StableBucket, key, value) }

// used is the segment that was marked last, and false when there was none.
func (m walMeta) used() (id uint64, ok bool, err error) {
	data, err := m.get(metadb.MetaBucket, []byte(usedKey))
	if err != nil || len(data) != 8 {
		return 0, false, err
	}
	return binary.BigEndian.Uint64(data), true, nil
}

// markUsed notes that a segment has something in it that is about to be acknowledged: from then on it is a loss when nothing is there.
func (m walMeta) markUsed(id uint64) error {
	return m.put(metadb.MetaBucket, []byte(usedKey), uint64Key(id))
}
