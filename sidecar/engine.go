package sidecar

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/sidecar/internal/control"
	"github.com/conveyor-etl/conveyor/sidecar/internal/engine"
)

// dataPlane is the part that moves records.
type dataPlane interface {
	control.Engine
	// RegisterLink offers SidecarDataPlane to other sidecars.
	RegisterLink(registrar grpc.ServiceRegistrar)
	// Drain stops the sources and blocks until what is in flight has settled and its checkpoints are reported, or ctx ends.
	Drain(ctx context.Context) error
	// Close ends all that runs and blocks until it has ended.
	Close() error
}

// engineConfig is what a dataPlane is made of.
type engineConfig struct {
	id          string
	control     *control.Session
	dialPeer    func(target string) (*grpc.ClientConn, error)
	dialService func(target string) (*grpc.ClientConn, error)
	logger      *slog.Logger
}

func newEngine(cfg engineConfig) (dataPlane, error) {
	return engine.New(engine.Config{
		SidecarID: cfg.id, Control: cfg.control, DialPeer: cfg.dialPeer, DialService: cfg.dialService, Logger: cfg.logger,
	}), nil
}
