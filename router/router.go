package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/conveyor-etl/conveyor/internal/logging"
	"github.com/conveyor-etl/conveyor/internal/rpc"
)

// Router is one control-plane node.
type Router struct {
	cfg    Config
	logger *slog.Logger
	lis    net.Listener
	ops    net.Listener
	ready  chan struct{}
}

// New checks the configuration and opens the ports, so that Addr is known before Run. It reads and writes no files: Run does. A nil logger discards. Who does
// not call Run calls Close.
func New(cfg Config, logger *slog.Logger) (*Router, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	if logger == nil {
		logger = logging.Discard()
	}
	r := &Router{cfg: cfg, logger: logger, lis: cfg.Listener, ops: cfg.OpsListener, ready: make(chan struct{})}
	var err error
	if r.lis == nil {
		if r.lis, err = rpc.Listen(context.Background(), cfg.listenHost(), cfg.GRPCPort, cfg.hasTLS(), "GRPC_PORT"); err != nil {
			return nil, fmt.Errorf("open the gRPC port: %w", err)
		}
	}
	if r.ops == nil {
		if r.ops, err = rpc.Listen(context.Background(), cfg.listenHost(), cfg.OpsPort, cfg.hasTLS(), "OPS_PORT"); err != nil {
			return nil, errors.Join(fmt.Errorf("open the ops port: %w", err), r.lis.Close())
		}
	}
	return r, nil
}

// Addr is the address of the gRPC API.
func (r *Router) Addr() net.Addr { return r.lis.Addr() }

// OpsAddr is the address of the ops port.
func (r *Router) OpsAddr() net.Addr { return r.ops.Addr() }

// Ready is closed when the router leads its cluster and answers.
func (r *Router) Ready() <-chan struct{} { return r.ready }

// Close gives the ports of a router back that is not run.
func (r *Router) Close() error { return errors.Join(r.lis.Close(), r.ops.Close()) }

// Run opens the data directory and serves until ctx ends, then stops gracefully and returns nil. It may be called once.
func (r *Router) Run(ctx context.Context) error {
	return errors.Join(errors.New("the router is not built in yet"), r.Close())
}
