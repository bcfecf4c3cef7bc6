package proc

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// The tests of several packages run at the same time.
func TestPort_IsOfOneProcessAtATime(t *testing.T) {
	const portEnv = "RESERVED_PORT"
	if port, err := strconv.Atoi(os.Getenv(portEnv)); err == nil {
		if reserve(t, port) {
			t.Errorf("port %d is had by another process, and given to this one too", port)
		}
		if !reserve(t, port+1) {
			t.Errorf("port %d is had by nobody, and is not given", port+1)
		}
		return
	}
	other := exec.Command(os.Args[0], "-test.run=^TestPort_IsOfOneProcessAtATime$")
	port := lastPort + 1 // of no other test
	for !reserve(t, port) {
		port += 2
	}
	other.Env = append(os.Environ(), portEnv+"="+strconv.Itoa(port))
	if out, err := other.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
