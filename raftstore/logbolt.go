package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/go-msgpack/codec"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

const (
	boltName = "raft.db"
	boltLogs = "logs"
	boltConf = "conf"
)

// errNotFound is told from others by its text, in raft.
var errNotFound = errors.New("not found")

// boltLog is a log in one file of bbolt. Its form is that of raft-boltdb, with checksums that raft-boltdb passes over.
type boltLog struct{ *boltFile }

func openBolt(path string, fresh bool, ready func(first, last uint64) error) (persistent, error) {
	f, err := openBoltFile(path, fresh, boltLogs, boltConf, boltLogs)
	if err != nil {
		return nil, err
	}
	l := boltLog{f}
	first, err := l.FirstIndex()
	if err == nil {
		var last uint64
		if last, err = l.LastIndex(); err == nil {
			err = ready(first, last)
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// FirstIndex implements raft.LogStore.
func (l boltLog) FirstIndex() (uint64, error) { return l.end((*bbolt.Cursor).First) }

// LastIndex implements raft.LogStore.
func (l boltLog) LastIndex() (uint64, error) { return l.end((*bbolt.Cursor).Last) }

func (l boltLog) end(which func(*bbolt.Cursor) (key, value []byte)) (index uint64, err error) {
	err = l.View(func(tx *bbolt.Tx) error {
		key, _ := which(tx.Bucket([]byte(boltLogs)).Cursor())
		switch len(key) {
		case 0:
		case 8:
			index = binary.BigEndian.Uint64(key)
		default:
			return &DamagedError{Path: l.Path(), Cause: fmt.Errorf("an entry has the index %q", key)}
		}
		return nil
	})
	return index, err
}

// GetLog implements raft.LogStore.
func (l boltLog) GetLog(index uint64, entry *raft.Log) error {
	value, err := l.get(boltLogs, uint64Key(index))
	if err != nil {
		return err
	}
	if value == nil {
		return raft.ErrLogNotFound
	}
	return decodeEntry(value, entry)
}

// StoreLog implements raft.LogStore.
func (l boltLog) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (l boltLog) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	if err := leaveBehind(l, entries[0].Index); err != nil {
		return err
	}
	return l.Update(func(tx *bbolt.Tx) error {
		for _, entry := range entries {
			value, err := encodeEntry(entry)
			if err != nil {
				return err
			}
			if err := tx.Bucket([]byte(boltLogs)).Put(uint64Key(entry.Index), value); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteRange implements raft.LogStore.
func (l boltLog) DeleteRange(first, last uint64) error {
	var begin, end []byte
	return l.update(func(tx *bbolt.Tx) error {
		logs := tx.Bucket([]byte(boltLogs))
		c := logs.Cursor()
		var doomed [][]byte
		if before, _ := c.First(); before != nil && bytes.Compare(before, uint64Key(first)) < 0 {
			begin = before
		}
		k, _ := c.Seek(uint64Key(first))
		for ; k != nil && bytes.Compare(k, uint64Key(last)) <= 0; k, _ = c.Next() {
			doomed = append(doomed, bytes.Clone(k))
		}
		switch {
		case k != nil: // something follows
			end, _ = c.Last()
			if begin == nil {
				begin = k
			}
		case begin != nil:
			if k, _ = c.Seek(uint64Key(first)); k == nil {
				end, _ = c.Last()
			} else {
				end, _ = c.Prev()
			}
		}
		begin, end = bytes.Clone(begin), bytes.Clone(end)
		for _, k := range doomed {
			if err := logs.Delete(k); err != nil {
				return err
			}
		}
		return nil
	}, func(*bbolt.Tx) (_, _ []byte) { return begin, end })
}

// Set implements raft.StableStore.
func (l boltLog) Set(key, value []byte) error { return l.put(boltConf, key, value) }

// Get implements raft.StableStore.
func (l boltLog) Get(key []byte) ([]byte, error) {
	value, err := l.get(boltConf, key)
	if err == nil && value == nil {
		err = errNotFound
	}
	return value, err
}

// SetUint64 implements raft.StableStore.
func (l boltLog) SetUint64(key []byte, value uint64) error { return l.Set(key, uint64Key(value)) }

// GetUint64 implements raft.StableStore.
func (l boltLog) GetUint64(key []byte) (uint64, error) {
	value, err := l.Get(key)
	switch {
	case err != nil:
		return 0, err
	case len(value) != 8:
		return 0, fmt.Errorf("%s has %d bytes", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

func uint64Key(u uint64) []byte { return binary.BigEndian.AppendUint64(nil, u) }

// An entry has a checksum behind it, as an extension: a mark that begins nothing in MessagePack, and the sum. A term that is read wrongly elects whom nobody may elect. Entries of
// older versions have none.
const (
	entrySumMark  = 0xc1
	entrySumBytes = 5
)

func encodeEntry(entry *raft.Log) ([]byte, error) {
	var b bytes.Buffer
	if err := codec.NewEncoder(&b, &codec.MsgpackHandle{}).Encode(entry); err != nil {
		return nil, err
	}
	sum := crc32.Checksum(b.Bytes(), castagnoli)
	b.WriteByte(entrySumMark)
	return binary.BigEndian.AppendUint32(b.Bytes(), sum), nil
}

// decodeEntry reads an entry, which may keep the bytes.
func decodeEntry(b []byte, entry *raft.Log) error {
	*entry = raft.Log{}
	if n := len(b) - entrySumBytes; n >= 0 && b[n] == entrySumMark { // where one without a sum has a letter of its last field's name
		if binary.BigEndian.Uint32(b[n+1:]) != crc32.Checksum(b[:n], castagnoli) {
			return errors.New("the checksum of an entry does not match")
		}
		b = b[:n]
	}
	dec := codec.NewDecoderBytes(b, &codec.MsgpackHandle{})
	if dec.Decode(entry) != nil || dec.NumBytesRead() != len(b) {
		return errors.New("an entry is not one") // what the decoder stumbled over tells nobody anything
	}
	return nil
}
