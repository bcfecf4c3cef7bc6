package sidecar

import (
	"context"

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

func newEngine(cfg engine.Config) dataPlane { return engine.New(cfg) }
