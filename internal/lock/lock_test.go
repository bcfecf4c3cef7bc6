package lock_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/internal/lock"
)

// holdEnv makes the test binary a process that holds a lock until it is killed.
const holdEnv = "LOCK_TEST_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdEnv); dir != "" {
		if _, err := lock.Acquire(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		select {}
	}
	os.Exit(m.Run())
}

func TestAcquire_NamesTheProcessThatHoldsTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "data")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), holdEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("holder said %q, %v", line, err)
	}

	_, err = lock.Acquire(dir)
	var held *lock.HeldError
	if !errors.As(err, &held) || held.PID != cmd.Process.Pid || held.Dir != dir {
		t.Fatalf("Acquire = %v, want held by pid %d", err, cmd.Process.Pid)
	}
	if want := fmt.Sprintf("process %d", cmd.Process.Pid); !strings.Contains(err.Error(), want) {
		t.Errorf("message %q does not name %s", err, want)
	}

	// A killed holder leaves nothing behind that would be in the way.
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	l, err := lock.Acquire(dir)
	if err != nil {
		t.Fatalf("after the holder was killed: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestAcquire_OncePerProcess(t *testing.T) {
	dir := t.TempDir()
	first, err := lock.Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lock.Acquire(dir)
	if err == nil || !strings.Contains(err.Error(), "this process") {
		t.Fatalf("second Acquire = %v, want held by this process", err)
	}
	for range 2 {
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	}
	again, err := lock.Acquire(dir)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestAcquire_SaysWhatIsWrongWithThePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := lock.Acquire(path)
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Acquire = %v, want an error that names %s", err, path)
	}
}
