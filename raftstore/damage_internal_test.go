package raftstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/hashicorp/raft-wal/metadb"
	"go.etcd.io/bbolt"
)

// smallPages makes a file of bbolt with pages of 1 KiB, so that it has many.
func smallPages(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 1024})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// history is written to a log: entries, others in their place, some deleted, terms and votes.
func history(t *testing.T, log persistent) {
	t.Helper()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := time.Unix(1_700_000_000, 0).UTC()
	store := func(first, last, term uint64) {
		for i := first; i <= last; i++ {
			do(log.StoreLog(&raft.Log{Index: i, Term: term, Data: seal([]byte(fmt.Sprintf("%d-%d-%s", term, i, strings.Repeat("x", 150)))), AppendedAt: at}))
		}
	}
	do(log.SetUint64([]byte(termKey), 5))
	store(1, 14, 5)
	do(log.DeleteRange(11, 14))
	do(log.SetUint64([]byte(termKey), 6))
	do(log.SetUint64([]byte("LastVoteTerm"), 6))
	do(log.Set([]byte("LastVoteCand"), []byte("2-8f2e7a01")))
	store(11, 17, 6)
	do(log.DeleteRange(1, 3))
}

// content is all that a log holds, as text.
func content(log persistent) (lines []string, err error) {
	term, err := log.GetUint64([]byte(termKey))
	if err != nil {
		return nil, err
	}
	vote, err := log.GetUint64([]byte("LastVoteTerm"))
	if err != nil {
		return nil, err
	}
	cand, err := log.Get([]byte("LastVoteCand"))
	if err != nil {
		return nil, err
	}
	lines = append(lines, fmt.Sprintf("term %d, vote %d for %q", term, vote, cand))
	first, err := log.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := log.LastIndex()
	for i := first; err == nil && i <= last; i++ {
		var l raft.Log
		if err = log.GetLog(i, &l); err == nil {
			lines = append(lines, fmt.Sprintf("%d %d %d %q %q %v", l.Index, l.Term, l.Type, l.Data, l.Extensions, l.AppendedAt.UTC()))
		}
	}
	return lines, err
}

// directory is what the files of a directory hold.
func directory(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = data
	}
	return files
}

func same(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for name, data := range a {
		if other, ok := b[name]; !ok || !bytes.Equal(data, other) {
			return false
		}
	}
	return true
}

// contentOf reads a log that is opened for it. Its error is that of open.
func contentOf(t *testing.T, open func() (persistent, error)) func() ([]string, error) {
	return func() ([]string, error) {
		log, err := open()
		if err != nil {
			return nil, err
		}
		lines, err := content(log)
		if err := errors.Join(err, log.Close()); err != nil {
			t.Errorf("opened, and then: %v", err)
		}
		return lines, nil
	}
}

// damages reads what is in a directory with each byte of each of its files changed, and with each file cut off at each length. It must be refused and left as it is, or hold what it held.
// lost says of how many lines at the end that need not be noticed.
func damages(t *testing.T, dir string, read func() ([]string, error), lost func(file string, at int) int) {
	t.Helper()
	want, err := read()
	if err != nil || len(want) == 0 {
		t.Fatalf("%d lines, %v", len(want), err)
	}
	sound, r := directory(t, dir), rand.New(rand.NewPCG(1, 3))
	accepted, tried := 0, 0
	try := func(name string, at int, damaged []byte) {
		t.Helper()
		tried++
		write := func(name string, data []byte) {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(name, damaged)
		got, err := read()
		if t.Failed() {
			t.Fatalf("%s, byte %d", name, at)
		}
		if err == nil {
			accepted++
			may := want[:len(want)-lost(name, at)]
			if strings.Join(got, "\n") != strings.Join(want, "\n") && strings.Join(got, "\n") != strings.Join(may, "\n") {
				t.Fatalf("%s, byte %d of %d: opened with\n%s\nwant\n%s", name, at, len(sound[name]), strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		if err != nil && (!errors.Is(err, ErrDamaged) || strings.Contains(err.Error(), "runtime error")) {
			t.Fatalf("%s, byte %d: %v", name, at, err)
		}
		after := directory(t, dir)
		if err != nil {
			expected := map[string][]byte{}
			for n, data := range sound {
				expected[n] = data
			}
			expected[name] = damaged
			if !same(after, expected) {
				t.Fatalf("%s, byte %d: refused (%v), and changed", name, at, err)
			}
		}
		if !same(after, sound) {
			for n := range after {
				if _, ok := sound[n]; !ok {
					os.Remove(filepath.Join(dir, n))
				}
			}
			for n, data := range sound {
				if !bytes.Equal(after[n], data) {
					write(n, data)
				}
			}
		}
	}
	began := time.Now()
	for name, data := range sound {
		for at := range data {
			// Where nothing is written one byte is like the next.
			if at%509 != 0 && len(bytes.Trim(data[max(0, at-32):min(len(data), at+32)], "\x00")) == 0 {
				continue
			}
			damaged := bytes.Clone(data)
			if damaged[at] ^= 1 << r.IntN(8); r.IntN(2) == 0 {
				damaged[at] = data[at] ^ byte(1+r.IntN(255))
			}
			try(name, at, damaged)
		}
		for at := 0; at < len(data); at += 1 + r.IntN(50) {
			try(name, at, data[:at])
		}
	}
	t.Logf("%d of %d damages do no harm, %v", accepted, tried, time.Since(began))
}

func TestBolt_AnyDamageIsRefusedOrDoesNoHarm(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, boltName)
	smallPages(t, path)
	fresh := true
	open := func() (persistent, error) {
		log, err := openBolt(path, fresh, func(_, _ uint64) error { return nil })
		if err != nil {
			return nil, err
		}
		if err := checkLog(path, log, 3); err != nil {
			return nil, errors.Join(err, log.Close())
		}
		return log, nil
	}
	log, err := openBolt(path, fresh, func(_, _ uint64) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	history(t, log)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	fresh = false
	damages(t, dir, contentOf(t, open), func(string, int) int { return 0 })
}

func TestWAL_AnyDamageIsRefusedOrDoesNoHarm(t *testing.T) {
	dir := t.TempDir()
	smallPages(t, filepath.Join(dir, metadb.FileName))
	fresh := true
	open := func() (persistent, error) {
		log, err := openWAL(dir, 2048, fresh, func(_, _ uint64) error { return nil })
		if err != nil {
			return nil, err
		}
		if err := checkLog(dir, log, 3); err != nil {
			return nil, errors.Join(err, log.Close())
		}
		return log, nil
	}
	log, err := openWAL(dir, 2048, fresh, func(_, _ uint64) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	history(t, log)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	fresh = false
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	newest, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	t.Log(len(files), "segments")
	last := bytes.LastIndex(newest, []byte("6-17-"))
	damages(t, dir, contentOf(t, open), func(file string, at int) int {
		// The last batch cannot be told from one that was not finished.
		if file == filepath.Base(files[len(files)-1]) && at > last-64 {
			return 1
		}
		return 0
	})
}

func TestBolt_AnyChangedByteOfAnEntryIsNoticed(t *testing.T) {
	for term := range uint64(10) {
		want := raft.Log{Index: 7, Term: term, Type: raft.LogType(term % 4), Data: []byte(fmt.Sprint("data ", term)), AppendedAt: time.Unix(1_700_000_000, 0)}
		whole, err := encodeEntry(&want)
		if err != nil {
			t.Fatal(err)
		}
		b := bytes.Clone(whole)
		for at := range b {
			for bits := 1; bits < 256; bits++ {
				b[at] = whole[at] ^ byte(bits)
				if err := decodeEntry(b, &raft.Log{}); err == nil {
					t.Fatalf("term %d: byte %d as %#x is taken", term, at, b[at])
				}
			}
			b[at] = whole[at]
		}
		var got raft.Log
		if err := decodeEntry(b, &got); err != nil || got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || string(got.Data) != string(want.Data) {
			t.Errorf("%v, and it is read as %+v", err, got)
		}
	}
}

// Until all routers of a cluster run a newer version, one of them may go back to an older one.
func TestBolt_IsReadByOlderVersionsAndReadsWhatTheyWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), boltName)
	ours, err := openBolt(path, true, func(_, _ uint64) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	history(t, ours)
	want, err := content(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		t.Fatal(err)
	}
	older, err := raftboltdb.NewBoltStore(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := content(older)
	if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("an older version reads %q, %v", got, err)
	}
	if err := errors.Join(older.StoreLog(&raft.Log{Index: 18, Term: 7, Data: seal(nil)}), older.SetUint64([]byte(termKey), 7)); err != nil {
		t.Fatal(err)
	}
	want, err = content(older)
	if err := errors.Join(err, older.Close()); err != nil {
		t.Fatal(err)
	}
	if ours, err = openBolt(path, false, func(_, _ uint64) error { return nil }); err != nil {
		t.Fatal(err)
	}
	got, err = content(ours)
	if err := errors.Join(err, checkLog(path, ours, 3), ours.Close()); err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("what it wrote is read as %q, %v", got, err)
	}
}

// tally is a machine that remembers its commands.
type tally struct{ cmds []string }

func (m *tally) Apply(_ uint64, cmd []byte) any {
	m.cmds = append(m.cmds, string(cmd))
	return nil
}

func (m *tally) Snapshot() (func(io.Writer) error, error) {
	cmds := slices.Clone(m.cmds)
	return func(w io.Writer) error { return json.NewEncoder(w).Encode(cmds) }, nil
}

func (m *tally) Restore(r io.Reader) error { return json.NewDecoder(r).Decode(&m.cmds) }

// withSnapshot makes the directory of a server that has commands in a snapshot and others behind it, and returns it with that of the snapshot.
func withSnapshot(t *testing.T) (dir, snapshot string) {
	t.Helper()
	dir = t.TempDir()
	s, err := Open(t.Context(), Config{Dir: dir, ServerName: "1"}, &tally{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, cmd := range []string{"a", "b", "", "c", "d"} {
		if cmd == "" {
			err = s.Snapshot()
		} else {
			_, err = proposeSoon(t, s, cmd)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, snapshotsDir, "*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("snapshots %v, %v", found, err)
	}
	return dir, found[0]
}

// proposeSoon proposes a command once the server leads.
func proposeSoon(t *testing.T, s *Store, cmd string) (Result, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for l := range s.LeadershipChanges(ctx) {
		if l.Leader {
			break
		}
	}
	return s.Propose(ctx, []byte(cmd))
}

// whole opens the server of a directory, lets it lead and returns all of its state. The directory is what it was afterwards.
func whole(t *testing.T, dir string) func() ([]string, error) {
	sound := filepath.Join(t.TempDir(), "sound")
	if err := os.CopyFS(sound, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return func() (lines []string, err error) {
		m := &tally{}
		s, err := Open(t.Context(), Config{Dir: dir, ServerName: "1"}, m)
		if err != nil {
			return nil, err
		}
		_, err = proposeSoon(t, s, "last")
		members, e := s.Servers()
		index := s.AppliedIndex()
		if err := errors.Join(err, e, s.Close()); err != nil {
			t.Errorf("opened, and then: %v", err)
		}
		err = os.RemoveAll(dir)
		if err := errors.Join(err, os.CopyFS(dir, os.DirFS(sound))); err != nil {
			t.Fatal(err)
		}
		return append(m.cmds, fmt.Sprintf("%d %+v", index, members)), nil
	}
}

func TestSnapshot_AnyDamageIsRefusedOrDoesNoHarm(t *testing.T) {
	dir, snapshot := withSnapshot(t)
	if got := slices.Sorted(maps.Keys(directory(t, snapshot))); !slices.Equal(got, []string{metaFile, "state.bin", sumFile}) {
		t.Fatalf("it has the files %q", got)
	}
	damages(t, snapshot, whole(t, dir), func(string, int) int { return 0 })
}

func TestSnapshot_OfAnEarlierVersionIsRestoredUnlessItsNameSaysOtherwise(t *testing.T) {
	dir, snapshot := withSnapshot(t)
	if err := os.Remove(filepath.Join(snapshot, sumFile)); err != nil {
		t.Fatal(err)
	}
	read := whole(t, dir)
	got, err := read()
	if err != nil || strings.Join(got[:len(got)-1], " ") != "a b c d last" {
		t.Fatalf("it is restored as %q, %v", got, err)
	}
	meta := filepath.Join(snapshot, metaFile)
	sound, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	for field, value := range map[string]any{"Index": 9, "Term": 9, "ID": "9-9-9", "Version": 9} {
		var d map[string]any
		if err := json.Unmarshal(sound, &d); err != nil {
			t.Fatal(err)
		}
		d[field] = value
		changed, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(meta, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := read(); !errors.Is(err, ErrDamaged) {
			t.Errorf("with another %s it is restored as %q, %v", field, got, err)
		}
	}
}

func TestSnapshot_OneThatIsHalfRemovedIsNoDamageBehindThoseThatAreKept(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), Config{Dir: dir, ServerName: "1"}, &tally{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var made []string
	for n := range snapshotsKept {
		_, err := proposeSoon(t, s, strconv.Itoa(n))
		if err := errors.Join(err, s.Snapshot()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if made, err = filepath.Glob(filepath.Join(dir, snapshotsDir, "*")); err != nil || len(made) != snapshotsKept {
		t.Fatalf("snapshots %v, %v", made, err)
	}
	read := whole(t, dir)
	for name, refused := range map[string]bool{"0-1-1": false, "99-99-1": true} {
		half := filepath.Join(dir, snapshotsDir, name)
		if err := os.MkdirAll(half, 0o700); err != nil {
			t.Fatal(err)
		}
		if got, err := read(); errors.Is(err, ErrDamaged) != refused {
			t.Errorf("with %s: %q, %v", name, got, err)
		}
		if err := os.RemoveAll(half); err != nil {
			t.Fatal(err)
		}
	}
}
