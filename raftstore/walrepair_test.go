package raftstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"

	"github.com/conveyor-etl/conveyor/raftstore"
)

// fill proposes large commands until a segment is full, and returns how many.
func fillSegment(t *testing.T, dir string) (commands int) {
	t.Helper()
	s := open(t, dir, &journal{})
	for len(segments(t, dir)) == 1 {
		propose(t, s, fmt.Sprintf("precious-%03d-%s", commands, strings.Repeat("x", 300<<10)))
		commands++
		if commands > 100 {
			t.Fatal("the segment does not become full")
		}
		until(t, "the segment is closed if it is full", func() bool { return len(segments(t, dir)) > 1 || !full(t, dir) })
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return commands
}

// full reports whether the first segment has been filled: then its last frames are an index and a commit.
func full(t *testing.T, dir string) bool {
	t.Helper()
	info, err := os.Stat(segments(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	return info.Size() > 16<<20
}

// unrotate takes back what the library does after a segment was filled, as if the process had ended before.
func unrotate(t *testing.T, dir string) (path string) {
	t.Helper()
	meta := &metadb.BoltMetaDB{}
	state, err := meta.Load(filepath.Join(dir, "wal"))
	if err != nil {
		t.Fatal(err)
	}
	n := len(state.Segments)
	path = filepath.Join(dir, "wal", segment.FileName(state.Segments[n-2]))
	if err := os.Remove(filepath.Join(dir, "wal", segment.FileName(state.Segments[n-1]))); err != nil {
		t.Fatal(err)
	}
	state.Segments = state.Segments[:n-1]
	last := &state.Segments[n-2]
	last.SealTime, last.IndexStart, last.MaxIndex = time.Time{}, 0, 0
	state.NextSegmentID--
	if err := meta.CommitState(state); err != nil {
		t.Fatal(err)
	}
	if err := meta.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// goesOn opens a store several times, each time with the commands that were there and one more.
func goesOn(t *testing.T, dir string, commands int) {
	t.Helper()
	for range 3 {
		j := &journal{}
		s := open(t, dir, j)
		if got := len(j.all()); got != commands {
			t.Fatalf("%d commands, want %d", got, commands)
		}
		propose(t, s, "more")
		commands++
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWAL_AProcessThatEndsWhenASegmentIsFullGoesOnAfterwards(t *testing.T) {
	t.Run("wal", func(t *testing.T) {
		dir := t.TempDir()
		commands := fillSegment(t, dir)
		unrotate(t, dir)
		goesOn(t, dir, commands)
	})
}

func TestWAL_ACrashWhileASegmentIsFilledIsNoDamage(t *testing.T) {
	t.Run("wal", func(t *testing.T) {
		dir := t.TempDir()
		commands := fillSegment(t, dir)
		rewrite(t, unrotate(t, dir), func(data []byte) {
			end := len(bytes.TrimRight(data, "\x00"))
			clear(data[(end-1)&^7 : end]) // the commit of the batch that filled it
		})
		goesOn(t, dir, commands-1)
	})
}

func TestWAL_DamageInAnOlderSegmentIsRefused(t *testing.T) {
	for name, damage := range map[string]func(data []byte, at int){
		"a flipped bit in a command":        func(data []byte, at int) { data[at+3] ^= 1 },
		"a flipped bit in a command's kind": func(data []byte, at int) { data[headerBefore(data, at)+8+2] ^= 1 },
		"a hole":                            func(data []byte, at int) { clear(data[at&^511 : at&^511+512]) },
		"a flipped bit in an entry's term":  func(data []byte, at int) { data[headerBefore(data, at)+8+1] ^= 4 },
	} {
		t.Run(name+"/wal", func(t *testing.T) {
			dir := t.TempDir()
			fillSegment(t, dir)
			rewrite(t, segments(t, dir)[0], func(data []byte) { damage(data, bytes.Index(data, []byte("precious-010"))) })
			refused(t, dir, raftstore.ErrDamaged)
		})
	}
	t.Run("it is gone/wal", func(t *testing.T) {
		dir := t.TempDir()
		fillSegment(t, dir)
		if err := os.Remove(segments(t, dir)[0]); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, raftstore.ErrDamaged)
	})
}

// The checksum of nothing is 0: what an unfinished batch left may look like the commit of an empty one, and the library would go on behind it.
func TestWAL_WhatAnUnfinishedBatchLeftIsNotTakenForSomething(t *testing.T) {
	t.Run("wal", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir, &journal{})
		propose(t, s, "precious")
		s.Close()
		rewrite(t, segments(t, dir)[0], func(data []byte) {
			end := (len(bytes.TrimRight(data, "\x00")) + 7) &^ 7
			copy(data[end:], []byte{3, 0, 0, 0, 0, 0, 0, 0, 'l', 'e', 'f', 't'})
		})
		goesOn(t, dir, 1)
	})
}

// A snapshot that another server sent is there before the log is emptied, which it does not go on from.
func TestStore_AServerThatEndsBetweenASnapshotAndItsLogGoesOn(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		dir := t.TempDir()
		early, late := filepath.Join(dir, "early"), filepath.Join(dir, "late")
		s := open(t, late, &journal{})
		propose(t, s, "first")
		s.Close()
		if err := os.CopyFS(early, os.DirFS(late)); err != nil {
			t.Fatal(err)
		}
		s = open(t, late, &journal{})
		for i := range 50 {
			propose(t, s, fmt.Sprint(i))
		}
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if err := os.CopyFS(filepath.Join(early, "snapshots"), os.DirFS(filepath.Join(late, "snapshots"))); err != nil {
			t.Fatal(err)
		}
		goesOn(t, early, 51)
	})
}

// The name of a segment is on the disk before its room is, and neither counts before something was written.
func TestWAL_ACrashWhileASegmentIsMadeIsNoDamage(t *testing.T) {
	for name, crash := range map[string]func(path string) error{
		"it is missing":   os.Remove,
		"it is empty":     func(path string) error { return os.Truncate(path, 0) },
		"it is too short": func(path string) error { return os.Truncate(path, 5000) },
	} {
		t.Run(name+"/wal", func(t *testing.T) {
			dir := t.TempDir()
			commands := fillSegment(t, dir)
			if err := crash(segments(t, dir)[1]); err != nil {
				t.Fatal(err)
			}
			goesOn(t, dir, commands)
			if info, err := os.Stat(segments(t, dir)[1]); err != nil || info.Size() < 16<<20 {
				t.Errorf("its room is not reserved: %v %v", info, err)
			}
		})
	}
}

func TestWAL_ANewestSegmentThatWasInUseIsMissed(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"it is missing":   os.Remove,
		"it is empty":     func(path string) error { return os.Truncate(path, 0) },
		"it is too short": func(path string) error { return os.Truncate(path, 1_000_000) },
		"it has nothing":  func(path string) error { return errors.Join(os.Truncate(path, 0), os.Truncate(path, 16<<20)) },
	} {
		t.Run(name+"/wal", func(t *testing.T) {
			dir := t.TempDir()
			commands := fillSegment(t, dir)
			goesOn(t, dir, commands)
			before := segments(t, dir)
			if err := damage(before[1]); err != nil {
				t.Fatal(err)
			}
			refused(t, dir, raftstore.ErrDamaged)
			refused(t, dir, raftstore.ErrDamaged)
		})
	}
}
