package raftstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// A written snapshot is a head, which says how long the state is, the state, and a checksum of both. The head has its own checksum: its length is believed before the end is seen.
const (
	writtenMagic   = "CONVRAFT"
	writtenVersion = 1
	writtenHead    = len(writtenMagic) + 4 + 8 + 8 + crc32.Size // magic, version, index, bytes of state, checksum
	// maxRestored bounds what a head may say: the log must go on behind the index.
	maxRestored = math.MaxInt64 / 2

	restorePattern = "restore-*" + unfinishedPaths
)

var writtenTable = crc64.MakeTable(crc64.ECMA)

func appendHead(index, size uint64) []byte {
	head := binary.BigEndian.AppendUint32([]byte(writtenMagic), writtenVersion)
	head = binary.BigEndian.AppendUint64(head, index)
	head = binary.BigEndian.AppendUint64(head, size)
	return binary.BigEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
}

// WriteSnapshot writes the state at one index to w, and returns that index: everything that was acknowledged before the call is in it, and nothing that is not committed. What it writes is
// for Restore, of this version or a later one, and has a length and checksums. Only the leader can; the others return ErrNotLeader. It takes a snapshot of this server's own for that, as
// Snapshot does; so it is refused while a change to the members is not committed, and succeeds after that. Proposals go on meanwhile. It blocks as w does, and returns when ctx ends between
// two writes. After an error what was written is no snapshot, and Restore says so.
func (s *Store) WriteSnapshot(ctx context.Context, w io.Writer) (index uint64, err error) {
	if err := s.Read(ctx); err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	future := s.raft.Snapshot()
	if err := s.await(ctx, future); err != nil {
		return 0, fmt.Errorf("write snapshot: %w", said(err))
	}
	meta, state, err := future.Open()
	if err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	err = writeFramed(ctx, w, meta, state)
	if err := errors.Join(err, state.Close()); err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	return meta.Index, nil
}

func writeFramed(ctx context.Context, w io.Writer, meta *raft.SnapshotMeta, state io.Reader) error {
	sum := crc64.New(writtenTable)
	out := io.MultiWriter(w, sum)
	if _, err := out.Write(appendHead(meta.Index, uint64(meta.Size))); err != nil {
		return err
	}
	n, err := io.Copy(out, untilEnd(ctx, state))
	if err != nil {
		return err
	}
	if n != meta.Size {
		return fmt.Errorf("the state has %d bytes and is said to have %d", n, meta.Size)
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

// reader is a function as an io.Reader.
type reader func(p []byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// untilEnd reads until ctx ends.
func untilEnd(ctx context.Context, r io.Reader) io.Reader {
	return reader(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	})
}

// Restore replaces the state of the whole cluster by one that WriteSnapshot wrote, and returns when a majority has it on stable storage. The members, the cluster's id and those of the servers
// stay, and indexes go on above both that of the snapshot and those of the log. It is meant for a cluster that was founded for it: what the cluster had is gone.
//
// r is read up to the end of the snapshot, into a file in the data directory, and all of it is checked before anything is touched: bytes that are not a whole snapshot are refused with
// ErrBadSnapshot. There must be room for two more of the state, or it is refused with a *LowDiskError. Only the leader can; the others return ErrNotLeader and read nothing of r. Concurrent
// calls are made one after the other. The others get the state as they do when they lag: by calls of Restore of their machines.
//
// Proposals under way have ErrUnknownOutcome, and are lost with the state that they changed; later ones change the new state.
//
// Errors other than ErrUnknownOutcome say that nothing was changed. A *HaltedError is one of them: the machine did not take the state, as one of another program. This server has to be opened
// again then. ErrUnknownOutcome says that ctx ended, while the restore goes on, or that this server lost leadership or was closed on the way. In a cluster of several it cannot know
// then whether the others have the new state, nor can it after a crash on the way: it fails, and Open refuses its directory with a *DamagedError, since what it has may be nobody else's. When
// other servers were lost together with it, they may differ too: found the cluster anew, in empty directories, and restore again.
func (s *Store) Restore(ctx context.Context, r io.Reader) error {
	if err := s.usable(); err != nil {
		return err
	}
	if !s.Leadership().Leader {
		return ErrNotLeader
	}
	state, err := s.spool(ctx, r)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	select {
	case s.restoring <- struct{}{}:
	case <-s.closing:
		return errors.Join(ErrClosed, state.discard())
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("restore: %w", context.Cause(ctx)), state.discard())
	}
	ended := make(chan error, 1)
	go func() { // ends with raft; Close waits for it
		defer func() { <-s.restoring }()
		ended <- errors.Join(s.restore(ctx, state), state.discard())
	}()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("restore: %w: %w", ErrUnknownOutcome, context.Cause(ctx))
	}
}

// restore makes one restore. Once raft has it, it does not end with ctx.
func (s *Store) restore(ctx context.Context, state *spooled) error {
	if err := s.Read(ctx); err != nil { // who only takes itself for the leader would have a state of its own
		return err
	}
	finished, err := s.finishedSnapshots()
	if err != nil {
		return err
	}
	if err := s.markRestore(true); err != nil {
		return err
	}
	restores := s.fsm.restores.Load()
	var undone atomic.Bool
	undo := func(id string) { undone.Store(s.undoRestore(id) == nil) }
	s.fsm.undo.Store(&undo)
	err = s.await(context.Background(), state.restoredBy(s.raft))
	s.fsm.undo.Store(nil)
	if err == nil {
		return s.markRestore(false)
	}
	if halted := s.fsm.halted.Load(); halted != nil && undone.Load() {
		return errors.Join(halted, s.markRestore(false))
	}
	now, listErr := s.finishedSnapshots()
	if !state.read.Load() || listErr == nil && slices.Equal(now, finished) && s.fsm.restores.Load() == restores {
		return errors.Join(said(err), s.markRestore(false))
	}
	if !s.alone {
		s.fail(restoreBegun(s.dir))
	}
	return err
}

// restoreBegun is why a server that led must not go on after a restore whose end it does not know.
func restoreBegun(dir string) error {
	return &DamagedError{Path: dir, Peers: true, Cause: errors.New("a restore of its state has begun and not ended: the other servers may not have what it has")}
}

// markRestore notes durably that a restore is under way, which the others may never hear of. Who is alone has nobody to differ from.
func (s *Store) markRestore(underWay bool) error {
	if s.alone {
		return nil
	}
	if err := s.self.update(func(id *identity) { id.Restoring = underWay }); err != nil {
		return fmt.Errorf("note that a restore is under way: %w", err)
	}
	return nil
}

// undoRestore removes the snapshot that the machine did not take, before anything follows from it: neither this server nor another one may go on from there. Raft would panic otherwise, and
// find the snapshot at each later start.
func (s *Store) undoRestore(id string) error {
	refused := fmt.Errorf("%w: the snapshot that was to be restored", ErrHalted)
	s.guard.broken.CompareAndSwap(nil, &refused)
	path := filepath.Join(s.dir, snapshotsDir, id)
	return errors.Join(s.trans.stop(), os.Rename(path, path+unfinishedPaths), syncDir(filepath.Dir(path)))
}

// finishedSnapshots are the names of those in the directory.
func (s *Store) finishedSnapshots() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, snapshotsDir))
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), unfinishedPaths) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// spooled is a state in a file, which is whole.
type spooled struct {
	file  *os.File
	index uint64
	size  uint64
	read  atomic.Bool
}

// Read is for raft, once.
func (p *spooled) Read(b []byte) (int, error) {
	p.read.Store(true)
	return p.file.Read(b)
}

// restored is the future of a restore.
type restored func() error

func (r restored) Error() error { return r() }

func (p *spooled) restoredBy(r *raft.Raft) raft.Future {
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: p.index, Size: int64(p.size)}
	return restored(func() error { return r.Restore(meta, p, 0) })
}

func (p *spooled) discard() error { return errors.Join(p.file.Close(), os.Remove(p.file.Name())) }

// spool copies a written snapshot into a file.
func (s *Store) spool(ctx context.Context, r io.Reader) (p *spooled, err error) {
	head := make([]byte, writtenHead)
	if err := readFull(ctx, r, head); err != nil {
		return nil, err
	}
	p = &spooled{index: binary.BigEndian.Uint64(head[len(writtenMagic)+4:]), size: binary.BigEndian.Uint64(head[len(writtenMagic)+12:])}
	switch version := binary.BigEndian.Uint32(head[len(writtenMagic):]); {
	case !strings.HasPrefix(string(head), writtenMagic):
		return nil, fmt.Errorf("%w: it begins otherwise", ErrBadSnapshot)
	case binary.BigEndian.Uint32(head[writtenHead-crc32.Size:]) != crc32.Checksum(head[:writtenHead-crc32.Size], castagnoli):
		return nil, fmt.Errorf("%w: the checksum of its head does not match", ErrBadSnapshot)
	case version != writtenVersion:
		return nil, fmt.Errorf("%w: its version %d is not known", ErrBadSnapshot, version)
	case p.index > maxRestored || p.size > maxRestored:
		return nil, fmt.Errorf("%w: it ends at index %d and has %d bytes", ErrBadSnapshot, p.index, p.size)
	}
	if free, total, known := volume(s.dir); known {
		if need := minFree(s.minFree, total) + 2*p.size; free < need {
			return nil, &LowDiskError{Server: s.ServerID(), Dir: s.dir, Free: free, Need: need}
		}
	}
	if p.file, err = os.CreateTemp(s.dir, restorePattern); err != nil {
		return nil, err
	}
	if err := p.fill(ctx, r, head); err != nil {
		return nil, errors.Join(err, p.discard())
	}
	return p, nil
}

// fill copies the state and holds it against the checksum.
func (p *spooled) fill(ctx context.Context, r io.Reader, head []byte) error {
	sum := crc64.New(writtenTable)
	sum.Write(head)
	switch n, err := io.Copy(io.MultiWriter(p.file, sum), io.LimitReader(untilEnd(ctx, r), int64(p.size))); {
	case err != nil:
		return err
	case uint64(n) < p.size:
		return fmt.Errorf("%w: it ends after %d bytes of %d", ErrBadSnapshot, n, p.size)
	}
	tail := make([]byte, crc64.Size)
	if err := readFull(ctx, r, tail); err != nil {
		return err
	}
	if binary.BigEndian.Uint64(tail) != sum.Sum64() {
		return fmt.Errorf("%w: its checksum does not match", ErrBadSnapshot)
	}
	_, err := p.file.Seek(0, io.SeekStart)
	return err
}

func readFull(ctx context.Context, r io.Reader, b []byte) error {
	_, err := io.ReadFull(untilEnd(ctx, r), b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut off", ErrBadSnapshot)
	}
	return err
}
