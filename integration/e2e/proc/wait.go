package proc

import (
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
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
var ports = struct {
	mu   sync.Mutex
	used map[int]bool
}{used: map[int]bool{}}

// The ports below those that systems give to outgoing connections, so that a process which comes back finds its port free.
const (
	firstPort = 10000
	lastPort  = 29999
)

// Port returns a free port of loopback.
func Port(t testing.TB) int {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if ports.used[port] {
			continue
		}
		var lc net.ListenConfig
		lis, err := lc.Listen(t.Context(), "tcp", Loopback(port))
		if err != nil {
			continue
		}
		_ = lis.Close()
		ports.used[port] = true
		return port
	}
	t.Fatal("no free port")
	return 0
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
