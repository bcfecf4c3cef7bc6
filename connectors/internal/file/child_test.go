package file_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/conveyor-etl/conveyor/connectors/internal/file"
	"github.com/conveyor-etl/conveyor/sdk"
)

// child serves the file connectors on a unix socket until it is killed.
func child(socket string) {
	if os.Getenv("FILE_TEST_LIMIT") != "" {
		limit := syscall.Rlimit{Cur: 64 << 10, Max: 64 << 10}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	lis, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err == nil {
		var server *sdk.Server
		if server, err = sdk.NewServer(file.Source(), file.Sink()); err == nil {
			err = server.Serve(context.Background(), lis)
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// startChild runs this test program as a service of its own and returns its address and a function that kills it with SIGKILL.
func startChild(t *testing.T, env ...string) (addr string, kill func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "child") //nolint:usetesting // short, since the path of a socket must be
	if err != nil {
		t.Fatal(err)
	}
	socket := dir + "/s"
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "FILE_TEST_CHILD="+socket)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dead := false
	kill = func() {
		if dead {
			return
		}
		dead = true
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}
	t.Cleanup(kill)
	return "unix:" + socket, kill
}
