package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/lifecycle"
	"github.com/conveyor-etl/conveyor/internal/logging"
	"github.com/conveyor-etl/conveyor/internal/ops"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/control"
	"github.com/conveyor-etl/conveyor/sidecar/internal/discovery"
	"github.com/conveyor-etl/conveyor/sidecar/internal/engine"
	"github.com/conveyor-etl/conveyor/sidecar/internal/statefile"
)

const (
	// linkGrace is how long links of other sidecars may take to end once this one has drained.
	linkGrace = time.Second
	// deregisterTimeout bounds the farewell; without it the session expires by itself.
	deregisterTimeout = 3 * time.Second
)

// Sidecar runs stages beside services and moves their records. Make it with New, run it once with Run.
type Sidecar struct {
	cfg   Config
	log   *slog.Logger
	lis   net.Listener
	ops   *ops.Server
	meter *meter
	ready chan struct{}
	close func() error

	// The parts in the order in which Run makes them.
	certs   *certs.Store // nil without certificates
	state   *statefile.File
	client  *client.Client
	session *control.Session
	engine  dataPlane
	server  *rpc.Server
	scanner *discovery.Scanner
	looked  chan struct{} // closed when discovery has looked for the first time

	newEngine func(engine.Config) dataPlane // another one in tests
}

// New checks the configuration, reads the certificates and opens the ports, so that Addr is known before Run. It does not touch the data directory: Run
// does. A nil logger discards. Who does not call Run calls Close.
func New(cfg Config, logger *slog.Logger) (*Sidecar, error) {
	if err := errors.Join(cfg.Validate(), cfg.TLS.Validate()); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	if logger == nil {
		logger = logging.Discard()
	}
	s := &Sidecar{
		cfg: cfg, log: logger, lis: cfg.Listener,
		meter: &meter{}, ready: make(chan struct{}), looked: make(chan struct{}),
		newEngine: newEngine,
	}
	if err := s.loadCerts(); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.meter)
	var err error
	s.ops, err = ops.New(ops.Config{Host: cfg.listenHost(), Port: int(cfg.OpsPort), Setting: "OPS_PORT", Logger: logger}, registry, ops.Checks{
		"registered":  s.meter.registered,
		"assignments": s.meter.applied,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the ops port: %w", err)
	}
	if s.lis == nil {
		if s.lis, err = rpc.Listen(context.Background(), cfg.listenHost(), int(cfg.GRPCPort), cfg.TLS.Enabled(), "GRPC_PORT"); err != nil {
			return nil, fmt.Errorf("open the gRPC port: %w", err)
		}
	}
	if err := s.ops.Listen(context.Background()); err != nil {
		return nil, errors.Join(fmt.Errorf("open the ops port: %w", err), closeListener(s.lis))
	}
	s.close = sync.OnceValue(func() error { return errors.Join(closeListener(s.lis), s.ops.Close()) })
	return s, nil
}

// Addr is the address at which other sidecars deliver records.
func (s *Sidecar) Addr() net.Addr { return s.lis.Addr() }

// OpsAddr is the address of the ops port.
func (s *Sidecar) OpsAddr() net.Addr { return s.ops.Addr() }

// Ready is closed when the sidecar has registered and has put into effect what the routers want.
func (s *Sidecar) Ready() <-chan struct{} { return s.ready }

// Close gives back the ports of a sidecar that is not run. It may be called more than once.
func (s *Sidecar) Close() error { return s.close() }

// Run works until ctx ends, then drains, deregisters and returns nil. It may be called once. The parts start in the order of the list and
// stop in the reverse: what is in flight settles while everything else still runs, then the routers are told, and only then does the rest
// end.
func (s *Sidecar) Run(ctx context.Context) error {
	g := lifecycle.Group{Logger: s.log}
	g.Add(
		lifecycle.Component{Name: "state file", Start: s.openState, Stop: func(context.Context) error { return s.state.Close() }},
		lifecycle.Component{Name: "certificates", Run: s.watchCerts},
		lifecycle.Component{Name: "router client", Start: s.dialRouters, Stop: func(context.Context) error { return s.client.Close() }},
		lifecycle.Component{Name: "engine", Start: s.startEngine, Stop: func(context.Context) error { return s.engine.Close() }},
		lifecycle.Component{Name: "ops port", Run: s.ops.Run},
		lifecycle.Component{Name: "data plane", Start: s.prepareServer, Run: s.serve},
		lifecycle.Component{Name: "discovery", Start: s.prepareScanner, Run: s.discover},
		lifecycle.Component{Name: "session", Start: s.awaitFirstLook, Run: s.keepSession, Stop: s.deregister},
		lifecycle.Component{Name: "records in flight", Stop: s.drain, StopTimeout: s.cfg.DrainTimeout + lifecycle.DefaultStopTimeout},
	)
	return errors.Join(g.Run(ctx), s.Close())
}

func (s *Sidecar) loadCerts() (err error) {
	if !s.cfg.TLS.Enabled() {
		return nil
	}
	s.certs, err = certs.LoadOwn(s.cfg.TLS, s.ownCertificate, s.log)
	s.meter.certs = s.certs
	return err
}

// ownCertificate refuses a certificate with which the routers would not let this sidecar speak. Before the state file is open, an id that is not set is not known.
func (s *Sidecar) ownCertificate(got certs.Identity) error {
	id, from := s.cfg.ID, "SIDECAR_ID"
	if id == "" && s.state != nil {
		id, from = s.state.State().SidecarID, "DATA_DIR"
	}
	switch {
	case got.Role != certs.RoleSidecar:
		return fmt.Errorf("it is the certificate of %s, and this is a sidecar", got)
	case id != "" && !got.MayBe(id):
		return fmt.Errorf("it is the certificate of %s, and this is sidecar/%s by its %s: set SIDECAR_ID=%s, or give it a certificate of its own", got, id, from, got.Name)
	}
	return nil
}

func (s *Sidecar) watchCerts(ctx context.Context) error {
	if s.certs == nil {
		s.log.Info("no certificates: this sidecar listens on loopback and connects to routers and sidecars on loopback only", "address", s.lis.Addr())
		return nil
	}
	return s.certs.Watch(ctx, 0)
}

func (s *Sidecar) openState(context.Context) (err error) {
	if s.state, err = statefile.Open(s.cfg.DataDir, s.cfg.ID, s.newID); err != nil || s.certs == nil {
		return err
	}
	// The id is known only now.
	if err := s.certs.Check(); err != nil {
		return errors.Join(err, s.state.Close())
	}
	return nil
}

// newID is the id of a sidecar that has none: the one that its certificate is issued for, if it is for one only.
func (s *Sidecar) newID() string {
	if s.certs != nil {
		if id, err := s.certs.Identity(); err == nil && id.Name != certs.AnyName && idForm.MatchString(id.Name) {
			return id.Name
		}
	}
	return newID()
}

func (s *Sidecar) dialRouters(ctx context.Context) (err error) {
	opts := []client.Option{client.WithLogger(s.log), client.WithUserAgent("conveyor-sidecar")}
	if s.certs != nil {
		opts = append(opts, client.WithCredentials(s.certs.ClientCredentials(certs.RoleRouter)))
	}
	s.client, err = client.Dial(ctx, s.cfg.Routers.Strings(), opts...)
	return err
}

func (s *Sidecar) startEngine(context.Context) error {
	h := thisHost()
	place := statefile.Place{Address: s.advertised(h), Routers: s.cfg.Routers.Strings()}
	s.session = control.New(control.Config{
		SidecarID:     s.state.State().SidecarID,
		Address:       s.advertised(h),
		HostName:      h.name,
		HostAddresses: h.addresses,
		Version:       h.version,
		FeatureLevel:  featureLevel,
		Signed:        s.certs != nil,
		Client:        s.client,
		Journal:       journal{s.state, place},
		Remembered:    s.remembered(place),
		Applied:       func() { close(s.ready) },
		Logger:        s.log,
	})
	s.engine = s.newEngine(engine.Config{
		SidecarID:   s.state.State().SidecarID,
		Boot:        s.state.State().Boots,
		Control:     s.session,
		Memory:      s.state,
		DialPeer:    s.dialPeer,
		DialService: s.dialService,
		Logger:      s.log,
	})
	s.meter.observe(s.session, s.engine)
	return nil
}

func (s *Sidecar) prepareServer(context.Context) error {
	s.server = s.newServer()
	s.engine.RegisterLink(s.server)
	return nil
}

func (s *Sidecar) serve(ctx context.Context) error { return s.server.Serve(ctx, s.lis, linkGrace) }

func (s *Sidecar) prepareScanner(context.Context) error {
	ports := []int{}
	for p := range s.cfg.DiscoveryPorts.All() {
		ports = append(ports, p)
	}
	s.scanner = discovery.New(discovery.Config{
		Ports:    ports,
		Skip:     []int{portOf(s.Addr()), portOf(s.OpsAddr())},
		Interval: s.cfg.DiscoveryInterval,
		Logger:   s.log,
	})
	return nil
}

func (s *Sidecar) discover(ctx context.Context) error {
	first := sync.OnceFunc(func() { close(s.looked) })
	s.scanner.Run(ctx, func(endpoints []*controlv1.Endpoint) {
		s.session.SetEndpoints(endpoints)
		s.meter.discovered(len(endpoints))
		first()
	})
	return nil
}

// awaitFirstLook lets the registration tell of the services that are there already, so that no stage is placed elsewhere at first.
func (s *Sidecar) awaitFirstLook(ctx context.Context) error {
	select {
	case <-s.looked:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Sidecar) keepSession(ctx context.Context) error { return s.session.Run(ctx, s.engine) }

func (s *Sidecar) deregister(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, deregisterTimeout)
	defer cancel()
	if err := s.session.Deregister(ctx, s.engine); err != nil {
		s.log.Warn("not deregistered; the routers will notice when the session expires", "err", err)
		return nil
	}
	if err := s.state.Forget(); err != nil {
		s.log.Warn("the ended session is still remembered", "err", err)
	}
	return nil
}

func (s *Sidecar) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DrainTimeout)
	defer cancel()
	err := s.engine.Drain(ctx)
	if ctx.Err() != nil {
		s.log.Warn("not everything in flight has settled; it will be read again", "waited", s.cfg.DrainTimeout, "err", err)
		return nil
	}
	return err
}

func closeListener(lis net.Listener) error {
	if err := lis.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
