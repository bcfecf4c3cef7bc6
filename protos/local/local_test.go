package local_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/conveyor-etl/conveyor/protos/local"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("sockets beside ports exist on Linux only")
	}
	t.Setenv("TMPDIR", t.TempDir())
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	return lis
}

func TestASidecarFindsTheSocketBesideAPort(t *testing.T) {
	tcp := listen(t)
	if path, ok := local.Find(tcp.Addr().String()); ok {
		t.Fatalf("found %s before anybody listened", path)
	}
	lis, err := local.Listen(tcp.Addr())
	if err != nil {
		t.Fatal(err)
	}
	path, ok := local.Find(tcp.Addr().String())
	if !ok || path != lis.Addr().String() {
		t.Errorf("found %q, %v; want %s", path, ok, lis.Addr())
	}
	_, port, _ := net.SplitHostPort(tcp.Addr().String())
	if _, ok := local.Find("localhost:" + port); !ok {
		t.Error("not found under localhost")
	}
	for _, other := range []string{"127.0.0.2:" + port, "192.168.1.1:" + port, "example.org:" + port, "no port", ""} {
		if path, ok := local.Find(other); ok {
			t.Errorf("found %s for %q", path, other)
		}
	}
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	if path, ok := local.Find(tcp.Addr().String()); ok {
		t.Errorf("found %s after it was closed", path)
	}
}

func TestASocketLeftBehindIsNoticedAndReplaced(t *testing.T) {
	tcp := listen(t)
	lis, err := local.Listen(tcp.Addr())
	if err != nil {
		t.Fatal(err)
	}
	lis.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false) // as a killed process leaves it
	_ = lis.Close()
	if path, ok := local.Find(tcp.Addr().String()); ok {
		t.Fatalf("found %s, where nobody listens", path)
	}
	again, err := local.Listen(tcp.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if _, ok := local.Find(tcp.Addr().String()); !ok {
		t.Error("the new socket is not found")
	}
}

func TestAFolderThatOthersMayEnterIsNotTrusted(t *testing.T) {
	tcp := listen(t)
	lis, err := local.Listen(tcp.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	dir := filepath.Dir(lis.Addr().String())
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the fault that is looked for
		t.Fatal(err)
	}
	if path, ok := local.Find(tcp.Addr().String()); ok {
		t.Errorf("found %s", path)
	}
	if _, err := local.Listen(tcp.Addr()); !errors.Is(err, local.ErrUnsupported) {
		t.Errorf("listen: got %v, want ErrUnsupported", err)
	}
}

func TestServicesThatComeAndGoTogetherLeaveNoFolder(t *testing.T) {
	listen(t) // for a TMPDIR of its own
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			tcp, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = tcp.Close() }()
			for range 100 {
				lis, err := local.Listen(tcp.Addr())
				if err != nil {
					t.Error(err)
					return
				}
				_ = lis.Close()
			}
		})
	}
	wg.Wait()
	left, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		t.Errorf("%s was left behind", f.Name())
	}
}
