package proc

import (
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Until looks every few milliseconds until look returns "" and fails the test when that takes too long: then with what look said last, which
// is what is still missing.
func Until(t testing.TB, look func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		missing := look()
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("after %v: %s", patience, missing)
		}
	}
}

// ports are those that were given out, so that no two tests of a process get the same.
// ports are those of this process, each with the lock that keeps it from the tests of other packages.
var ports = struct {
	mu   sync.Mutex
	used map[int]*os.File
}{used: map[int]*os.File{}}

// The ports below those that systems give to outgoing connections, so that a process which comes back finds its port free. Those up to 29999 are of the tests that choose
// theirs without this package: of router from 22000 on, of cli from 25000, of raftstore from 28000.
const (
	firstPort = 10000
	lastPort  = 21999
)

// Port returns a free port of loopback.
func Port(t testing.TB) int {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if ports.used[port] != nil {
			continue
		}
		lock := reserve(t, port)
		if lock == nil {
			continue
		}
		var lc net.ListenConfig
		lis, err := lc.Listen(t.Context(), "tcp", Loopback(port))
		if err != nil {
			_ = lock.Close()
			continue
		}
		_ = lis.Close()
		ports.used[port] = lock
		return port
	}
	t.Fatal("no free port")
	return 0
}

// reserve locks a port until this process ends, or returns nil when another one has it: between the look whether it is free and the start of who is to have it, another
// test would find it free too.
func reserve(t testing.TB, port int) *os.File {
	t.Helper()
	dir := filepath.Join(os.TempDir(), "conveyor-test-ports")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil
	}
	return f
}

// Loopback is the address of a port of this machine.
func Loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Write writes a file.
func Write(t testing.TB, path string, content ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(content, "")), 0o644); err != nil {
		t.Fatal(err)
	}
}
