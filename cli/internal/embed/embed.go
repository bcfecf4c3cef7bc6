// Package embed runs a router, the ready-made connectors and a sidecar in this process. They talk to each other over loopback exactly as separate processes do.
package embed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/connectors"
	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/internal/lock"
	"github.com/conveyor-etl/conveyor/internal/version"
	"github.com/conveyor-etl/conveyor/router"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sidecar"
)

const (
	// startTimeout bounds the start of one part; reading a large state takes a while.
	startTimeout = time.Minute
	// Heartbeat is how often sidecars report: short, because people look at the counts that it brings.
	Heartbeat = 250 * time.Millisecond
	// stopTimeout bounds the end of a part that has no records to drain.
	stopTimeout = 10 * time.Second
)

// Config says where a System keeps its state and where it listens.
type Config struct {
	// DataDir holds the state of all parts. One System at a time uses it; it is made when it does not exist.
	DataDir string
	// Listener serves the API; nil picks a free port of loopback. The System closes it.
	Listener net.Listener
	// Routers are the addresses of routers that run elsewhere; the System runs none then, and Listener must be nil.
	Routers []string
	// DrainTimeout bounds how long records in flight may take to settle when the sidecar stops; 0 leaves it to the sidecar.
	DrainTimeout time.Duration
	// Stdin and Stdout are those of the connectors of these names; nil means the process's own.
	Stdin  io.Reader
	Stdout io.Writer
	// Logger receives what the parts have to say; nil discards it.
	Logger *slog.Logger
}

// System is the parts in this process. Its methods are not safe for concurrent use, except Client.
type System struct {
	cfg    Config
	lock   *lock.Lock
	client *client.Client

	router     *router.Router // nil when the routers run elsewhere
	sidecar    *sidecar.Sidecar
	connectors net.Listener
	running    []*part
	failed     chan error
}

// Addresses are where the parts of a System listen, each host:port.
type Addresses struct {
	API            string `json:"api"`
	RouterMetrics  string `json:"routerMetrics,omitempty"`
	Sidecar        string `json:"sidecar,omitempty"`
	SidecarMetrics string `json:"sidecarMetrics,omitempty"`
	Connectors     string `json:"connectors,omitempty"`
}

// Open takes the data directory and starts the router in it, and nothing that moves records: see StartData. It returns when the router answers. An error that
// is a *lock.HeldError says who uses the directory.
func Open(ctx context.Context, cfg Config) (*System, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &System{cfg: cfg, failed: make(chan error, 8)}
	if err := s.open(ctx); err != nil {
		if s.router == nil && cfg.Listener != nil {
			err = errors.Join(err, cfg.Listener.Close())
		}
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *System) open(ctx context.Context) error {
	var err error
	if s.lock, err = lock.Acquire(s.cfg.DataDir); err != nil {
		return err
	}
	if len(s.cfg.Routers) > 0 {
		s.client, err = client.Dial(ctx, s.cfg.Routers, client.WithUserAgent("conveyor/"+version.Get().Version))
		return err
	}
	api := s.cfg.Listener
	if api == nil {
		if api, err = loopback(ctx); err != nil {
			return err
		}
		s.cfg.Listener = api
	}
	ops, err := loopback(ctx)
	if err != nil {
		return err
	}
	cfg := router.DefaultConfig()
	cfg.DataDir = filepath.Join(s.cfg.DataDir, "router")
	cfg.Listener, cfg.OpsListener = api, ops
	cfg.Heartbeat = Heartbeat
	r, err := router.New(cfg, s.cfg.Logger.With("part", "router"))
	if err != nil {
		return errors.Join(fmt.Errorf("set up the router: %w", err), ops.Close())
	}
	s.router = r
	if err := s.start(ctx, "router", stopTimeout, r.Run, r.Ready()); err != nil {
		return err
	}
	s.client, err = client.Dial(ctx, []string{api.Addr().String()}, client.WithRetryFor(2*time.Second), client.WithUserAgent("conveyor/"+version.Get().Version))
	return err
}

// StartData starts the connectors and the sidecar, so that pipelines run. It returns when the sidecar has registered.
func (s *System) StartData(ctx context.Context) error {
	lis, err := loopback(ctx)
	if err != nil {
		return err
	}
	srv, err := connectors.NewServer(connectors.Options{Stdin: s.cfg.Stdin, Stdout: s.cfg.Stdout},
		sdk.WithLogger(s.cfg.Logger.With("part", "connectors")), sdk.WithVersion(version.Get().Version))
	if err != nil {
		return errors.Join(fmt.Errorf("set up the connectors: %w", err), lis.Close())
	}
	s.connectors = lis
	serving := make(chan struct{})
	close(serving) // connections wait in the listener until they are accepted
	if err := s.start(ctx, "connectors", stopTimeout, func(ctx context.Context) error { return srv.Serve(ctx, lis) }, serving); err != nil {
		return err
	}

	port := lis.Addr().(*net.TCPAddr).Port
	cfg := sidecar.DefaultConfig()
	for _, address := range s.routers() {
		hp, err := env.ParseHostPort(address)
		if err != nil {
			return fmt.Errorf("set up the sidecar: router %s: %w", address, err)
		}
		cfg.Routers = append(cfg.Routers, hp)
	}
	cfg.GRPCPort, cfg.OpsPort = 0, 0
	cfg.DiscoveryPorts = env.Ports{{First: port, Last: port}}
	cfg.DataDir = filepath.Join(s.cfg.DataDir, "sidecar")
	cfg.DrainTimeout = s.cfg.DrainTimeout
	sc, err := sidecar.New(cfg, s.cfg.Logger.With("part", "sidecar"))
	if err != nil {
		return fmt.Errorf("set up the sidecar: %w", err)
	}
	s.sidecar = sc
	drain := s.cfg.DrainTimeout
	if drain == 0 {
		drain = sidecar.DefaultDrainTimeout
	}
	return s.start(ctx, "sidecar", drain+stopTimeout, sc.Run, sc.Ready())
}

// routers are the addresses of the API.
func (s *System) routers() []string {
	if s.router == nil {
		return s.cfg.Routers
	}
	return []string{s.router.Addr().String()}
}

// StopData drains and stops the sidecar, and then the connectors. The router goes on.
func (s *System) StopData() error {
	var errs []error
	data := 1
	if s.router == nil {
		data = 0
	}
	for len(s.running) > data {
		errs = append(errs, s.stopLast())
	}
	return errors.Join(errs...)
}

// Close drains and stops everything and gives the data directory back. It may be called more than once.
func (s *System) Close() error {
	errs := []error{s.StopData()}
	if s.client != nil {
		errs = append(errs, s.client.Close())
	}
	for len(s.running) > 0 {
		errs = append(errs, s.stopLast())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Client is a client of the router. It ends with the System.
func (s *System) Client() *client.Client { return s.client }

// Failed gives the error of a part that ended by itself.
func (s *System) Failed() <-chan error { return s.failed }

// Addresses are where the parts that were started listen.
func (s *System) Addresses() Addresses {
	a := Addresses{API: strings.Join(s.routers(), ",")}
	if s.router != nil {
		a.RouterMetrics = s.router.OpsAddr().String()
	}
	if s.sidecar != nil {
		a.Sidecar, a.SidecarMetrics = s.sidecar.Addr().String(), s.sidecar.OpsAddr().String()
	}
	if s.connectors != nil {
		a.Connectors = s.connectors.Addr().String()
	}
	return a
}

func loopback(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a port of loopback: %w", err)
	}
	return lis, nil
}

// part is one running component.
type part struct {
	name    string
	timeout time.Duration
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // of its Run, valid after done
}

// start runs a part until stopLast, and waits until it is ready.
func (s *System) start(ctx context.Context, name string, timeout time.Duration, run func(context.Context) error, ready <-chan struct{}) error {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{name: name, timeout: timeout, cancel: cancel, done: make(chan struct{})}
	s.running = append(s.running, p)
	go func() {
		defer close(p.done)
		p.err = run(life)
		if life.Err() == nil {
			err := p.err
			if err == nil {
				err = errors.New("it ended by itself")
			}
			select {
			case s.failed <- fmt.Errorf("%s: %w", name, err):
			default:
			}
		}
	}()
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	select {
	case <-ready:
		return nil
	case <-p.done:
		return fmt.Errorf("start the %s: %w", name, cmpErr(p.err, errors.New("it ended by itself")))
	case <-limit.C:
		return fmt.Errorf("start the %s: not ready after %v", name, startTimeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stopLast ends the part that was started last and waits for it.
func (s *System) stopLast() error {
	p := s.running[len(s.running)-1]
	s.running = s.running[:len(s.running)-1]
	failed := false
	select {
	case <-p.done:
		failed = true // start or Failed told the error already
	default:
	}
	p.cancel()
	limit := time.NewTimer(p.timeout)
	defer limit.Stop()
	select {
	case <-p.done:
		if p.err != nil && !failed {
			return fmt.Errorf("stop the %s: %w", p.name, p.err)
		}
		return nil
	case <-limit.C:
		return fmt.Errorf("stop the %s: it has not ended after %v", p.name, p.timeout)
	}
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
