package dlq

import (
	"crypto/sha256"
	"encoding/base64"
	"sync"
)

// letterKey stands for a LetterID: the first half of its SHA-256.
type letterKey [16]byte

func keyOf(letterID string) letterKey {
	sum := sha256.Sum256([]byte(letterID))
	return letterKey(sum[:len(letterKey{})])
}

// messageID is the id that the server deduplicates on.
func (k letterKey) messageID() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

// index knows every letter of the stream up to last by its key. A hit is a hint, to be verified against the stream; a miss is certain,
// since a publication is only accepted by the server while the stream ends where the index does.
type index struct {
	mu   sync.RWMutex
	ids  map[letterKey]uint64
	last uint64
}

func newIndex() *index { return &index{ids: make(map[letterKey]uint64)} }

func (x *index) find(k letterKey) (id uint64, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	id, ok = x.ids[k]
	return id, ok
}

func (x *index) add(k letterKey, id uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ids[k] = id
}

// drop forgets the letter if the index still has it under this id.
func (x *index) drop(k letterKey, id uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ids[k] == id {
		delete(x.ids, k)
	}
}

// end returns the ID up to which the index is complete.
func (x *index) end() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.last
}

func (x *index) setEnd(id uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last = id
}

func (x *index) reset() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.ids)
	x.last = 0
}
