package dlqtest

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// reserved are the ports that this process has, and the file in which it holds a lock on the byte of each.
var reserved = struct {
	mu    sync.Mutex
	ports map[int]bool
	locks *os.File
}{ports: make(map[int]bool)}

// reserve keeps a port for this process, and reports whether nobody had it: between the look whether it is free and the start of who is to have
// it, and while that one is stopped, another test would find it free too.
func reserve(t testing.TB, port int) bool {
	t.Helper()
	reserved.mu.Lock()
	defer reserved.mu.Unlock()
	if reserved.locks == nil {
		f, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("conveyor-test-ports-%d", os.Getuid())), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		reserved.locks = f
	}
	if reserved.ports[port] || !lockByte(reserved.locks, int64(port)) {
		return false
	}
	reserved.ports[port] = true
	return true
}
