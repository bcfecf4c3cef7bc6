package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// A Server is a gRPC server with the settings of [ServerOptions] and the standard health service.
// Register services on it before Serve.
type Server struct {
	*grpc.Server
	// Health holds the state that health checks see: SERVING for the server as a whole (the empty
	// service name) until it drains. Set the state of single services as they change.
	Health *health.Server
	door   *door
}

// NewServer returns a server that does not listen yet; options in extra come after those of cfg.
func NewServer(cfg ServerConfig, extra ...grpc.ServerOption) *Server {
	door := newDoor(cfg, cfg.logger())
	if cfg.TLS != nil {
		cfg.TLS = introducing{cfg.TLS, door}
	}
	s := &Server{door: door, Server: grpc.NewServer(append(ServerOptions(cfg), extra...)...), Health: health.NewServer()}
	healthpb.RegisterHealthServer(s.Server, s.Health)
	return s
}

// Serve accepts connections on lis until ctx ends, and then drains: health turns NOT_SERVING, no more
// calls are taken, and calls in progress may finish for up to drain, after which they are cancelled.
// It closes lis, returns when all handlers have returned, and gives nil for a stop through ctx.
func (s *Server) Serve(ctx context.Context, lis net.Listener, drain time.Duration) error {
	served := make(chan error, 1)
	go func() { served <- s.Server.Serve(entrance{lis, s.door}) }()
	select {
	case err := <-served:
		s.Stop()
		return fmt.Errorf("serve on %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	s.Health.Shutdown()
	hard := time.AfterFunc(drain, s.Stop)
	s.GracefulStop()
	hard.Stop()
	s.Stop() // waits for a Stop of the timer that may be under way
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve on %s: %w", lis.Addr(), err)
	}
	return nil
}

// Refused is how many connections were closed because there were too many.
func (s *Server) Refused() uint64 { return s.door.refusals() }

// Listen opens a TCP listener for a server, after [CheckListen]. An address in use is reported with
// the setting to change: the name of an environment variable or flag, which may be empty.
func Listen(ctx context.Context, host string, port int, hasTLS bool, setting string) (net.Listener, error) {
	if err := CheckListen(host, hasTLS); err != nil {
		return nil, err
	}
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && setting != "":
		return nil, fmt.Errorf("listen on %s: the port is taken by another program; stop it or choose another port with %s: %w", addr, setting, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return lis, nil
}
