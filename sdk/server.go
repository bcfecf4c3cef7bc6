package sdk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/local"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

// Option is an ability or a setting of a server.
type Option interface{ apply(s *settings) }

type settings struct {
	abilities []Ability
	version   string
	log       *slog.Logger
	tls       *tls.Config
	grace     time.Duration
	grpc      []grpc.ServerOption
}

type optionFunc func(*settings)

func (f optionFunc) apply(s *settings) { f(s) }

// WithVersion tells people which version of the program they talk to.
func WithVersion(version string) Option { return optionFunc(func(s *settings) { s.version = version }) }

// WithLogger has the server log to log; without it, or with nil, nothing is logged.
func WithLogger(log *slog.Logger) Option { return optionFunc(func(s *settings) { s.log = log }) }

// WithTLS has the server speak TLS.
func WithTLS(config *tls.Config) Option { return optionFunc(func(s *settings) { s.tls = config }) }

// WithGrace is how long Serve waits, once its context is done, for streams to finish what they hold; 10 seconds unless said otherwise.
func WithGrace(d time.Duration) Option { return optionFunc(func(s *settings) { s.grace = d }) }

// WithServerOptions passes options on to gRPC, behind those that the server sets itself.
func WithServerOptions(options ...grpc.ServerOption) Option {
	return optionFunc(func(s *settings) { s.grpc = append(s.grpc, options...) })
}

// Server offers abilities on a port. Make it with [NewServer].
type Server struct {
	settings settings
	fence    Fence
	stopping context.Context //nolint:containedctx // ends when Serve begins to stop
	stop     context.CancelFunc
	receives sync.WaitGroup // goroutines that receive for a stream and outlive its handler by a moment
}

const (
	// maxMessageBytes has room for one record of the largest size and the head around it.
	maxMessageBytes = wire.MaxRecordBytes + 64<<10
	// flowWindow is fixed, so that the credits of a stream bind before HTTP/2's own.
	flowWindow     = 1 << 20
	bufferBytes    = 128 << 10
	maxStreams     = 1 << 14
	defaultGrace   = 10 * time.Second
	keepaliveAfter = 20 * time.Second
)

// NewServer makes a server of abilities and settings. It errs when there is no ability, or two of one kind have the same type.
func NewServer(options ...Option) (*Server, error) {
	s := &Server{settings: settings{grace: defaultGrace}}
	s.stopping, s.stop = context.WithCancel(context.Background())
	for _, o := range options {
		o.apply(&s.settings)
	}
	if s.settings.log == nil {
		s.settings.log = slog.New(slog.DiscardHandler)
	}
	if len(s.settings.abilities) == 0 {
		return nil, errors.New("make server: no ability given")
	}
	seen := map[string]bool{}
	for _, a := range s.settings.abilities {
		name := a.Kind() + " " + a.Type()
		if seen[name] {
			return nil, fmt.Errorf("make server: two abilities are %s %q", a.Kind(), a.Type())
		}
		seen[name] = true
	}
	return s, nil
}

// Describe returns what the server tells of its abilities.
func (s *Server) Describe() []*conveyorv1.Ability {
	infos := make([]*conveyorv1.Ability, len(s.settings.abilities))
	for i, a := range s.settings.abilities {
		infos[i] = proto.CloneOf(a.info)
		infos[i].Version = s.settings.version
	}
	return infos
}

// Serve accepts streams on lis until ctx is done. Then sources stop reading, transforms and sinks answer what they took, and what is not
// finished within the grace time is cut off. It blocks until everything has ended, closes lis, and returns nil when ctx was the reason.
// It can be called once.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	g := grpc.NewServer(s.grpcOptions()...)
	healthServer := health.NewServer()
	healthv1.RegisterHealthServer(g, healthServer)
	s.register(g, healthServer)

	stopped := make(chan struct{})
	var stopper sync.WaitGroup
	stopper.Go(func() {
		select {
		case <-ctx.Done():
			healthServer.Shutdown()
			s.stop()
			s.drain(g)
		case <-stopped:
		}
	})
	var beside sync.WaitGroup
	if s.settings.tls == nil {
		if near, err := local.Listen(lis.Addr()); err == nil {
			beside.Go(func() { _ = g.Serve(near) }) // it is a short cut: without it the port serves
		}
	}
	err := g.Serve(lis)
	close(stopped)
	stopper.Wait()
	g.Stop()
	beside.Wait()
	s.stop()
	s.receives.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve on %s: %w", lis.Addr(), err)
	}
	return nil
}

// drain waits for the streams to end by themselves, and ends them when the grace time is over.
func (s *Server) drain(g *grpc.Server) {
	timer := time.AfterFunc(s.settings.grace, g.Stop)
	defer timer.Stop()
	g.GracefulStop()
}

func (s *Server) grpcOptions() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(wire.Codec{}),
		experimental.BufferPool(wire.Shared()),
		grpc.ReadBufferSize(bufferBytes),
		grpc.WriteBufferSize(bufferBytes),
		grpc.StaticStreamWindowSize(flowWindow),
		grpc.StaticConnWindowSize(4 * flowWindow),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveAfter, Timeout: keepaliveAfter}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveAfter / 4, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	}
	if s.settings.tls != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(s.settings.tls)))
	}
	return append(options, s.settings.grpc...)
}

// register offers the gRPC services of the kinds that there are abilities of; the others answer UNIMPLEMENTED.
func (s *Server) register(g *grpc.Server, healthServer *health.Server) {
	for kind, add := range map[conveyorv1.ServiceKind]func(){
		conveyorv1.ServiceKind_SERVICE_KIND_SOURCE:    func() { conveyorv1.RegisterSourceServiceServer(g, &sourceServer{s: s}) },
		conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM: func() { conveyorv1.RegisterTransformServiceServer(g, &transformServer{s: s}) },
		conveyorv1.ServiceKind_SERVICE_KIND_SINK:      func() { conveyorv1.RegisterSinkServiceServer(g, &sinkServer{s: s}) },
	} {
		if slices.ContainsFunc(s.settings.abilities, func(a Ability) bool { return a.info.Kind == kind }) {
			add()
		}
	}
	for name := range g.GetServiceInfo() {
		healthServer.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
}

// find returns the ability that an opening asks for.
func (s *Server) find(kind conveyorv1.ServiceKind, typ string) (Ability, error) {
	var found []Ability
	var types []string
	for _, a := range s.settings.abilities {
		if a.info.Kind != kind {
			continue
		}
		types = append(types, fmt.Sprintf("%q", a.Type()))
		if typ == "" || a.Type() == typ {
			found = append(found, a)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return Ability{}, statusUnknownType("the opening names no type, and there are several of a %s: %s", kindName(kind), strings.Join(types, ", "))
	}
	return Ability{}, statusUnknownType("no %s of type %q, there are %s", kindName(kind), typ, strings.Join(types, ", "))
}
