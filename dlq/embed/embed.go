// Package embed runs a NATS server with JetStream inside the process, for the dead letters of one machine or of a cluster.
//
// Only this process is a client of the server, through memory. A server that is alone listens nowhere; those of a cluster listen for each other. It syncs every
// write to disk before it confirms it, and nothing it logs or suffers ends the process.
package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// DefaultMaxStoreBytes is the default of Config.MaxStoreBytes.
	DefaultMaxStoreBytes = 10 << 30
	// DefaultMaxPayload is the default of Config.MaxPayload: a record of 4 MiB and its envelope.
	DefaultMaxPayload = 4<<20 + 128<<10

	defaultStartTimeout = 30 * time.Second
	jetStreamPoll       = time.Second
	storeMode           = 0o750
)

// ErrClosed is returned by Connect after Close.
var ErrClosed = errors.New("embedded NATS server is closed")

// Config says where the server keeps its streams and how much it may take. The zero value of every field but Dir means its default.
type Config struct {
	// Dir is the server's directory. It is made if missing, and no two servers may share it.
	Dir string
	// ServerName names the server. Default "conveyor-dlq". In a cluster it is required; a server that lost its directory comes back under a name that nobody had.
	ServerName string
	// MaxStoreBytes bounds what all streams together may take on disk. Default DefaultMaxStoreBytes, but at most 70 % of the size of the
	// volume that Dir is on; an explicit value is taken as it is.
	MaxStoreBytes int64
	// MaxPayload is the largest message in bytes. Default DefaultMaxPayload.
	MaxPayload int32
	// StartTimeout bounds how long Open waits for the server, which reads its streams first. Default 30 seconds.
	StartTimeout time.Duration
	// Cluster makes it one of several servers. Nil: it is alone. A directory belongs to one of the two for ever, and in a cluster to one server: others are refused with
	// ErrOtherMode.
	Cluster *Cluster
	// Logger receives the server's own log. Default: nothing is logged.
	Logger *slog.Logger
}

// Server is a running server. Its methods may be called concurrently.
type Server struct {
	ns       *server.Server
	dir      string
	log      *natsLogger
	maxStore int64
	secrets  *secrets // nil outside of a cluster

	mu    sync.Mutex
	conns []*nats.Conn

	closing   chan struct{}
	closeOnce sync.Once
	watch     sync.WaitGroup
}

// Open starts a server and returns when JetStream is ready, which takes longer the more it has to recover. Close it.
func Open(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("open embedded NATS server: Dir is empty")
	}
	if cfg.MaxStoreBytes < 0 || cfg.MaxPayload < 0 || cfg.StartTimeout < 0 {
		return nil, errors.New("open embedded NATS server: MaxStoreBytes, MaxPayload and StartTimeout must not be negative")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open embedded NATS server in %s: %w", cfg.Dir, err)
	}
	if err := os.MkdirAll(dir, storeMode); err != nil {
		return nil, fmt.Errorf("open embedded NATS server in %s: %w", dir, err)
	}
	if cfg.MaxStoreBytes == 0 {
		cfg.MaxStoreBytes = DefaultStoreBytes(dir)
	}
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = defaultStartTimeout
	}
	opts, keys, err := prepare(&cfg, dir)
	if err != nil {
		return nil, fmt.Errorf("open embedded NATS server in %s: %w", dir, err)
	}
	log := newNATSLogger(cfg.Logger)
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("open embedded NATS server in %s: %w", dir, err)
	}
	ns.SetLoggerV2(log, false, false, false)

	s := &Server{ns: ns, dir: dir, log: log, maxStore: cfg.MaxStoreBytes, secrets: keys, closing: make(chan struct{})}
	ns.Start()
	s.watch.Go(func() {
		ns.WaitForShutdown()
		select {
		case <-s.closing:
		default:
			log.fail(errors.New("the server shut down by itself"))
		}
	})
	if err := s.ready(cfg.StartTimeout); err != nil {
		return nil, errors.Join(fmt.Errorf("open embedded NATS server in %s: %w", dir, err), s.Close())
	}
	s.watch.Go(s.watchJetStream)
	return s, nil
}

// prepare makes the directory this server's, and the options of the server.
func prepare(cfg *Config, dir string) (*server.Options, *secrets, error) {
	opts := options(cfg, dir)
	if cfg.Cluster == nil {
		return opts, nil, mark(dir, marker{Mode: modeAlone})
	}
	if err := cfg.Cluster.check(); err != nil {
		return nil, nil, err
	}
	if cfg.ServerName == "" {
		return nil, nil, errors.New("a server of a cluster needs a name of its own")
	}
	keys := newSecrets()
	if err := cfg.Cluster.apply(opts, keys); err != nil {
		return nil, nil, err
	}
	if err := mark(dir, marker{Mode: modeCluster, Cluster: cfg.Cluster.Name, Server: cfg.ServerName}); err != nil {
		return nil, nil, err
	}
	return opts, keys, countAnew(dir)
}

func options(cfg *Config, dir string) *server.Options {
	name := cfg.ServerName
	if name == "" {
		name = "conveyor-dlq"
	}
	payload := cfg.MaxPayload
	if payload == 0 {
		payload = DefaultMaxPayload
	}
	return &server.Options{
		ServerName: name,
		DontListen: true,
		NoSigs:     true,
		JetStream:  true,
		StoreDir:   dir,
		// Explicit, because the default follows the free space: a store that is full could then not start any more.
		JetStreamMaxStore: cfg.MaxStoreBytes,
		// Streams are files. Memory is only for the state of short-lived readers.
		JetStreamMaxMemory: 64 << 20,
		// The server's default confirms first and syncs within two minutes; a power cut would take confirmed letters.
		SyncAlways: true,
		MaxPayload: payload,
		// One batch of letters is written without waiting, so a connection must be allowed to lag behind by several.
		MaxPending: 64 << 20,
	}
}

// ready waits until JetStream serves, the server failed, or the time is over.
func (s *Server) ready(timeout time.Duration) error {
	if s.secrets != nil {
		// The server would wait for the listener that it must not have.
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := s.awaitRoutes(ctx); err != nil {
			return err
		}
	} else if err := s.readyAlone(timeout); err != nil {
		return err
	}
	if err := s.log.err(); err != nil {
		return err
	}
	if !s.ns.JetStreamEnabled() {
		return errors.New("JetStream did not start")
	}
	return nil
}

func (s *Server) readyAlone(timeout time.Duration) error {
	ready := make(chan bool, 1)
	s.watch.Go(func() { ready <- s.ns.ReadyForConnections(timeout) })
	select {
	case <-s.log.failed:
		return s.log.err()
	case ok := <-ready:
		if !ok {
			return fmt.Errorf("the server was not ready within %s", timeout)
		}
		return nil
	}
}

// watchJetStream marks the server failed when it has shut its streams off, as one of a cluster does on a full disk: only a new server serves them again.
func (s *Server) watchJetStream() {
	tick := time.NewTicker(jetStreamPoll)
	defer tick.Stop()
	for {
		select {
		case <-s.closing:
			return
		case <-tick.C:
			if s.ns.JetStreamEnabled() {
				continue
			}
			select {
			case <-s.closing:
			default:
				s.log.fail(errors.New("the server has shut its streams off, most likely because its disk is full or failing"))
			}
			return
		}
	}
}

// Connect returns a connection through memory. It belongs to the caller, who may close it; Close closes those that are left.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closing:
		return nil, ErrClosed
	default:
	}
	if s.secrets != nil {
		opts = append([]nats.Option{nats.UserInfo(appUser, s.secrets.app)}, opts...)
	}
	nc, err := s.connect(opts...)
	if err != nil {
		return nil, err
	}
	s.conns = append(s.conns, nc)
	return nc, nil
}

// MaxStoreBytes is what all streams together may take on disk.
func (s *Server) MaxStoreBytes() int64 { return s.maxStore }

// Failed is closed when the server can no longer serve. Close it then and open another one.
func (s *Server) Failed() <-chan struct{} { return s.log.failed }

// Err is nil until Failed is closed, and then says why.
func (s *Server) Err() error { return s.log.err() }

// Close stops the server and returns when it is gone: its files are complete and another server may be opened on them. It closes all
// connections and may be called again.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		s.mu.Lock()
		conns := s.conns
		s.conns = nil
		s.mu.Unlock()
		for _, nc := range conns {
			nc.Close()
		}
		s.ns.Shutdown()
	})
	s.ns.WaitForShutdown()
	s.watch.Wait()
	return nil
}
