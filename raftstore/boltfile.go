package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	lockWait = time.Second
	lockPoll = 20 * time.Millisecond
)

// sumBucket is where a file has, under a key of the same name, the number of the transaction that wrote last, and a checksum. It is a bucket of its own, so that damage which leads to another
// page instead of one of the others does not hide it.
const (
	sumBucket = "sum"
	sumBytes  = 8 + crc32.Size
)

// boltFile is a bbolt file with a checksum of what it holds, which each transaction writes anew: without it a page of an earlier transaction that is still in the file could be taken
// for that of the last. Transactions of older versions, and of the libraries that this one takes the form of the file from, leave it as it is, with another number: then it is
// not looked at.
type boltFile struct {
	*bbolt.DB
	buckets []string
	// long is the bucket of which the checksum has the first and the last key only. Its values have their own.
	long string
}

// openBoltFile opens a file, after it has been found to be whole; until then nothing in it is changed. A file that is missing or empty is damage unless the directory is fresh.
func openBoltFile(path string, fresh bool, long string, buckets ...string) (*boltFile, error) {
	damaged := func(cause error) error { return &DamagedError{Path: path, Cause: cause} }
	flags := os.O_RDWR
	if fresh {
		flags |= os.O_CREATE
	}
	file, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged(errors.New("it is missing"))
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	found, err := inspect(file, fresh)
	if err == nil && !complete(found, buckets) && (!fresh || len(found) > 0) {
		err = damaged(fmt.Errorf("it has the buckets %q", found))
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		// A wait of zero would be for ever. The free list is rebuilt at open instead of being written with every entry.
		Timeout: lockWait, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
		// The lock stays with the file that was inspected.
		OpenFile: func(string, int, os.FileMode) (*os.File, error) { return file, nil },
	})
	if err != nil {
		return nil, boltError(path, err)
	}
	f := &boltFile{DB: db, buckets: buckets, long: long}
	if len(found) == 0 {
		err = f.Update(func(tx *bbolt.Tx) error {
			for _, b := range buckets {
				if _, err := tx.CreateBucket([]byte(b)); err != nil {
					return err
				}
			}
			return nil
		})
	} else if !f.sumMatches() {
		err = damaged(errors.New("its checksum does not match"))
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return f, nil
}

// complete reports whether a file has its buckets and no others. Those of older versions have no checksum.
func complete(found, buckets []string) bool {
	others := slices.DeleteFunc(slices.Clone(found), func(name string) bool { return name == sumBucket })
	return slices.Equal(others, slices.Sorted(slices.Values(buckets)))
}

// inspect locks a file and reads all of it.
func inspect(file *os.File, fresh bool) (buckets []string, err error) {
	for began := time.Now(); ; <-time.After(lockPoll) {
		held, err := flock(file)
		if held && time.Since(began) > lockWait {
			return nil, fmt.Errorf("open %s: %w", file.Name(), ErrInUse)
		}
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		if !held {
			break
		}
	}
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("open the log: %w", err)
	case info.Size() == 0 && fresh:
		return nil, nil
	case info.Size() == 0:
		return nil, &DamagedError{Path: file.Name(), Cause: errors.New("it is empty")}
	}
	buckets, err = checkPages(file, info.Size())
	if err != nil {
		return nil, &DamagedError{Path: file.Name(), Cause: err}
	}
	return buckets, nil
}

// Update changes the file. It must not delete from the long bucket.
func (f *boltFile) Update(change func(tx *bbolt.Tx) error) error { return f.update(change, f.ends) }

// update changes the file; ends is asked afterwards for the first and the last key of the long bucket.
func (f *boltFile) update(change func(tx *bbolt.Tx) error, ends func(tx *bbolt.Tx) (first, last []byte)) error {
	return f.DB.Update(func(tx *bbolt.Tx) error {
		if err := change(tx); err != nil {
			return err
		}
		sums, err := tx.CreateBucketIfNotExists([]byte(sumBucket))
		if err != nil {
			return err
		}
		first, last := ends(tx)
		return sums.Put([]byte(sumBucket), f.sum(tx, first, last))
	})
}

// ends are the first and the last key of the long bucket. The library may look for them without an end once something was deleted in the same transaction.
func (f *boltFile) ends(tx *bbolt.Tx) (first, last []byte) {
	if f.long == "" {
		return nil, nil
	}
	c := tx.Bucket([]byte(f.long)).Cursor()
	first, _ = c.First()
	last, _ = c.Last()
	return first, last
}

// get returns a copy of a value, or nil.
func (f *boltFile) get(bucket string, key []byte) (value []byte, err error) {
	err = f.View(func(tx *bbolt.Tx) error {
		value = slices.Clone(tx.Bucket([]byte(bucket)).Get(key))
		return nil
	})
	return value, err
}

func (f *boltFile) put(bucket string, key, value []byte) error {
	return f.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put(key, value) })
}

// sum is what sumBucket is to have.
func (f *boltFile) sum(tx *bbolt.Tx, first, last []byte) []byte {
	sum := crc32.New(castagnoli)
	for _, name := range f.buckets {
		if name == f.long {
			fmt.Fprintf(sum, "%q %q %q ", name, first, last)
			continue
		}
		c := tx.Bucket([]byte(name)).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			fmt.Fprintf(sum, "%q %q %q ", name, k, v)
		}
	}
	out := binary.BigEndian.AppendUint64(nil, uint64(tx.ID()))
	sum.Write(out)
	return sum.Sum(out)
}

func (f *boltFile) sumMatches() (matches bool) {
	err := f.View(func(tx *bbolt.Tx) error {
		sums := tx.Bucket([]byte(sumBucket))
		if sums == nil {
			matches = true
			return nil
		}
		first, last := f.ends(tx)
		has := sums.Get([]byte(sumBucket))
		matches = len(has) == sumBytes && (binary.BigEndian.Uint64(has) != uint64(tx.ID()) || bytes.Equal(has, f.sum(tx, first, last)))
		return nil
	})
	return err == nil && matches
}

// boltError says what an error of opening a bbolt file means.
func boltError(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("open %s: %w", path, ErrInUse)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch),
		strings.Contains(err.Error(), "file size too small"):
		return &DamagedError{Path: path, Cause: err}
	}
	return fmt.Errorf("open %s: %w", path, err)
}
