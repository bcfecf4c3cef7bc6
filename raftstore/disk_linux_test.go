package raftstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/raftstore"
)

const smallDisk = 48 << 20

// small mounts a disk that is soon full.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk)); err != nil {
		t.Skipf("a small file system cannot be mounted, which takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves so many bytes of the disk free, and returns what undoes that.
func fill(t *testing.T, dir string, leave uint64) (free func()) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "somebody-elses")
	if err := os.WriteFile(path, make([]byte, st.Bavail*uint64(st.Bsize)-leave), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStore_StopsProposalsBeforeTheDiskIsFullAndGoesOnByItself(t *testing.T) {
	eachLog(t, storeStopsProposalsBeforeTheDiskIsFullAndGoesOnByItself)
}

func storeStopsProposalsBeforeTheDiskIsFullAndGoesOnByItself(t *testing.T) {
	dir := small(t)
	j := &journal{}
	s, err := raftstore.Open(t.Context(), raftstore.Config{Dir: filepath.Join(dir, "raft"), ServerName: "1", MinFree: 8 << 20, Log: kindOf(t)}, j)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	propose := func() error { _, err := s.Propose(t.Context(), []byte("x")); return err }
	until(t, "it leads", func() bool { return propose() == nil })
	free := fill(t, dir, 4<<20)
	until(t, "proposals stop", func() bool { return errors.Is(propose(), raftstore.ErrLowDisk) })
	if err := propose(); !strings.Contains(err.Error(), "MiB are free in "+dir) {
		t.Errorf("it says: %v", err)
	}
	if err := s.Read(t.Context()); err != nil {
		t.Errorf("reads end too: %v", err)
	}
	free()
	until(t, "proposals go on", func() bool { return propose() == nil })
}

func TestStore_AFullDiskEndsItInOrderAndNothingAcknowledgedIsLost(t *testing.T) {
	eachLog(t, storeAFullDiskEndsItInOrderAndNothingAcknowledgedIsLost)
}

func storeAFullDiskEndsItInOrderAndNothingAcknowledgedIsLost(t *testing.T) {
	dir := small(t)
	open := func() (*raftstore.Store, *journal) {
		t.Helper()
		j := &journal{}
		s, err := raftstore.Open(t.Context(), raftstore.Config{Dir: filepath.Join(dir, "raft"), ServerName: "1", MinFree: -1, Log: kindOf(t)}, j)
		if err != nil {
			t.Fatal(err)
		}
		return s, j
	}
	s, _ := open()
	until(t, "it leads", func() bool { return s.Leadership().Leader })
	free := fill(t, dir, 64<<10)
	var acknowledged []string
	for i := 0; ; i++ {
		cmd := fmt.Sprintf("%d %s", i, strings.Repeat("x", 100<<10))
		if _, err := s.Propose(t.Context(), []byte(cmd)); err != nil {
			break
		}
		acknowledged = append(acknowledged, cmd)
	}
	select {
	case <-s.Failed():
	case <-time.After(30 * time.Second):
		t.Fatal("the store goes on after a write has failed")
	}
	if err := s.Err(); !errors.Is(err, raftstore.ErrDiskFailed) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("it failed with %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	free()
	s, j := open()
	defer s.Close()
	until(t, "it leads again", func() bool { return s.Leadership().Leader })
	for _, cmd := range acknowledged {
		if !slices.Contains(j.all(), cmd) {
			t.Errorf("command %.10s was acknowledged and is lost", cmd)
		}
	}
	if _, err := s.Propose(t.Context(), []byte("more")); err != nil {
		t.Errorf("after room was made: %v", err)
	}
}
