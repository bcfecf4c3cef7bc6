package raftstore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/raftstore"
)

// eachLog runs a test with each kind of log, which helpers find in the test's name.
func eachLog(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	for _, kind := range []raftstore.LogKind{raftstore.LogBolt, raftstore.LogWAL} {
		t.Run(string(kind), test)
	}
}

// kindOf is the kind of log of a test that runs under eachLog, or none.
func kindOf(t testing.TB) raftstore.LogKind {
	for part := range strings.SplitSeq(t.Name(), "/") {
		if kind := raftstore.LogKind(part); kind == raftstore.LogBolt || kind == raftstore.LogWAL {
			return kind
		}
	}
	return ""
}

func TestOpen_AnotherKindOfLogThanThereIsIsRefused(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		dir, has := t.TempDir(), kindOf(t)
		s := open(t, dir, &journal{})
		propose(t, s, "precious")
		s.Close()
		other := map[raftstore.LogKind]raftstore.LogKind{raftstore.LogBolt: raftstore.LogWAL, raftstore.LogWAL: raftstore.LogBolt}[has]
		_, err := raftstore.Open(t.Context(), raftstore.Config{Dir: dir, ServerName: "1", Log: other}, &journal{})
		if otherLog := (*raftstore.OtherLogError)(nil); !errors.As(err, &otherLog) || otherLog.Has != has || !strings.Contains(err.Error(), "add the server again") {
			t.Errorf("got %v", err)
		}
		j := &journal{}
		s, err = raftstore.Open(t.Context(), raftstore.Config{Dir: dir, ServerName: "1"}, j)
		if err != nil {
			t.Fatalf("as it is: %v", err)
		}
		defer s.Close()
		lead(t, s)
		if got := j.all(); len(got) != 1 {
			t.Errorf("commands %q", got)
		}
	})
	if _, err := raftstore.Open(t.Context(), raftstore.Config{Dir: t.TempDir(), ServerName: "1", Log: "paper"}, &journal{}); err == nil || !strings.Contains(err.Error(), "bbolt or wal") {
		t.Errorf("an unknown kind: %v", err)
	}
}

func TestOpen_RefusesTwoLogs(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, &journal{})
	propose(t, s, "precious")
	s.Close()
	if err := os.Mkdir(filepath.Join(dir, "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "wal", "wal-meta.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, raftstore.ErrDamaged)
}

// segments are the files of a WAL, the oldest first.
func segments(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("segments: %v %v", files, err)
	}
	return files
}

// rewrite changes a file in place.
func rewrite(t *testing.T, path string, change func(data []byte)) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(data)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// An entry behind the snapshot is kept for servers that lag: it would halt each that is sent it, while this one never reads it again.
func TestOpen_RefusesDamageInAnEntryBehindTheSnapshot(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir, &journal{})
		propose(t, s, "precious-old")
		propose(t, s, "later")
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
		propose(t, s, "latest")
		s.Close()
		files := []string{filepath.Join(dir, "raft.db")}
		if kindOf(t) == raftstore.LogWAL {
			files = segments(t, dir)
		}
		rewrite(t, files[0], func(data []byte) {
			for at := bytes.Index(data, []byte("precious-old")); at >= 0; at = bytes.Index(data, []byte("precious-old")) {
				data[at+3] ^= 1 // bbolt's pages have copies of it that count no more
			}
		})
		refused(t, dir, raftstore.ErrDamaged)
	})
}

// The library would drop all that follows the damage, as if a crash had interrupted the writing there.
func TestWAL_DamageBetweenWhatWasWrittenIsRefused(t *testing.T) {
	for name, damage := range map[string]func(data []byte, at int){
		"a flipped bit in a command":    func(data []byte, at int) { data[at+3] ^= 1 },
		"a flipped bit in a header":     func(data []byte, at int) { data[headerBefore(data, at)] ^= 4 },
		"a length that leads elsewhere": func(data []byte, at int) { data[headerBefore(data, at)+5] ^= 1 },
		"a hole":                        func(data []byte, at int) { clear(data[at&^511 : at&^511+512]) },
		"a hole before the last": func(data []byte, _ int) {
			at := bytes.Index(data, []byte("precious-49"))
			clear(data[headerBefore(data, at)-16 : headerBefore(data, at)])
		},
		"the beginning is gone": func(data []byte, _ int) { clear(data[:4096]) },
	} {
		t.Run(name+"/wal", func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, &journal{})
			for i := range 50 {
				propose(t, s, fmt.Sprintf("precious-%02d-%s", i, strings.Repeat("x", 400)))
			}
			s.Close()
			tail := segments(t, dir)[0]
			rewrite(t, tail, func(data []byte) { damage(data, bytes.Index(data, []byte("precious-20"))) })
			before, err := os.ReadFile(tail)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, dir, raftstore.ErrDamaged)
			refused(t, dir, raftstore.ErrDamaged)
			if after, err := os.ReadFile(tail); err != nil || !bytes.Equal(before, after) {
				t.Errorf("the segment was changed: %v", err)
			}
		})
	}
}

func TestWAL_WithoutItsContentsIsRefusedAndStays(t *testing.T) {
	t.Run("wal", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir, &journal{})
		propose(t, s, "precious")
		s.Close()
		meta := filepath.Join(dir, "wal", "wal-meta.db")
		if err := os.Rename(meta, meta+".away"); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, raftstore.ErrDamaged)
		refused(t, dir, raftstore.ErrDamaged)
		if err := os.Rename(meta+".away", meta); err != nil {
			t.Fatal(err)
		}
		j := &journal{}
		open(t, dir, j)
		if got := j.all(); len(got) != 1 {
			t.Errorf("commands %q", got)
		}
	})
}

// headerBefore is where the frame begins that has the command at an offset: its length covers it.
func headerBefore(data []byte, at int) int {
	for i := at &^ 7; ; i -= 8 {
		if data[i] == 1 && data[i+1]|data[i+2]|data[i+3] == 0 {
			if n := int(binary.LittleEndian.Uint32(data[i+4:])); n > at-i && n < 1<<20 {
				return i
			}
		}
	}
}

// A batch is acknowledged when it is flushed. One that was not is no damage, whatever of it reached the disk, and what is written in its place counts.
func TestWAL_AWriteThatACrashInterruptedIsNoDamage(t *testing.T) {
	for name, tear := range map[string]func(data []byte, at, end int){
		"only its beginning is there":  func(data []byte, at, end int) { clear(data[at+100 : end]) },
		"its beginning is missing":     func(data []byte, at, _ int) { clear(data[headerBefore(data, at) : at&^511+512]) },
		"nothing but its end is there": func(data []byte, at, end int) { clear(data[headerBefore(data, at) : end-8]) },
		"a sector is missing":          func(data []byte, at, _ int) { clear(data[at&^511+1024 : at&^511+1536]) },
	} {
		t.Run(name+"/wal", func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, &journal{})
			propose(t, s, "first-"+strings.Repeat("x", 8192))
			propose(t, s, "last-"+strings.Repeat("y", 8192))
			s.Close()
			rewrite(t, segments(t, dir)[0], func(data []byte) {
				at := bytes.Index(data, []byte("last-"))
				end := (bytes.LastIndex(data, []byte("yyyy"))+4+7)&^7 + 8
				for data[end-8] != 3 {
					end += 8
				}
				tear(data, at, end)
			})
			goesOn(t, dir, 1)
		})
	}
}

func TestWAL_ManySegmentsHoldTheLogOverSnapshotsAndRestarts(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for round := range 3 {
		j := &journal{}
		s, err := raftstore.Open(t.Context(), raftstore.Config{Dir: dir, ServerName: "1", Log: raftstore.LogWAL, SnapshotThreshold: 40, TrailingLogs: 1}, j)
		if err != nil {
			t.Fatal(err)
		}
		lead(t, s)
		if got := j.all(); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("round %d: %d commands, want %d", round, len(got), len(want))
		}
		for i := range 100 {
			cmd := fmt.Sprintf("%d-%d-%s", round, i, strings.Repeat("x", 300<<10))
			propose(t, s, cmd)
			want = append(want, cmd)
		}
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	// Those behind the snapshots are gone: 90 MiB were written, 120 commands of 300 kB stay.
	deadline := time.Now().Add(30 * time.Second)
	for len(segments(t, dir)) > 5 && time.Now().Before(deadline) {
		<-time.After(10 * time.Millisecond)
	}
	if got := segments(t, dir); len(got) > 5 {
		t.Errorf("%d segments of 16 MiB", len(got))
	}
}
