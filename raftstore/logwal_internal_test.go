package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
)

// openSmallWAL opens a WAL with small segments.
func openSmallWAL(dir string) (persistent, error) {
	return openWAL(dir, 4096, true, func(_, _ uint64) error { return nil })
}

// TestLog_IsOneWhateverIsDoneToIt compares each kind with a list: batches are stored, either end is deleted, a gap is left behind a snapshot, and the process ends at any moment, in
// order or not. Segments are small, so that all of that meets their ends.
func TestLog_IsOneWhateverIsDoneToIt(t *testing.T) {
	openSmallBolt := func(dir string) (persistent, error) {
		return openBolt(filepath.Join(dir, boltName), true, func(_, _ uint64) error { return nil })
	}
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("wal/", seed), func(t *testing.T) { isALog(t, seed, openSmallWAL) })
		t.Run(fmt.Sprint("bbolt/", seed), func(t *testing.T) { isALog(t, seed, openSmallBolt) })
	}
}

func isALog(t *testing.T, seed uint64, open func(dir string) (persistent, error)) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	log, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	var want []raft.Log
	term, next := uint64(1), uint64(1)
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for step := range 300 {
		switch r.IntN(10) {
		default:
			var batch []*raft.Log
			for range 1 + r.IntN(4) {
				l := raft.Log{Index: next, Term: term, Type: raft.LogCommand, Data: seal([]byte(fmt.Sprint(step, strings.Repeat("x", r.IntN(1200)))))}
				want, batch, next = append(want, l), append(batch, &l), next+1
			}
			do("store", log.StoreLogs(batch))
		case 0: // another leader has other entries
			if len(want) == 0 {
				continue
			}
			from := len(want) - 1 - r.IntN(min(len(want), 12))
			do("delete the end", log.DeleteRange(want[from].Index, want[len(want)-1].Index))
			next, want = want[from].Index, want[:from]
			term++
		case 1: // a snapshot was taken
			if len(want) < 2 {
				continue
			}
			upTo := r.IntN(len(want) - 1)
			do("delete the beginning", log.DeleteRange(want[0].Index, want[upTo].Index))
			want = want[upTo+1:]
		case 2:
			if _, isWAL := log.(*walLog); isWAL && r.IntN(8) == 0 { // a snapshot was received, and what follows it is stored
				next, want = next+uint64(1+r.IntN(100)), nil
			}
		case 3:
			do("set", log.SetUint64([]byte("CurrentTerm"), term))
			do("close", log.Close())
			log, err = open(dir)
			do("open again", err)
		case 4: // what the disk has when the process is killed now
			if l, isWAL := log.(*walLog); isWAL {
				do("settle", l.files.settled()) // the copy is not made at one moment
			}
			copied := filepath.Join(t.TempDir(), "log")
			do("copy", os.CopyFS(copied, os.DirFS(dir)))
			do("close", log.Close())
			dir = copied
			log, err = open(dir)
			do("open what a killed process left", err)
		}
		check(t, step, log, want)
	}
}

func TestWAL_DamageIsFoundBeforeAnythingIsMended(t *testing.T) {
	dir := t.TempDir()
	log, err := openSmallWAL(dir)
	if err != nil {
		t.Fatal(err)
	}
	store := func(first, last, term uint64) {
		t.Helper()
		for i := first; i <= last; i++ {
			if err := log.StoreLog(&raft.Log{Index: i, Term: term, Data: seal([]byte(fmt.Sprintf("entry-%d-%d-%s", term, i, strings.Repeat("x", 100))))}); err != nil {
				t.Fatal(err)
			}
		}
	}
	store(1, 10, 1)
	if err := log.DeleteRange(6, 10); err != nil { // leaves a segment to mend
		t.Fatal(err)
	}
	store(6, 12, 2)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) != 2 {
		t.Fatalf("segments: %v, %v", files, err)
	}
	damaged, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	damaged[bytes.Index(damaged, []byte("entry-2-8"))] ^= 1
	if err := os.WriteFile(files[1], damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	read := func() (all []byte) {
		t.Helper()
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, data...)
		}
		return all
	}
	before := read()
	if _, err := openSmallWAL(dir); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v", err)
	}
	if !bytes.Equal(before, read()) {
		t.Error("a segment was changed although another one is damaged")
	}
}

func check(t *testing.T, step int, log persistent, want []raft.Log) {
	t.Helper()
	if len(want) == 0 {
		return // what was there before a snapshot that was received stays until something follows
	}
	first, err := log.FirstIndex()
	if err != nil || first != want[0].Index {
		t.Fatalf("step %d: the first index is %d (%v), want %d", step, first, err, want[0].Index)
	}
	last, err := log.LastIndex()
	if err != nil || last != want[len(want)-1].Index {
		t.Fatalf("step %d: the last index is %d (%v), want %d", step, last, err, want[len(want)-1].Index)
	}
	for _, w := range want {
		var got raft.Log
		if err := log.GetLog(w.Index, &got); err != nil || got.Index != w.Index || got.Term != w.Term || string(got.Data) != string(w.Data) {
			t.Fatalf("step %d: index %d: %v, term %d, %d bytes", step, w.Index, err, got.Term, len(got.Data))
		}
	}
}

func TestWAL_ASegmentThatCannotBeMadeHoldsNobodyUp(t *testing.T) {
	s := &segments{filled: make(chan struct{})}
	meta, err := openWALMeta(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	// The disk fails when the library notes the next segment.
	broken := contents{meta, s}
	if err := meta.Close(); err != nil {
		t.Fatal(err)
	}
	if err := broken.CommitState(types.PersistentState{}); err == nil {
		t.Fatal("a closed file takes it")
	}
	if err := s.settled(); err == nil {
		t.Error("nothing is said of the failure")
	}
}
