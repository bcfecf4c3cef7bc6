// Package api answers the calls of people, programs and sidecars.
package api

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/dlq"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/control"
	"github.com/conveyor-etl/conveyor/router/internal/replay"
	"github.com/conveyor-etl/conveyor/router/internal/state"
)

// Store is what the API needs of raftstore.
type Store interface {
	Read(ctx context.Context) error
	ServerID() string
	Leader() string
	Servers() ([]raftstore.Server, error)
}

// Letters is what the API needs of the dead-letter store.
type Letters interface {
	Append(ctx context.Context, letters []dlq.Letter) ([]dlq.Result, error)
	Get(ctx context.Context, id uint64) (dlq.Letter, error)
	List(ctx context.Context, q dlq.Query) iter.Seq2[dlq.Letter, error]
	Discard(ctx context.Context, ids ...uint64) error
	Count(ctx context.Context) (uint64, error)
}

// Config is what the API stands on. All fields are required.
type Config struct {
	Controller     *control.Controller
	Machine        *state.Machine
	Store          Store
	Letters        Letters
	Broker         *replay.Broker
	SessionTTL     time.Duration
	HeartbeatEvery time.Duration
	Logger         *slog.Logger
	// OnStop calls a function when the router begins to stop, or has begun already, unless the returned function was called before: long streams end then, so
	// that a graceful stop need not wait for them.
	OnStop func(func()) (forget func() bool)
	// IsStopping reports whether it has begun.
	IsStopping func() bool
}

// Register registers all services, those that this version refuses included.
func Register(srv grpc.ServiceRegistrar, cfg Config) {
	controlv1.RegisterAdminServiceServer(srv, &admin{Config: cfg})
	controlv1.RegisterSidecarCoordinatorServer(srv, &coordinator{Config: cfg})
	controlv1.RegisterDeadLetterServiceServer(srv, &deadLetters{Config: cfg})
	controlv1.RegisterServiceRegistryServer(srv, registry{})
	controlv1.RegisterRaftServiceServer(srv, raftService{})
}

// streamContext ends with the call or when the router stops.
func (c *Config) streamContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	forget := c.OnStop(cancel)
	return ctx, func() { forget(); cancel() }
}

// stopped is the error of a stream that ended: by the caller, or with the router.
func (c *Config) stopped(ctx context.Context) error {
	if c.IsStopping() {
		return toWire(raftstore.ErrClosed)
	}
	return toWire(context.Cause(ctx))
}
