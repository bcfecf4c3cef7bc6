package dlq_test

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/dlq/embed"
)

// childEnv makes the test binary the process that a test kills.
const childEnv = "DLQ_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		appendForever(dir)
		return
	}
	if what := os.Getenv(serverEnv); what != "" {
		serve(what)
		return
	}
	// Tests of clusters wait for elections most of the time.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// instance is a store and its server over the files in one directory.
type instance struct {
	server *embed.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	cfg    dlq.Config
	store  *dlq.Store
}

func start(dir string, cfg dlq.Config) (*instance, error) {
	server, err := embed.Open(embed.Config{Dir: filepath.Join(dir, "nats"), MaxStoreBytes: 16 << 30})
	if err != nil {
		return nil, err
	}
	in := &instance{server: server}
	if in.nc, err = server.Connect(); err != nil {
		return nil, fmt.Errorf("%w, and %v", err, server.Close())
	}
	if in.js, err = jetstream.New(in.nc); err != nil {
		return nil, fmt.Errorf("%w, and %v", err, server.Close())
	}
	cfg.Dir = filepath.Join(dir, "mark")
	return in, in.open(cfg)
}

func (in *instance) open(cfg dlq.Config) error {
	store, err := dlq.Open(bg, in.js, cfg)
	if err != nil {
		return fmt.Errorf("%w, and %v", err, in.server.Close())
	}
	in.store, in.cfg = store, cfg
	return nil
}

func (in *instance) stop() error {
	if err := in.store.Close(); err != nil {
		return err
	}
	return in.server.Close()
}

// open starts an instance that the test's end stops, if the test does not.
func open(t testing.TB, dir string, cfg dlq.Config) *instance {
	t.Helper()
	if testing.Verbose() && cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	in, err := start(dir, cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := in.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return in
}

// reopen stops an instance and starts another one on its files.
func reopen(t testing.TB, in *instance, dir string, cfg dlq.Config) *instance {
	t.Helper()
	if err := in.stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	return open(t, dir, cfg)
}
