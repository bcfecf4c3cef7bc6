package raftstore

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	snapshotsDir    = "snapshots"
	snapshotsKept   = 3
	unfinishedPaths = ".tmp"

	// The library writes a description of each snapshot, where it ends and who the members were, which has the checksum of the state and none of its own. That is in sumFile.
	metaFile = "meta.json"
	sumFile  = "sum"
)

// errNoDescription says that the library passes over a snapshot. It also does so over one that it has begun to remove.
var errNoDescription = errors.New("its description cannot be read")

// openSnapshots opens the snapshots and checks the newest one; index is where it ends. It changes nothing but that the directory of snapshots is made.
func openSnapshots(dir string, logger hclog.Logger) (snapshots raft.SnapshotStore, index uint64, err error) {
	path := filepath.Join(dir, snapshotsDir)
	store, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, logger)
	if err != nil {
		return nil, 0, fmt.Errorf("open snapshots: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, 0, fmt.Errorf("open snapshots: %w", err)
	}
	listed, err := store.List()
	if err != nil {
		return nil, 0, fmt.Errorf("list snapshots: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), unfinishedPaths) {
			continue
		}
		err := checkDescription(filepath.Join(path, e.Name()))
		if errors.Is(err, errNoDescription) && newer(listed, e.Name()) >= snapshotsKept {
			continue
		}
		// The library would sort it by what it says of itself, or pass over it, and take another one for the newest.
		if err != nil {
			return nil, 0, &DamagedError{Path: filepath.Join(path, e.Name()), Cause: err}
		}
	}
	snapshots = snapshotStore{store, path}
	index, err = checkNewestSnapshot(path, snapshots, listed)
	if err != nil {
		return nil, 0, err
	}
	return snapshots, index, nil
}

// newer counts the snapshots that are newer than the one in a directory of the name.
func newer(listed []*raft.SnapshotMeta, name string) (n int) {
	var term, index, millis uint64
	_, _ = fmt.Sscanf(name, "%d-%d-%d", &term, &index, &millis) // another name is older than all
	for _, s := range listed {
		if cmp.Or(cmp.Compare(s.Term, term), cmp.Compare(s.Index, index), cmp.Compare(s.ID, name)) > 0 {
			n++
		}
	}
	return n
}

// description is what metaFile holds.
type description struct {
	raft.SnapshotMeta
	CRC []byte
}

// checkDescription reports whether the description of a snapshot is the one that was written. Earlier versions wrote no checksum: of their descriptions, the name of the directory has the
// part that says what comes behind.
func checkDescription(path string) error {
	data, err := os.ReadFile(filepath.Join(path, metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return errNoDescription
	}
	if err != nil {
		return fmt.Errorf("read its description: %w", err)
	}
	sum, err := os.ReadFile(filepath.Join(path, sumFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read the checksum of its description: %w", err)
	case !bytes.Equal(sum, descriptionSum(data)):
		return errors.New("its description does not match the checksum of that")
	}
	var d description
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&d); err != nil {
		return fmt.Errorf("%w: %w", errNoDescription, err)
	}
	if d.Version < raft.SnapshotVersionMin || d.Version > raft.SnapshotVersionMax {
		return fmt.Errorf("%w: its version %d is not known", errNoDescription, d.Version)
	}
	if name := filepath.Base(path); d.ID != name || !strings.HasPrefix(name, fmt.Sprintf("%d-%d-", d.Term, d.Index)) {
		return fmt.Errorf("it describes the snapshot %q of term %d that ends at index %d", d.ID, d.Term, d.Index)
	}
	return nil
}

// descriptionSum is what sumFile holds.
func descriptionSum(meta []byte) []byte {
	return fmt.Appendf(nil, "1 %08x\n", crc32.Checksum(meta, castagnoli))
}

// removeUnfinished removes what a crash interrupted, which the library leaves behind, and which can be large.
func removeUnfinished(dir string) error {
	unfinished, err := fs.Glob(os.DirFS(dir), snapshotsDir+"/*"+unfinishedPaths)
	if err != nil {
		return fmt.Errorf("remove an unfinished snapshot: %w", err)
	}
	unread, err := fs.Glob(os.DirFS(dir), restorePattern)
	if err != nil {
		return fmt.Errorf("remove a snapshot that was to be restored: %w", err)
	}
	for _, name := range append(unfinished, unread...) {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("remove an unfinished snapshot: %w", err)
		}
	}
	return nil
}

// checkNewestSnapshot reads the newest snapshot, and returns where it ends.
func checkNewestSnapshot(path string, store raft.SnapshotStore, listed []*raft.SnapshotMeta) (index uint64, err error) {
	if len(listed) == 0 {
		return 0, nil
	}
	_, r, err := store.Open(listed[0].ID)
	if err != nil {
		return 0, &DamagedError{Path: filepath.Join(path, listed[0].ID), Cause: err}
	}
	if err := r.Close(); err != nil {
		return 0, fmt.Errorf("close snapshot: %w", err)
	}
	return listed[0].Index, nil
}

// described is a snapshot that says where it ends and who the members were then, which the library tells nobody who restores it.
type described struct {
	io.ReadCloser
	meta *raft.SnapshotMeta
}

// snapshotStore is the library's, with descriptions that have checksums.
type snapshotStore struct {
	raft.SnapshotStore
	path string
}

// Open implements raft.SnapshotStore.
func (s snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	path := filepath.Join(s.path, id)
	if err := checkDescription(path); err != nil {
		return nil, nil, &DamagedError{Path: path, Cause: err}
	}
	meta, r, err := s.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, described{r, meta}, nil
}

// soundSnapshots are the snapshots of a server of several that is open. It fails when one cannot be read: a leader that has no snapshot for those that are behind its log would lead on, and they
// would never catch up. Others have what it has.
type soundSnapshots struct {
	raft.SnapshotStore
	path string
	fail func(error)
}

// Open implements raft.SnapshotStore.
func (s soundSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.SnapshotStore.Open(id)
	// One that was removed meanwhile is no loss, and a process that has too many files open says nothing of this one.
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return meta, r, err
	}
	damaged := &DamagedError{Path: filepath.Join(s.path, id), Peers: true, Cause: err}
	s.fail(damaged)
	return nil, nil, damaged
}

// Create implements raft.SnapshotStore. Snapshots of this server and those that another one sends are both written so.
func (s snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, members, membersIndex, trans)
	if err != nil {
		return nil, err
	}
	return &snapshotSink{SnapshotSink: sink, path: filepath.Join(s.path, sink.ID()+unfinishedPaths), crc: crc64.New(crc64.MakeTable(crc64.ECMA))}, nil
}

// snapshotSink writes a snapshot. The library finishes one by writing its description and renaming its directory, in one call. The checksum must be on the disk before that: a crash leaves
// an unfinished directory, which is removed, or one that has all of it. So it is made of the description that is going to be written.
type snapshotSink struct {
	raft.SnapshotSink
	path  string // until it is finished
	size  int64
	crc   hash.Hash64
	ended bool
}

// Write implements raft.SnapshotSink.
func (s *snapshotSink) Write(p []byte) (int, error) {
	n, err := s.SnapshotSink.Write(p)
	s.size += int64(n)
	s.crc.Write(p[:n])
	return n, err
}

// Close implements raft.SnapshotSink. Raft calls it again, and Cancel too.
func (s *snapshotSink) Close() error {
	if s.ended {
		return nil
	}
	s.ended = true
	if err := s.writeSum(); err != nil {
		return errors.Join(fmt.Errorf("write the checksum of a snapshot: %w", err), s.SnapshotSink.Cancel())
	}
	return s.SnapshotSink.Close()
}

// Cancel implements raft.SnapshotSink.
func (s *snapshotSink) Cancel() error {
	s.ended = true
	return s.SnapshotSink.Cancel()
}

// writeSum writes the checksum of the description that the library began with, and will complete so.
func (s *snapshotSink) writeSum() error {
	begun, err := os.ReadFile(filepath.Join(s.path, metaFile))
	if err != nil {
		return err
	}
	var d description
	if err := json.Unmarshal(begun, &d); err != nil {
		return err
	}
	d.Size, d.CRC = s.size, s.crc.Sum(nil)
	var meta bytes.Buffer
	if err := json.NewEncoder(&meta).Encode(d); err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(s.path, sumFile), descriptionSum(meta.Bytes())); err != nil {
		return err
	}
	return syncDir(s.path) // the library only syncs the one that it renames this one in
}

// metaOf describes a snapshot that a snapshotStore opened.
func metaOf(r io.ReadCloser) *raft.SnapshotMeta {
	for {
		switch wrapped := r.(type) {
		case described:
			return wrapped.meta
		case interface{ WrappedReadCloser() io.ReadCloser }: // the library counts what is read
			r = wrapped.WrappedReadCloser()
		default:
			return &raft.SnapshotMeta{}
		}
	}
}
