package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metadb"
)

// LogKind is how the log lies on the disk.
type LogKind string

// The kinds of log. Both hold what was acknowledged over a crash and a loss of power, and damage to what was written is refused when the store is opened.
const (
	// LogBolt is one file of bbolt, raft.db. Directories without a log get this one unless Config says otherwise.
	LogBolt LogKind = "bbolt"
	// LogWAL is a log of segments in the directory wal, which is written in order: commands are acknowledged in about half the time. It takes 16 MiB of the disk
	// from the beginning, and is there on systems with flock only. Other than with LogBolt, damage to the last batch alone is taken for a write that a crash interrupted.
	LogWAL LogKind = "wal"
)

// Validate reports a kind that there is none of; the empty kind means what the directory has, or LogBolt.
func (k LogKind) Validate() error {
	switch k {
	case "", LogBolt, LogWAL:
		return nil
	}
	return fmt.Errorf("%q is no kind of log: use %s or %s", string(k), LogBolt, LogWAL)
}

// persistent is what raft must not lose: its log, its term and its votes.
type persistent interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// logPath is where a log of a kind lies.
func logPath(dir string, kind LogKind) string {
	if kind == LogWAL {
		return filepath.Join(dir, walDir)
	}
	return filepath.Join(dir, boltName)
}

// hasLog reports whether there is a log of a kind, or something of one.
func hasLog(dir string, kind LogKind) (bool, error) {
	path := logPath(dir, kind)
	if kind == LogWAL {
		if parts, err := fs.Glob(os.DirFS(path), "*.wal"); err != nil || len(parts) > 0 {
			return true, err
		}
		path = filepath.Join(path, metadb.FileName)
	}
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// openLog opens the log, of which a directory has one, and returns where it lies. Its lock is what keeps a second process out. A fresh directory gets a log if it has none. Nothing
// is changed before ready, which is told the first and the last index, or zeros, agrees.
func openLog(dir string, kind LogKind, fresh bool, ready func(first, last uint64) error) (log persistent, path string, err error) {
	var has []LogKind
	for _, k := range []LogKind{LogBolt, LogWAL} {
		there, err := hasLog(dir, k)
		if err != nil {
			return nil, "", fmt.Errorf("look for the log: %w", err)
		}
		if there {
			has = append(has, k)
		}
	}
	switch {
	case len(has) > 1:
		return nil, "", &DamagedError{Path: dir, Cause: fmt.Errorf("it holds two logs, %s and %s", logPath(dir, LogBolt), logPath(dir, LogWAL))}
	case len(has) == 0 && !fresh:
		return nil, "", &DamagedError{Path: dir, Cause: errors.New("it has been in use, and its log is gone")}
	case len(has) == 1 && kind != "" && kind != has[0]:
		return nil, "", &OtherLogError{Dir: dir, Has: has[0], Wanted: kind}
	case len(has) == 1:
		kind = has[0]
	}
	path = logPath(dir, kind)
	if kind == LogWAL {
		log, err = openWAL(path, walSegment, fresh, ready)
	} else {
		log, err = openBolt(path, fresh, ready)
	}
	return log, path, err
}

// leaveBehind empties a log that ends before the snapshot of another server, or one that was restored, when what comes behind that is stored, and not before: then the
// snapshot is in place. What is before a hole is of no use, and whoever looks through the log would look for all that is not there. A crash between the two leaves an empty
// log behind a snapshot, which is a log.
func leaveBehind(log raft.LogStore, next uint64) error {
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	if last == 0 || next <= last+1 {
		return nil
	}
	return log.DeleteRange(0, last)
}

// checkLog reads what the library will read, so that damage is an error here and not a panic there.
func checkLog(path string, log persistent, snapshotIndex uint64) (err error) {
	damaged := func(cause error) error { return &DamagedError{Path: path, Cause: cause} }
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged(fmt.Errorf("%v", p))
		}
	}()
	first, err := log.FirstIndex()
	if err != nil {
		return damaged(err)
	}
	last, err := log.LastIndex()
	if err != nil {
		return damaged(err)
	}
	if last == 0 {
		// A follower that got a snapshot may have no log yet, but its term lies beside it.
		if term, err := log.GetUint64([]byte(termKey)); snapshotIndex > 0 && (err != nil || term == 0) {
			return damaged(errors.New("the log is empty behind a snapshot"))
		}
		return nil
	}
	// Also what lies behind the snapshot: it is kept for servers that lag, and would halt each that is sent it.
	for index := first; index <= last; index++ {
		var entry raft.Log
		err := log.GetLog(index, &entry)
		if errors.Is(err, raft.ErrLogNotFound) && index <= snapshotIndex {
			continue // an older version went on behind the snapshot of another server. An entry that has gone elsewhere is found there
		}
		if err != nil {
			return damaged(fmt.Errorf("log index %d: %w", index, err))
		}
		if entry.Index != index {
			return damaged(fmt.Errorf("log index %d holds the entry %d", index, entry.Index))
		}
		if err := checkEntry(&entry); err != nil {
			return damaged(fmt.Errorf("log index %d: %w", index, err))
		}
	}
	return nil
}

// checkConfiguration reports whether raft can read a list of members, which it takes for granted.
func checkConfiguration(data []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("its list of members cannot be read: %v", r)
		}
	}()
	raft.DecodeConfiguration(data)
	return nil
}

// checkEntry checks what an entry holds against its kind, which is written beside it.
func checkEntry(entry *raft.Log) error {
	switch entry.Type {
	case raft.LogCommand:
		_, err := unseal(entry.Data)
		return err
	case raft.LogConfiguration:
		return checkConfiguration(entry.Data)
	case raft.LogNoop, raft.LogBarrier:
		if len(entry.Data) > 0 {
			return errors.New("it is to be empty and is not")
		}
		return nil
	default:
		return fmt.Errorf("its kind %d is not known", entry.Type)
	}
}
