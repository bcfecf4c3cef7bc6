package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/lifecycle"
	"github.com/conveyor-etl/conveyor/internal/lock"
	"github.com/conveyor-etl/conveyor/internal/logging"
	"github.com/conveyor-etl/conveyor/internal/ops"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/api"
	"github.com/conveyor-etl/conveyor/router/internal/control"
	"github.com/conveyor-etl/conveyor/router/internal/forward"
	"github.com/conveyor-etl/conveyor/router/internal/letters"
	"github.com/conveyor-etl/conveyor/router/internal/replay"
	"github.com/conveyor-etl/conveyor/router/internal/state"
)

// The folders of the data directory.
const (
	raftDir    = "raft"
	lettersDir = "dead-letters"
)

// drainCalls bounds how long a stop waits for calls in progress.
const drainCalls = 5 * time.Second

const (
	readyPoll = 10 * time.Millisecond
	// maxForwarded is the largest answer that a router passes on: a page of records.
	maxForwarded = 16 << 20
)

// Router is one control-plane node.
type Router struct {
	cfg      Config
	logger   *slog.Logger
	certs    *certs.Store // nil without certificates
	lis      net.Listener
	ops      *ops.Server
	opsLis   net.Listener // nil when ops listens itself
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	ready    chan struct{}

	// Made by Run, in this order.
	lock       *lock.Lock
	machine    *state.Machine
	store      *raftstore.Store
	letters    *letters.Store
	controller *control.Controller
	broker     *replay.Broker
	server     *rpc.Server
	forwarder  *forward.Forwarder
	onStop     func(func()) (forget func() bool) // calls when the router begins to stop, before the server drains
	stopCalls  context.CancelFunc
}

// New checks the configuration, reads the certificates and opens the ports, so that Addr is known before Run. It does not touch the data directory: Run does. A
// nil logger discards. Who does not call Run calls Close. Listeners of the configuration stay the caller's when New fails.
func New(cfg Config, logger *slog.Logger) (*Router, error) {
	if err := errors.Join(cfg.Validate(), cfg.TLS.Validate()); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	if logger == nil {
		logger = logging.Discard()
	}
	r := &Router{cfg: cfg, logger: logger, lis: cfg.Listener, opsLis: cfg.OpsListener, registry: prometheus.NewRegistry(), ready: make(chan struct{})}
	stopping, stop := context.WithCancel(context.Background())
	r.stopCalls = stop
	r.onStop = func(f func()) func() bool { return context.AfterFunc(stopping, f) }
	var err error
	if cfg.hasTLS() {
		if r.certs, err = loadCerts(&cfg, logger); err != nil {
			return nil, err
		}
	}
	if err := r.registerMetrics(); err != nil {
		return nil, err
	}
	r.ops, err = ops.New(ops.Config{Host: r.opsHost(), Port: int(cfg.OpsPort), Setting: "OPS_PORT", Logger: logger}, r.registry, ops.Checks{
		"leader":       r.checkLeader,
		"dead-letters": r.checkLetters,
	})
	if err != nil {
		return nil, err
	}
	if r.lis == nil {
		if r.lis, err = rpc.Listen(context.Background(), cfg.listenHost(), int(cfg.GRPCPort), cfg.hasTLS(), "GRPC_PORT"); err != nil {
			return nil, fmt.Errorf("open the gRPC port: %w", err)
		}
	}
	if r.opsLis == nil {
		if err := r.ops.Listen(context.Background()); err != nil {
			if cfg.Listener == nil {
				err = errors.Join(err, r.lis.Close())
			}
			return nil, fmt.Errorf("open the ops port: %w", err)
		}
	}
	return r, nil
}

func (r *Router) opsHost() string {
	if r.opsLis != nil {
		host, _, _ := net.SplitHostPort(r.opsLis.Addr().String())
		return host
	}
	return r.cfg.listenHost()
}

// Addr is the address of the gRPC API.
func (r *Router) Addr() net.Addr { return r.lis.Addr() }

// OpsAddr is the address of the ops port.
func (r *Router) OpsAddr() net.Addr {
	if r.opsLis != nil {
		return r.opsLis.Addr()
	}
	return r.ops.Addr()
}

// Ready is closed when the router leads its cluster, or knows who does, and answers.
func (r *Router) Ready() <-chan struct{} { return r.ready }

// Close gives the ports of a router back that is not run. It may be called again.
func (r *Router) Close() error {
	r.stopCalls()
	err := ignoreClosed(r.lis.Close())
	if r.opsLis != nil {
		return errors.Join(err, ignoreClosed(r.opsLis.Close()))
	}
	return errors.Join(err, r.ops.Close())
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Run opens the data directory and serves until ctx ends, then stops gracefully and returns nil. An error says what failed; everything is closed then, too. It
// may be called once.
func (r *Router) Run(ctx context.Context) error {
	g := lifecycle.Group{Logger: r.logger}
	g.Add(
		lifecycle.Component{Name: "data directory", Start: r.openDir, Stop: func(context.Context) error { return r.lock.Close() }},
		lifecycle.Component{Name: "ops port", Run: r.runOps},
		lifecycle.Component{Name: "raft", Start: r.openRaft, Run: r.watchRaft, Stop: func(context.Context) error { return r.store.Close() }},
		lifecycle.Component{Name: "controller", Start: r.makeController, Run: background(func(ctx context.Context) { r.controller.Run(ctx) })},
		lifecycle.Component{Name: "dead letters", Start: r.makeLetters, Run: background(func(ctx context.Context) { r.letters.Run(ctx) }), StopTimeout: time.Minute},
		lifecycle.Component{Name: "replays", Start: r.makeBroker, Run: background(func(ctx context.Context) { r.broker.Run(ctx) })},
		lifecycle.Component{Name: "routers", Run: r.tendRouters},
		lifecycle.Component{Name: "certificates", Run: r.watchCerts},
		lifecycle.Component{Name: "API", Start: r.makeServer, Run: r.serve, StopTimeout: 2 * drainCalls},
	)
	err := g.Run(ctx)
	return errors.Join(err, r.Close())
}

// background adapts work that cannot fail.
func background(work func(context.Context)) func(context.Context) error {
	return func(ctx context.Context) error {
		work(ctx)
		return nil
	}
}

func (r *Router) openDir(context.Context) (err error) {
	r.lock, err = lock.Acquire(r.cfg.DataDir)
	return err
}

func (r *Router) openRaft(ctx context.Context) (err error) {
	cfg := raftstore.Config{
		Dir: filepath.Join(r.cfg.DataDir, raftDir), ServerName: strconv.Itoa(r.cfg.NodeID), Peers: r.cfg.peers(), DialOptions: r.dialOptions,
		Timeouts: r.cfg.RaftTimeouts, MinFree: int64(r.cfg.MinFree), Log: raftstore.LogKind(r.cfg.RaftLog), Logger: r.logger,
	}
	if self, listed := r.cfg.self(); listed {
		cfg.Address = self.Address.String()
	}
	if len(cfg.Peers) == 1 {
		cfg.Peers = nil // nobody to meet
	}
	if cfg.Address == "" {
		if cfg.Address, err = r.advertised(); err != nil {
			return err
		}
	}
	r.machine = state.New()
	r.store, err = raftstore.Open(ctx, cfg, r.machine)
	if other := (*raftstore.OtherLogError)(nil); errors.As(err, &other) {
		return fmt.Errorf("RAFT_LOG: %w", err)
	}
	return err
}

// dialOptions are those for another router.
func (r *Router) dialOptions(address string) ([]grpc.DialOption, error) {
	cfg := r.dialConfig()
	if err := rpc.CheckDial(address, cfg.TLS != nil); err != nil {
		return nil, err
	}
	return rpc.DialOptions(cfg), nil
}

func (r *Router) dialConfig() rpc.DialConfig {
	cfg := rpc.DialConfig{MaxMessageBytes: maxForwarded}
	if r.certs != nil {
		cfg.TLS = r.certs.ClientCredentials(certs.RoleRouter)
	}
	return cfg
}

// dial connects to another router.
func (r *Router) dial(address string) (*grpc.ClientConn, error) {
	return rpc.Dial(address, r.dialConfig())
}

func (r *Router) advertised() (string, error) {
	if r.cfg.AdvertiseAddress != "" {
		return r.cfg.AdvertiseAddress, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find the name of this host (set ADVERTISE_ADDRESS instead): %w", err)
	}
	_, port, err := net.SplitHostPort(r.lis.Addr().String())
	if err != nil {
		return "", fmt.Errorf("find the port of the API: %w", err)
	}
	return net.JoinHostPort(host, port), nil
}

// watchRaft ends the router when its state machine has halted: what it would answer from then on could be wrong.
func (r *Router) watchRaft(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-r.store.Failed():
		return r.store.Err()
	}
}

func (r *Router) makeLetters(context.Context) error {
	r.letters = letters.New(filepath.Join(r.cfg.DataDir, lettersDir), r.letterCluster(), r.logger)
	return nil
}

func (r *Router) makeBroker(context.Context) error {
	r.broker = replay.New(replay.Config{
		Owner: func(pipeline, stage string) string {
			return r.machine.View().Assignments[state.StageKey{Pipeline: pipeline, Stage: stage}].GetSidecarId()
		},
		Load: r.letters.Load, Discard: r.letters.DiscardOne, Logger: r.logger,
	})
	return nil
}

func (r *Router) makeController(context.Context) error {
	r.controller = control.New(control.Config{
		SessionTTL: r.cfg.SessionTTL, Sign: r.cfg.hasTLS(), DrainTimeout: r.cfg.DrainTimeout, Resolver: net.DefaultResolver, Logger: r.logger,
	}, r.store, r.machine)
	return nil
}

func (r *Router) makeServer(context.Context) error {
	r.forwarder = forward.New(r.forwarding())
	cfg := rpc.ServerConfig{
		Logger: r.logger,
		Unary:  []grpc.UnaryServerInterceptor{r.countUnary, api.Rules.Unary, api.IdentityUnary, r.forwarder.Unary},
		Stream: []grpc.StreamServerInterceptor{r.countStream, api.Rules.Stream, api.IdentityStream, r.forwarder.Stream},
	}
	if r.certs != nil {
		cfg.TLS = r.certs.ServerCredentials()
	}
	r.server = rpc.NewServer(cfg)
	api.Register(r.server, api.Config{
		Controller: r.controller, Machine: r.machine, Store: r.store, Letters: r.letters, Broker: r.broker, Dial: r.dial, RaftService: r.store.RaftService(),
		SessionTTL: r.cfg.SessionTTL, HeartbeatEvery: r.cfg.Heartbeat, Sign: r.cfg.hasTLS(), Logger: r.logger, OnStop: r.onStop,
	})
	return api.Rules.Check(r.server)
}

// serve answers at once, because routers must meet before one of them leads; calls wait for that.
func (r *Router) serve(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.awaitReady(ctx) })
	drain, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		// Whoever leads next is there before this router's callers look for it. Long streams end first; otherwise the graceful stop would wait for them.
		r.handOver()
		r.stopCalls()
		r.store.Refuse()
		cancel()
	})
	err := r.server.Serve(drain, r.lis, drainCalls)
	return errors.Join(err, r.forwarder.Close())
}

// awaitReady closes ready when this router can answer: it leads, or knows who does.
func (r *Router) awaitReady(ctx context.Context) {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for opened := r.letters.Opened(); ; {
		if _, leads := r.controller.Leading(); opened == nil && (leads || r.leader().address != "") {
			close(r.ready)
			r.logger.Info("router is ready", "address", r.lis.Addr().String(), "cluster", r.store.ClusterID(), "server", r.store.ServerID(), "leader", r.store.Leader())
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-opened:
			opened = nil
		case <-tick.C:
		}
	}
}

// loadCerts reads the certificates and makes sure that they are this router's: others would refuse it with those of another part.
func loadCerts(cfg *Config, logger *slog.Logger) (*certs.Store, error) {
	store, err := certs.Load(cfg.TLS, logger)
	if err != nil {
		return nil, err
	}
	own := certs.Identity{Role: certs.RoleRouter, Name: strconv.Itoa(cfg.NodeID)}
	if got, err := store.Identity(); err != nil {
		return nil, fmt.Errorf("TLS_CERT_FILE %s: %w", cfg.TLS.Cert, err)
	} else if got != own {
		return nil, fmt.Errorf("TLS_CERT_FILE %s: it is the certificate of %s, and this is %s by its RAFT_NODE_ID", cfg.TLS.Cert, got, own)
	}
	return store, nil
}

// ReloadCertificates takes renewed certificates over now, and not only within seconds, as Run does by itself. It returns an error when they cannot be used; those in use
// stay then.
func (r *Router) ReloadCertificates() error {
	if r.certs == nil {
		return nil
	}
	_, err := r.certs.Reload()
	return err
}

func (r *Router) watchCerts(ctx context.Context) error {
	if r.certs == nil {
		return nil
	}
	return r.certs.Watch(ctx, 0)
}

func (r *Router) checkLetters(ctx context.Context) error {
	select {
	case <-r.ready:
		return r.letters.Check(ctx)
	default:
		return errors.New("the router is starting")
	}
}
