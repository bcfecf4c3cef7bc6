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
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/dlq/embed"
	"github.com/conveyor-etl/conveyor/internal/auth"
	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/lifecycle"
	"github.com/conveyor-etl/conveyor/internal/lock"
	"github.com/conveyor-etl/conveyor/internal/logging"
	"github.com/conveyor-etl/conveyor/internal/ops"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	"github.com/conveyor-etl/conveyor/internal/version"
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
	// maxConnections is twice what the sidecars that may be registered need. Those of other routers do not count.
	maxConnections = 20_000
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
	lock    *lock.Lock
	machine *state.Machine
	store   *raftstore.Store
	letters *letters.Store
	// lettersRoom is how many bytes this router gives letters when there are several routers.
	lettersRoom int64
	controller  *control.Controller
	broker      *replay.Broker
	server      *rpc.Server
	forwarder   *forward.Forwarder
	onStop      func(func()) (forget func() bool) // calls when the router begins to stop, before the server drains
	stopCalls   context.CancelFunc
	removed     atomic.Bool // from the cluster, for good
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
		lifecycle.Component{Name: "states", Run: r.compareStates},
		lifecycle.Component{Name: "membership", Run: r.watchRemoval},
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
	if r.lock, err = lock.Acquire(r.cfg.DataDir); err != nil {
		return err
	}
	if err := errors.Join(checkRecovered(r.cfg.DataDir), checkDiverged(r.cfg.DataDir)); err != nil {
		return errors.Join(err, r.lock.Close())
	}
	return nil
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
	if len(r.cfg.Peers) > 1 {
		r.machine.WantFingerprints(fmt.Sprintf("%s, level %d", version.String(), state.FeatureLevel))
	}
	r.store, err = raftstore.Open(ctx, cfg, r.machine)
	if other := (*raftstore.OtherLogError)(nil); errors.As(err, &other) {
		return fmt.Errorf("RAFT_LOG: %w", err)
	}
	if damaged := (*raftstore.DamagedError)(nil); errors.As(err, &damaged) && damaged.Peers {
		return fmt.Errorf("%w: conveyor cluster remove %s, and once it runs empty, conveyor cluster add %s", err, cfg.ServerName, cfg.Address)
	}
	return err
}

// dialOptions are those for another router.
func (r *Router) dialOptions(to raftstore.Peer) ([]grpc.DialOption, error) {
	cfg := r.dialConfig(to.ServerName)
	if err := rpc.CheckDial(to.Address, cfg.TLS != nil); err != nil {
		return nil, err
	}
	return rpc.DialOptions(cfg), nil
}

// dialConfig is for the router of a number: on one machine the certificates of all routers fit the host. An empty number is any router's.
func (r *Router) dialConfig(number string) rpc.DialConfig {
	cfg := rpc.DialConfig{MaxMessageBytes: maxForwarded}
	switch {
	case r.certs == nil:
	case number == "":
		cfg.TLS = r.certs.ClientCredentials(certs.RoleRouter)
	default:
		cfg.TLS = r.certs.HostCredentials(certs.RoleRouter, number)
	}
	return cfg
}

// dial connects to another router. The id is what its ServerID says, and empty while that is not known: then any router may answer.
func (r *Router) dial(id, address string) (*grpc.ClientConn, error) {
	return rpc.Dial(address, r.dialConfig(api.Number(id)))
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
	dir := filepath.Join(r.cfg.DataDir, lettersDir)
	r.lettersRoom = embed.DefaultStoreBytes(dir)
	r.letters = letters.New(dir, r.letterCluster(), r.logger)
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
		MaxConnections: maxConnections, Spare: auth.IsRouter, Logger: r.logger,
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

// awaitReady closes ready when this router can answer: it leads, or follows who does.
func (r *Router) awaitReady(ctx context.Context) {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for opened := r.letters.Opened(); ; {
		if _, leads := r.controller.Leading(); opened == nil && !r.removed.Load() && (leads || r.follows()) {
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
	own := certs.Identity{Role: certs.RoleRouter, Name: strconv.Itoa(cfg.NodeID)}
	return certs.LoadOwn(cfg.TLS, func(got certs.Identity) error {
		if got != own {
			return fmt.Errorf("it is the certificate of %s, and this is %s by its RAFT_NODE_ID", got, own)
		}
		return nil
	}, logger)
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
