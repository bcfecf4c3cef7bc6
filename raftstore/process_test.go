package raftstore_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
)

// server is a process that runs a store, and says on its standard output what happens in it.
type server struct {
	t       *testing.T
	dir     string
	number  int
	peers   string
	large   int // bytes of each command
	process *exec.Cmd
	ended   chan struct{}

	mu           sync.Mutex
	acknowledged []string
	applied      uint64
	digest       string
	quiet        bool
}

// The environment of such a process.
const (
	serverEnv = "RAFTSTORE_TEST_SERVER"
	peersEnv  = "RAFTSTORE_TEST_PEERS"
	largeEnv  = "RAFTSTORE_TEST_LARGE"
	logEnv    = "RAFTSTORE_TEST_LOG"
	quietEnv  = "RAFTSTORE_TEST_QUIET"
)

// serve is the process. It takes one snapshot after the other, proposes for as long as it leads and was not told to be quiet, and ends with the digest of its commands when it is told to.
func serve(dir string) error {
	peers := strings.Split(os.Getenv(peersEnv), ",")
	large, err := strconv.Atoi(os.Getenv(largeEnv))
	if err != nil {
		return err
	}
	j := &journal{}
	name := filepath.Base(dir)
	number, err := strconv.Atoi(name)
	if err != nil {
		return err
	}
	cfg := raftstore.Config{
		Dir: dir, ServerName: name, Address: peers[number-1], SnapshotThreshold: 8, TrailingLogs: 24, Log: raftstore.LogKind(os.Getenv(logEnv)),
		Timeouts: raftstore.Timeouts{Heartbeat: time.Second, Election: time.Second, Lease: 500 * time.Millisecond},
	}
	for i, p := range peers {
		cfg.Peers = append(cfg.Peers, raftstore.Peer{ServerName: strconv.Itoa(i + 1), Address: p})
	}
	if len(peers) == 1 {
		cfg.Peers = nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := raftstore.Open(ctx, cfg, j)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	srv := grpc.NewServer()
	controlv1.RegisterRaftServiceServer(srv, s.RaftService())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(lis) })
	wg.Go(func() {
		for tick := time.NewTicker(20 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			fmt.Printf("applied %d\n", s.AppliedIndex())
		}
	})
	wg.Go(func() {
		for ; ctx.Err() == nil; <-time.After(10 * time.Millisecond) {
			_ = s.Snapshot() // nothing new is no fault
		}
	})
	quiet, quieted := signal.NotifyContext(ctx, syscall.SIGUSR1)
	defer quieted()
	for i := 0; ctx.Err() == nil; i++ {
		if quiet.Err() != nil || os.Getenv(quietEnv) != "" {
			fmt.Println("quiet")
			<-ctx.Done()
			break
		}
		if !s.Leadership().Leader {
			<-time.After(5 * time.Millisecond)
			continue
		}
		cmd := fmt.Sprintf("%s-%d-%d-", name, os.Getpid(), i)
		if _, err := s.Propose(ctx, []byte(cmd+strings.Repeat("x", large))); err == nil {
			fmt.Printf("acknowledged %s\n", cmd)
		}
	}
	err = s.Close()
	srv.Stop()
	wg.Wait()
	fmt.Printf("applied %d\n", s.AppliedIndex())
	sum := sha256.New()
	for _, cmd := range j.all() {
		fmt.Fprintln(sum, cmd)
	}
	fmt.Printf("digest %x\n", sum.Sum(nil))
	return err
}

// nextPort is where addresses looks next: what it gave stays with a test while its servers are away.
var nextPort atomic.Int32

// addresses picks ports that are none of those that the system gives to connections.
func addresses(t *testing.T, n int) string {
	t.Helper()
	var free []string
	for len(free) < n {
		// Two runs of the tests at a time begin at different places.
		port := 28000 + (os.Getpid()*61+int(nextPort.Add(1)))%2000
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if lis, err := net.Listen("tcp", address); err == nil {
			lis.Close()
			free = append(free, address)
		}
	}
	return strings.Join(free, ",")
}

func newServer(t *testing.T, dir string, number int, peers string, large int) *server {
	s := &server{t: t, dir: filepath.Join(dir, strconv.Itoa(number)), number: number, peers: peers, large: large}
	t.Cleanup(s.kill)
	return s
}

func (s *server) start(env ...string) {
	s.t.Helper()
	s.process = exec.Command(os.Args[0])
	s.process.Env = append(os.Environ(), serverEnv+"="+s.dir, peersEnv+"="+s.peers, largeEnv+"="+strconv.Itoa(s.large), logEnv+"="+string(kindOf(s.t)))
	s.process.Env = append(s.process.Env, env...)
	s.process.Stderr = os.Stderr
	out, err := s.process.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.ended = make(chan struct{})
	go func() {
		defer close(s.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			what, value, _ := strings.Cut(lines.Text(), " ")
			s.mu.Lock()
			switch what {
			case "acknowledged":
				s.acknowledged = append(s.acknowledged, value)
			case "applied":
				s.applied, _ = strconv.ParseUint(value, 10, 64)
			case "quiet":
				s.quiet = true
			case "digest":
				s.digest = value
			}
			s.mu.Unlock()
		}
	}()
}

// kill ends the process with SIGKILL, if it runs.
func (s *server) kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	<-s.ended
	_ = s.process.Wait()
	s.process = nil
}

// stop ends the process in order.
func (s *server) stop() {
	s.t.Helper()
	_ = s.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		s.t.Fatalf("server %d does not stop", s.number)
	}
	if err := s.process.Wait(); err != nil {
		s.t.Errorf("server %d: %v", s.number, err)
	}
	s.process = nil
}

func (s *server) acks() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.acknowledged...)
}

func (s *server) position() (applied uint64, digest string, quiet bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied, s.digest, s.quiet
}

// unfinished are the snapshots in a directory that are being written, or were.
func unfinished(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "snapshots", "*.tmp"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestStore_AKillWhileASnapshotIsWrittenLosesNothingAndLeavesNothingBehind(t *testing.T) {
	eachLog(t, func(t *testing.T) {
		// A small snapshot is finished more often than written, and one of some megabytes is under way half of the time.
		t.Run("small", func(t *testing.T) { killWhileSnapshotsAreWritten(t, 64) })
		t.Run("large", func(t *testing.T) { killWhileSnapshotsAreWritten(t, 32<<10) })
	})
}

func killWhileSnapshotsAreWritten(t *testing.T, large int) {
	dir := t.TempDir()
	s := newServer(t, dir, 1, addresses(t, 1), large)
	interrupted := 0
	for round := 0; round < 60 && interrupted < 3; round++ {
		before := len(s.acks())
		s.start()
		eventually(t, "it goes on", func() bool { return len(s.acks()) > before })
		<-time.After(rand.N(60 * time.Millisecond))
		s.kill()
		if len(unfinished(t, s.dir)) > 0 {
			interrupted++
		}
		finished, err := filepath.Glob(filepath.Join(s.dir, "snapshots", "*[0-9]"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range finished {
			if _, err := os.Stat(filepath.Join(path, "sum")); err != nil && len(finished) <= 3 { // more are there while one is removed
				t.Errorf("a finished snapshot: %v", err)
			}
		}
	}
	if interrupted == 0 {
		t.Error("no snapshot was interrupted: the run proves nothing")
	}
	j := &journal{}
	store, err := raftstore.Open(t.Context(), raftstore.Config{Dir: s.dir, ServerName: "1"}, j)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	lead(t, store)
	have := map[string]int{}
	for _, cmd := range j.all() {
		have[strings.TrimRight(cmd, "x")]++
	}
	for _, cmd := range s.acks() {
		if have[cmd] != 1 {
			t.Errorf("command %s was acknowledged, and is there %d times", cmd, have[cmd])
		}
	}
	if got := unfinished(t, s.dir); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
	t.Logf("%d commands acknowledged, %d snapshots interrupted", len(s.acks()), interrupted)
}

func TestCluster_AFollowerThatIsKilledWhileASnapshotArrivesCatchesUp(t *testing.T) {
	eachLog(t, clusterAFollowerThatIsKilledWhileASnapshotArrivesCatchesUp)
}

func clusterAFollowerThatIsKilledWhileASnapshotArrivesCatchesUp(t *testing.T) {
	dir, peers := t.TempDir(), addresses(t, 3)
	var servers []*server
	for n := 1; n <= 3; n++ {
		servers = append(servers, newServer(t, dir, n, peers, 64<<10))
		servers[n-1].start()
	}
	total := func() (n int) {
		for _, s := range servers {
			n += len(s.acks())
		}
		return n
	}
	eventually(t, "somebody leads", func() bool { return total() > 0 })
	behind := servers[0]
	if len(behind.acks()) > 0 {
		behind = servers[1]
	}
	behind.kill()
	from := total()
	eventually(t, "the log does not reach back", func() bool { return total() > from+120 })
	interrupted := 0
	for round := 0; round < 20 && interrupted < 2; round++ {
		before := unfinished(t, behind.dir)
		arriving := func() bool {
			return slices.ContainsFunc(unfinished(t, behind.dir), func(s string) bool { return !slices.Contains(before, s) })
		}
		behind.start()
		// Whoever leads waits for up to 10 s before it tries again.
		eventually(t, "a snapshot arrives", arriving)
		<-time.After(rand.N(5 * time.Millisecond))
		behind.kill()
		if arriving() {
			interrupted++
		}
	}
	if interrupted == 0 {
		t.Error("no snapshot was interrupted: the run proves nothing")
	}
	// A server that is always behind by more than the log has would get one snapshot after the other.
	for _, s := range servers {
		if s != behind {
			if err := s.process.Process.Signal(syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
		}
	}
	behind.start(quietEnv + "=1")
	eventually(t, "nobody proposes any more, and it has what the others have", func() bool {
		mine, _, _ := behind.position()
		for _, s := range servers {
			if theirs, _, quiet := s.position(); !quiet || mine != theirs {
				return false
			}
		}
		return mine > 0
	})
	for _, s := range servers {
		s.stop()
	}
	if got := unfinished(t, behind.dir); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
	_, want, _ := behind.position()
	for _, s := range servers {
		if _, got, _ := s.position(); got != want || got == "" {
			t.Errorf("servers %d and %d have other commands", s.number, behind.number)
		}
	}
	t.Logf("%d commands acknowledged, %d snapshots interrupted on their way", total(), interrupted)
}

// eventually is until with the time that several processes take on a loaded machine, where who leads waits longer and longer before it asks one that was killed again.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !condition(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 2 minutes: %s", what)
		}
	}
}
