package proc

import (
	"fmt"
	"io"
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

// ports are those of this process. It holds a lock on the byte of each in a file, which keeps the tests of other packages from them.
var ports = struct {
	mu    sync.Mutex
	used  map[int]bool
	locks *os.File
}{used: map[int]bool{}}

// The ports below those that systems give to outgoing connections, so that a process which comes back finds its port free. Those up to 32699 are of the tests that choose
// theirs without this package: of router from 22000 on, of cli from 25000, of raftstore from 28000, of dlq from 30000.
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
		if ports.used[port] || !reserve(t, port) {
			continue
		}
		var lc net.ListenConfig
		lis, err := lc.Listen(t.Context(), "tcp", Loopback(port))
		if err != nil {
			continue // and it stays reserved: it is of no use to others either
		}
		_ = lis.Close()
		ports.used[port] = true
		return port
	}
	t.Fatal("no free port")
	return 0
}

// reserve locks a port until this process ends, and reports whether no other one has it: between the look whether it is free and the start of who is to have it, another test
// would find it free too.
func reserve(t testing.TB, port int) bool {
	t.Helper()
	if ports.locks == nil {
		path := filepath.Join(os.TempDir(), fmt.Sprintf("conveyor-test-ports-%d", os.Getuid()))
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		ports.locks = f
	}
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: int64(port), Len: 1}
	return syscall.FcntlFlock(ports.locks.Fd(), syscall.F_SETLK, &lock) == nil
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
