package raftstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/conveyor-etl/conveyor/raftstore"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("RAFTSTORE_TEST_CHILD"); dir != "" {
		os.Exit(child(dir))
	}
	if dir := os.Getenv(serverEnv); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// What raft has not answered when it stops keeps its goroutine for ever.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/conveyor-etl/conveyor/raftstore.(*Store).await.func1"),
		// The bare library of the benchmark does not wait for the connections that it accepted.
		goleak.IgnoreAnyFunction("github.com/hashicorp/raft.(*NetworkTransport).handleConn"))
}

// journal is a machine that remembers its commands.
type journal struct {
	mu   sync.Mutex
	cmds []string
}

func (j *journal) Apply(_ uint64, cmd []byte) any {
	j.mu.Lock()
	defer j.mu.Unlock()
	if string(cmd) == "future command" {
		return raftstore.Halt{Reason: "unknown command"}
	}
	j.cmds = append(j.cmds, string(cmd))
	return len(j.cmds)
}

func (j *journal) Snapshot() (func(io.Writer) error, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	cmds := j.cmds[:len(j.cmds):len(j.cmds)]
	return func(w io.Writer) error { return json.NewEncoder(w).Encode(cmds) }, nil
}

func (j *journal) Restore(r io.Reader) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cmds = nil // a snapshot of them may be under way
	return json.NewDecoder(r).Decode(&j.cmds)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.cmds...)
}

func open(t *testing.T, dir string, m raftstore.StateMachine) *raftstore.Store {
	t.Helper()
	s, err := raftstore.Open(t.Context(), raftstore.Config{Dir: dir, ServerName: "1", Log: kindOf(t)}, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	lead(t, s)
	return s
}

func lead(t *testing.T, s *raftstore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for l := range s.LeadershipChanges(ctx) {
		if l.Leader {
			return
		}
	}
	t.Fatal("never led")
}

func propose(t *testing.T, s *raftstore.Store, cmd string) raftstore.Result {
	t.Helper()
	r, err := s.Propose(t.Context(), []byte(cmd))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestStore_LeadsSoonAndKeepsCommandsOverARestart(t *testing.T) {
	eachLog(t, storeLeadsSoonAndKeepsCommandsOverARestart)
}

func storeLeadsSoonAndKeepsCommandsOverARestart(t *testing.T) {
	dir := t.TempDir()
	began := time.Now()
	s := open(t, dir, &journal{})
	t.Logf("leads after %v", time.Since(began))
	if r := propose(t, s, "a"); r.Value != 1 || r.Index == 0 {
		t.Errorf("result %+v", r)
	}
	propose(t, s, "b")
	cluster, server := s.ClusterID(), s.ServerID()
	if s.Leader() != server {
		t.Errorf("leader %q, server %q", s.Leader(), server)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Propose(t.Context(), []byte("c")); !errors.Is(err, raftstore.ErrClosed) {
		t.Errorf("propose after close: %v", err)
	}

	j := &journal{}
	s = open(t, dir, j)
	if err := s.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(j.all(), ""); got != "ab" {
		t.Errorf("commands after restart: %q", got)
	}
	if s.ClusterID() != cluster || s.ServerID() != server {
		t.Error("identity changed over a restart")
	}
}

func TestStore_SnapshotAndLogTogetherRestoreTheState(t *testing.T) {
	eachLog(t, storeSnapshotAndLogTogetherRestoreTheState)
}

func storeSnapshotAndLogTogetherRestoreTheState(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, &journal{})
	propose(t, s, "a")
	if err := s.Snapshot(); err != nil {
		t.Fatal(err)
	}
	propose(t, s, "b")
	s.Close()
	j := &journal{}
	s = open(t, dir, j)
	if got := strings.Join(j.all(), ""); got != "ab" {
		t.Errorf("commands %q", got)
	}
	if err := s.Snapshot(); err != nil {
		t.Fatal(err)
	}
	before := s.AppliedIndex()
	s.Close()
	s = open(t, dir, &journal{})
	if got := s.AppliedIndex(); got < before || got == 0 {
		t.Errorf("restored from a snapshot it says that %d is applied, and said %d before", got, before)
	}
	s.Close()

	// A byte of the newest snapshot flips.
	files, _ := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
	if len(files) != 2 {
		t.Fatalf("snapshots: %v", files)
	}
	flip(t, files[1], func(data []byte) int { return 0 })
	refused(t, dir, raftstore.ErrDamaged)
}

// wary is a machine that does not take snapshots with some command.
type wary struct {
	journal
	of string
}

func (w *wary) Restore(r io.Reader) error {
	if err := w.journal.Restore(r); err != nil {
		return err
	}
	if slices.Contains(w.all(), w.of) {
		return errors.New("this version does not know " + w.of)
	}
	return nil
}

// The library would go on from an older snapshot, with the state of that time.
func TestOpen_RefusesWhenTheNewestSnapshotCannotBeRestored(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir, &journal{})
		for _, cmd := range []string{"first", "second"} {
			propose(t, s, cmd)
			if err := s.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		if s, err := raftstore.Open(t.Context(), raftstore.Config{Dir: dir, ServerName: "1"}, &wary{of: "second"}); !errors.Is(err, raftstore.ErrDamaged) || s != nil {
			t.Fatalf("opened %v: %v", s, err)
		}
		j := &journal{}
		open(t, dir, j)
		if got := strings.Join(j.all(), " "); got != "first second" {
			t.Errorf("afterwards the commands are %q", got)
		}
	})
}

func TestOpen_RefusesADirectoryInUse(t *testing.T) { eachLog(t, openRefusesADirectoryInUse) }

func openRefusesADirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, &journal{})
	refused(t, dir, raftstore.ErrInUse)
}

// Names with brackets are patterns to whoever looks for files by one.
func TestOpen_ADirectoryMayHaveAnyName(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		for _, name := range []string{"[x]", "[x-"} {
			dir := filepath.Join(t.TempDir(), name)
			s := open(t, dir, &journal{})
			propose(t, s, "precious")
			s.Close()
			left := filepath.Join(dir, "restore-1.tmp")
			if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
			open(t, dir, &journal{}).Close()
			if _, err := os.Stat(left); err == nil {
				t.Errorf("%s: what a crash left of a restore is there", name)
			}
			log := filepath.Join(dir, "raft.db")
			if kindOf(t) == raftstore.LogWAL {
				log = filepath.Join(dir, "wal", "wal-meta.db")
			}
			if err := errors.Join(os.Remove(log), os.MkdirAll(filepath.Join(dir, "snapshots", "1-1-1.tmp"), 0o700)); err != nil {
				t.Fatal(err)
			}
			refused(t, dir, raftstore.ErrDamaged)
		}
	})
}

func TestOpen_RefusesDamageAndChangesNothing(t *testing.T) {
	bolt := func(dir string) string { return filepath.Join(dir, "raft.db") }
	meta := func(dir string) string { return filepath.Join(dir, "wal", "wal-meta.db") }
	remove := func(t *testing.T, path string) {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	cut := func(t *testing.T, path string, bytes int64) {
		t.Helper()
		if err := os.Truncate(path, bytes); err != nil {
			t.Fatal(err)
		}
	}
	for name, damage := range map[string]func(t *testing.T, dir string){
		"a flipped bit in a command/bbolt": func(t *testing.T, dir string) {
			rewrite(t, bolt(dir), func(data []byte) {
				for at := bytes.Index(data, []byte("precious")); at >= 0; at = bytes.Index(data, []byte("precious")) {
					data[at] ^= 1
				}
			})
		},
		"a flipped bit in an index/bbolt": func(t *testing.T, dir string) {
			rewrite(t, bolt(dir), func(data []byte) {
				for at := range data[:len(data)-8] {
					if binary.BigEndian.Uint64(data[at:]) == 3 {
						data[at+6] ^= 1
					}
				}
			})
		},
		"a log cut short/bbolt":   func(t *testing.T, dir string) { cut(t, bolt(dir), 5000) },
		"a log of nothing/bbolt":  func(t *testing.T, dir string) { cut(t, bolt(dir), 0) },
		"no log/bbolt":            func(t *testing.T, dir string) { remove(t, bolt(dir)) },
		"no log/wal":              func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "wal")) },
		"no contents/wal":         func(t *testing.T, dir string) { remove(t, meta(dir)) },
		"contents cut short/wal":  func(t *testing.T, dir string) { cut(t, meta(dir), 5000) },
		"contents of nothing/wal": func(t *testing.T, dir string) { cut(t, meta(dir), 0) },
		"only contents/wal":       func(t *testing.T, dir string) { remove(t, segments(t, dir)[0]) },
		"only segments/wal": func(t *testing.T, dir string) {
			remove(t, meta(dir))
			remove(t, filepath.Join(dir, "identity.json"))
		},
		"a segment cut short/wal":  func(t *testing.T, dir string) { cut(t, segments(t, dir)[0], 1_000_000) },
		"a segment of nothing/wal": func(t *testing.T, dir string) { cut(t, segments(t, dir)[0], 0) },
		"a segment of zeros/wal":   func(t *testing.T, dir string) { rewrite(t, segments(t, dir)[0], func(data []byte) { clear(data) }) },
		"no identity/bbolt":        func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "identity.json")) },
		"no identity/wal":          func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "identity.json")) },
		"garbage in header/bbolt": func(t *testing.T, dir string) {
			rewrite(t, bolt(dir), func(data []byte) { clear(data) })
		},
		"no log and an unfinished snapshot/bbolt": func(t *testing.T, dir string) {
			remove(t, bolt(dir))
			if err := os.MkdirAll(filepath.Join(dir, "snapshots", "1-1-1.tmp"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, &journal{})
			propose(t, s, "precious")
			propose(t, s, "and more")
			s.Close()
			damage(t, dir)
			before := sums(t, dir)
			refused(t, dir, raftstore.ErrDamaged)
			refused(t, dir, raftstore.ErrDamaged)
			if after := sums(t, dir); after != before {
				t.Errorf("it was changed from\n%s\nto\n%s", before, after)
			}
		})
	}
}

// sums is what a directory holds.
func sums(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "%s", path)
		if !d.IsDir() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %d bytes %x", len(data), sha256.Sum256(data))
		}
		out.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A copy of one that is alone is the best there is. That of one of several would vote again where it has voted.
func TestOpen_SaysWhatToDoAboutDamageForOneServerAndForOneOfSeveral(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, &journal{})
	propose(t, s, "precious")
	s.Close()
	flip(t, filepath.Join(dir, "identity.json"), func(data []byte) int { return bytes.IndexByte(data, '{') })
	cfg := raftstore.Config{Dir: dir, ServerName: "1", Address: "127.0.0.1:1"}
	_, err := raftstore.Open(t.Context(), cfg, &journal{})
	if !errors.Is(err, raftstore.ErrDamaged) || !strings.Contains(err.Error(), "restore the directory from a copy") {
		t.Errorf("alone: %v", err)
	}
	cfg.Peers = []raftstore.Peer{{ServerName: "1", Address: "127.0.0.1:1"}, {ServerName: "2", Address: "127.0.0.1:2"}}
	_, err = raftstore.Open(t.Context(), cfg, &journal{})
	if !errors.Is(err, raftstore.ErrDamaged) || strings.Contains(err.Error(), "restore the directory") || !strings.Contains(err.Error(), "remove this server from its cluster") {
		t.Errorf("one of several: %v", err)
	}
}

func refused(t *testing.T, dir string, want error) {
	t.Helper()
	s, err := raftstore.Open(t.Context(), raftstore.Config{Dir: dir, ServerName: "1"}, &journal{})
	if !errors.Is(err, want) {
		t.Fatalf("open: %v, want %v", err, want)
	}
	if s != nil {
		t.Error("a store came with the error")
	}
	if strings.Contains(err.Error(), "runtime error") {
		t.Errorf("the cause is for nobody: %v", err)
	}
	t.Log(err)
}

func flip(t *testing.T, path string, at func([]byte) int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := at(data)
	if i < 0 {
		t.Fatal("nothing to flip")
	}
	data[i] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpen_RefusesTheDirectoryOfAnotherServer(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, &journal{}).Close()
	if _, err := raftstore.Open(t.Context(), raftstore.Config{Dir: dir, ServerName: "2"}, &journal{}); err == nil {
		t.Error("opened")
	}
}

func TestStore_HaltsAtACommandItDoesNotKnow(t *testing.T) {
	s := open(t, t.TempDir(), &journal{})
	var halted *raftstore.HaltedError
	if _, err := s.Propose(t.Context(), []byte("future command")); !errors.As(err, &halted) || halted.Reason != "unknown command" {
		t.Fatalf("propose: %v", err)
	}
	<-s.Failed()
	if _, err := s.Propose(t.Context(), []byte("a")); !errors.Is(err, raftstore.ErrHalted) {
		t.Errorf("propose after halt: %v", err)
	}
	if err := s.Read(t.Context()); !errors.Is(err, raftstore.ErrHalted) {
		t.Errorf("read after halt: %v", err)
	}
	if err := s.Snapshot(); !errors.Is(err, raftstore.ErrHalted) {
		t.Errorf("snapshot after halt: %v", err)
	}
}

func TestPropose_RefusesWhatIsTooLarge(t *testing.T) {
	s := open(t, t.TempDir(), &journal{})
	if _, err := s.Propose(t.Context(), make([]byte, raftstore.MaxCommandBytes+1)); !errors.Is(err, raftstore.ErrTooLarge) {
		t.Error(err)
	}
	if _, err := s.Propose(t.Context(), make([]byte, raftstore.MaxCommandBytes)); err != nil {
		t.Error(err)
	}
}

func TestPropose_ConcurrentCommandsAreEachAppliedOnce(t *testing.T) {
	eachLog(t, proposeConcurrentCommandsAreEachAppliedOnce)
}

func proposeConcurrentCommandsAreEachAppliedOnce(t *testing.T) {
	j := &journal{}
	s := open(t, t.TempDir(), j)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, err := s.Propose(t.Context(), []byte(strconv.Itoa(i))); err != nil {
				t.Error(err)
			}
			if err := s.Read(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	for _, c := range j.all() {
		seen[c]++
	}
	for i := range 50 {
		if seen[strconv.Itoa(i)] != 1 {
			t.Errorf("command %d applied %d times", i, seen[strconv.Itoa(i)])
		}
	}
}

// child proposes numbers and prints each that was acknowledged, until it is killed.
func child(dir string) int {
	s, err := raftstore.Open(context.Background(), raftstore.Config{Dir: dir, ServerName: "1", Log: raftstore.LogKind(os.Getenv(logEnv))}, &journal{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for l := range s.LeadershipChanges(context.Background()) {
		if l.Leader {
			break
		}
	}
	for i := 0; ; i++ {
		if _, err := s.Propose(context.Background(), []byte(strconv.Itoa(i))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(i)
	}
}

func TestStore_KeepsEveryAcknowledgedCommandOverKill(t *testing.T) {
	eachLog(t, storeKeepsEveryAcknowledgedCommandOverKill)
}

func storeKeepsEveryAcknowledgedCommandOverKill(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "RAFTSTORE_TEST_CHILD="+dir, logEnv+"="+string(kindOf(t)))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for bytes.Count(got.Bytes(), []byte("\n")) < 30 {
		if _, err := io.CopyN(&got, out, 1); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Process.Kill()
	io.Copy(&got, out)
	cmd.Wait()
	lines := strings.Split(strings.TrimSpace(got.String()), "\n")
	if !strings.HasSuffix(got.String(), "\n") {
		lines = lines[:len(lines)-1]
	}
	j := &journal{}
	open(t, dir, j)
	if have := j.all(); len(have) < len(lines) || strings.Join(have[:len(lines)], " ") != strings.Join(lines, " ") {
		t.Errorf("acknowledged %d commands, found %d", len(lines), len(have))
	}
}

// Raft forgets what lies in its queues when it stops, the barrier of a new leader among it.
func TestClose_EndsWhileLeadershipIsBeingGained(t *testing.T) {
	dir := t.TempDir()
	for i := range 25 {
		s, err := raftstore.Open(t.Context(), raftstore.Config{Dir: dir, ServerName: "1"}, &journal{})
		if err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); s.Leader() == "" && time.Since(began) < 10*time.Second; {
			runtime.Gosched()
		}
		for range i * 20 {
			runtime.Gosched()
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		select {
		case err := <-closed:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("the store has not closed after 30 s, in try %d", i)
		}
	}
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func TestStore_WithoutRoomItNamesTheServerAndThePlace(t *testing.T) {
	dir := t.TempDir()
	s, err := raftstore.Open(t.Context(), raftstore.Config{Dir: dir, ServerName: "7", MinFree: 1 << 62}, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	until(t, "proposals stop", func() bool { return s.LowDisk() != nil })
	for _, want := range []string{"the disk of server " + s.ServerID(), dir} {
		if got := s.LowDisk().Error(); !strings.Contains(got, want) {
			t.Errorf("it does not name %q: %s", want, got)
		}
	}
}
