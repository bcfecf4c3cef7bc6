// Package api answers the calls of people, programs and sidecars.
package api

import (
	"context"
	"iter"
	"log/slog"
	"strings"
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
	StaleRead() raftstore.Staleness
	ServerID() string
	Leader() string
	Membership() (raftstore.Membership, error)
	AddLearner(ctx context.Context, id, address string, prevIndex uint64) (uint64, error)
	Promote(ctx context.Context, id string, prevIndex uint64) (uint64, error)
	Remove(ctx context.Context, id string, prevIndex uint64) (uint64, error)
	TransferLeadership(ctx context.Context, id string) error
}

// Letters is what the API needs of the dead-letter store.
type Letters interface {
	Append(ctx context.Context, letters []dlq.Letter) ([]dlq.Result, error)
	Get(ctx context.Context, id uint64) (dlq.Letter, error)
	List(ctx context.Context, q dlq.Query) iter.Seq2[dlq.Letter, error]
	Discard(ctx context.Context, ids ...uint64) error
	Count(ctx context.Context) (uint64, error)
	// Complete returns nil when every letter has all its copies at these servers.
	Complete(ctx context.Context, servers []string) error
}

// Config is what the API stands on. All fields are required.
type Config struct {
	Controller *control.Controller
	Machine    *state.Machine
	Store      Store
	Letters    Letters
	Broker     *replay.Broker
	// Dial connects to another router. An empty id is that of a router which is not known yet.
	Dial func(id, address string) (*grpc.ClientConn, error)
	// RaftService is what other routers call.
	RaftService    controlv1.RaftServiceServer
	SessionTTL     time.Duration
	HeartbeatEvery time.Duration
	// Sign assignments, with the key of the cluster.
	Sign   bool
	Logger *slog.Logger
	// OnStop calls a function when the router begins to stop, or has begun already, unless the returned function was called before: long streams end then, so
	// that a graceful stop need not wait for them.
	OnStop func(func()) (forget func() bool)
}

// Register registers all services, those that this version refuses included.
func Register(srv grpc.ServiceRegistrar, cfg Config) {
	controlv1.RegisterAdminServiceServer(srv, &admin{Config: cfg})
	controlv1.RegisterSidecarCoordinatorServer(srv, newCoordinator(cfg))
	controlv1.RegisterDeadLetterServiceServer(srv, &deadLetters{Config: cfg})
	controlv1.RegisterServiceRegistryServer(srv, registry{})
	controlv1.RegisterRaftServiceServer(srv, cfg.RaftService)
	controlv1.RegisterRouterServiceServer(srv, &routers{Config: cfg})
}

// Own reports whether every router answers a method itself, and does not pass it on to the leader.
func Own(fullMethod string) bool {
	service, _, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	switch service {
	case controlv1.AdminService_ServiceDesc.ServiceName, controlv1.SidecarCoordinator_ServiceDesc.ServiceName,
		controlv1.DeadLetterService_ServiceDesc.ServiceName, controlv1.ServiceRegistry_ServiceDesc.ServiceName, controlv1.RouterService_ServiceDesc.ServiceName:
		return false
	}
	return true
}

// streamContext ends with the call, when the router stops, and when it leads no more: a stream of one that was left behind would fall silent.
func (c *Config) streamContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	forgetStop := c.OnStop(func() { cancel(raftstore.ErrClosed) })
	leading, ok := c.Controller.Leading()
	if !ok {
		cancel(raftstore.ErrNotLeader)
	}
	forgetLead := context.AfterFunc(leading, func() { cancel(raftstore.ErrNotLeader) })
	return ctx, func() { forgetStop(); forgetLead(); cancel(nil) }
}

// stopped is the error of a stream that ended: by the caller, or with the router or its leadership.
func (c *Config) stopped(ctx context.Context) error { return toWire(context.Cause(ctx)) }
