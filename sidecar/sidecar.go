package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/conveyor-etl/conveyor/internal/logging"
	"github.com/conveyor-etl/conveyor/internal/rpc"
)

// Sidecar runs stages beside services and moves their records. Make it with New, run it once with Run.
type Sidecar struct {
	cfg    Config
	logger *slog.Logger
	lis    net.Listener
	ops    net.Listener
	ready  chan struct{}
	close  func() error
}

// New checks the configuration and opens the ports, so that Addr is known before Run. It reads and writes no files: Run does. A nil logger
// discards. Who does not call Run calls Close.
func New(cfg Config, logger *slog.Logger) (*Sidecar, error) {
	if err := errors.Join(cfg.Validate(), cfg.TLS.Validate()); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	if logger == nil {
		logger = logging.Discard()
	}
	s := &Sidecar{cfg: cfg, logger: logger, lis: cfg.Listener, ops: cfg.OpsListener, ready: make(chan struct{})}
	var err error
	if s.lis == nil {
		if s.lis, err = rpc.Listen(context.Background(), cfg.listenHost(), int(cfg.GRPCPort), cfg.TLS.Enabled(), "GRPC_PORT"); err != nil {
			return nil, fmt.Errorf("open the gRPC port: %w", err)
		}
	}
	if s.ops == nil {
		if s.ops, err = rpc.Listen(context.Background(), cfg.listenHost(), int(cfg.OpsPort), cfg.TLS.Enabled(), "OPS_PORT"); err != nil {
			return nil, errors.Join(fmt.Errorf("open the ops port: %w", err), s.lis.Close())
		}
	}
	s.close = sync.OnceValue(func() error { return errors.Join(closeListener(s.lis), closeListener(s.ops)) })
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

// Run works until ctx ends, then drains, deregisters and returns nil. It may be called once.
func (s *Sidecar) Run(ctx context.Context) error {
	return errors.Join(errors.New("the sidecar is not built in yet"), s.Close())
}

func closeListener(lis net.Listener) error {
	if err := lis.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
