package embed_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/conveyor-etl/conveyor/dlq/embed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg embed.Config) *embed.Server {
	t.Helper()
	s, err := embed.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestServer_KeepsStreamsOverClosing(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	for round := range 3 {
		s := open(t, embed.Config{Dir: dir, MaxStoreBytes: 1 << 30})
		nc, err := s.Connect()
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxBytes: 1 << 29}); err != nil {
			t.Fatal(err)
		}
		// As large as the default allows.
		ack, err := js.Publish(ctx, "s", make([]byte, embed.DefaultMaxPayload-100))
		if err != nil || ack.Sequence != uint64(round+1) {
			t.Fatalf("round %d: %+v, %v", round, ack, err)
		}
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if !nc.IsClosed() {
			t.Error("a connection outlived the server")
		}
		if _, err := s.Connect(); !errors.Is(err, embed.ErrClosed) {
			t.Errorf("connect after closing: %v", err)
		}
		if s.Err() != nil {
			t.Errorf("closing counts as failing: %v", s.Err())
		}
	}
}

func TestServer_ListensNowhere(t *testing.T) {
	s := open(t, embed.Config{Dir: t.TempDir()})
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	if urls := nc.DiscoveredServers(); len(urls) > 0 {
		t.Errorf("the server announces %v", urls)
	}
	if n := len(listening(t)); n > 0 {
		t.Errorf("%d descriptors listen", n)
	}
}

// listening returns the sockets at which this process listens.
func listening(t *testing.T) map[string]bool {
	t.Helper()
	inodes, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc")
	}
	all := make(map[string]bool)
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			// State 0A is LISTEN; the tenth field is the inode.
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" {
				all["socket:["+f[9]+"]"] = true
			}
		}
	}
	own := make(map[string]bool)
	for _, fd := range inodes {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err == nil && all[target] {
			own[target] = true
		}
	}
	return own
}

func TestOpen_AFatalErrorOfTheServerIsAnErrorAndNotTheEnd(t *testing.T) {
	dir := t.TempDir()
	// The server's own directory is in the way of JetStream's.
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := embed.Open(embed.Config{Dir: dir, StartTimeout: 5 * time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err == nil {
		t.Fatal("opened", s.Close())
	}
	if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "failed") {
		t.Errorf("error: %v", err)
	}
	if !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("log: %s", &log)
	}
}

func TestOpen_RefusesABadConfiguration(t *testing.T) {
	for name, cfg := range map[string]embed.Config{
		"no directory":   {},
		"negative store": {Dir: t.TempDir(), MaxStoreBytes: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := embed.Open(cfg); err == nil {
				t.Error("opened", s.Close())
			}
		})
	}
}

func TestOpen_LimitsTheStoreByTheVolume(t *testing.T) {
	s := open(t, embed.Config{Dir: t.TempDir()})
	if n := s.MaxStoreBytes(); n <= 0 || n > embed.DefaultMaxStoreBytes {
		t.Errorf("default limit %d", n)
	}
	if s := open(t, embed.Config{Dir: t.TempDir(), MaxStoreBytes: 1 << 24}); s.MaxStoreBytes() != 1<<24 {
		t.Errorf("explicit limit became %d", s.MaxStoreBytes())
	}
}
