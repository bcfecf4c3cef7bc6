// Package control is the leader's work: it keeps what runs in step with what was asked for.
package control

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/placement"
	"github.com/conveyor-etl/conveyor/router/internal/session"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
	"github.com/conveyor-etl/conveyor/router/internal/status"
	"github.com/conveyor-etl/conveyor/router/internal/topology"
)

const (
	// reconcileEvery is how often the leader looks even when nothing has changed: timers and idle stages.
	reconcileEvery = time.Second
	proposeTimeout = 10 * time.Second
	// clientIdle is after how long without a change a client session is ended.
	clientIdle = time.Hour
)

// Store is what the controller needs of raftstore.
type Store interface {
	Propose(ctx context.Context, cmd []byte) (raftstore.Result, error)
	LeadershipChanges(ctx context.Context) iter.Seq[raftstore.Leadership]
	ClusterID() string
	ServerID() string
	Servers() ([]raftstore.Server, error)
}

// ErrLevel is returned for a command that a router of the cluster does not know yet.
var ErrLevel = errors.New("not all routers have the version for this: upgrade them first")

// Config of a controller.
type Config struct {
	SessionTTL time.Duration
	// Sign gives the cluster a key to sign assignments with.
	Sign         bool
	DrainTimeout time.Duration
	Resolver     Resolver
	Logger       *slog.Logger
}

// Controller runs on every router and works on the one that leads. Its methods may be called concurrently.
type Controller struct {
	cfg      Config
	store    Store
	machine  *state.Machine
	compiler *topology.Compiler
	leases   *session.Leases
	reports  *status.Reports
	hosts    *hosts
	now      func() time.Time
	// Of the goroutine that leads: detours that count still, and the moves of idle stages that wait, with the report that each was wished for after.
	detours []placement.Detour
	wished  map[placement.Key]*controlv1.StageStatus

	mu       sync.Mutex
	leading  context.Context //nolint:containedctx // of the present leadership, or nil; guarded by mu
	unplaced map[placement.Key]string
	since    map[conditionKey]conditionState
	drains   map[drain]time.Time // since when this leader has seen them
	holds    holds
	clients  idleClients
	back     int   // sessions that are kept over their time
	stamped  int64 // the time of the latest command of this router
}

// drain names one draining of a pipeline.
type drain struct {
	pipeline   string
	generation uint64
}

// New returns a controller. Run it.
func New(cfg Config, store Store, machine *state.Machine) *Controller {
	return &Controller{
		cfg: cfg, store: store, machine: machine, compiler: topology.NewCompiler(), leases: session.New(cfg.SessionTTL), reports: status.New(),
		hosts: newHosts(cfg.Resolver), drains: map[drain]time.Time{}, since: map[conditionKey]conditionState{},
		holds: newHolds(), now: time.Now,
	}
}

// Leading returns a context that ends when this router's leadership does. While it does not lead, or its state does not know its cluster yet, ok is false and
// the context has ended.
func (c *Controller) Leading() (ctx context.Context, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leading != nil && c.leading.Err() == nil {
		return c.leading, true
	}
	return ended, false
}

var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Leases are those of the sessions.
func (c *Controller) Leases() *session.Leases { return c.leases }

// Reports are what sidecars told.
func (c *Controller) Reports() *status.Reports { return c.reports }

// allows refuses a command at which a member would stop.
func (c *Controller) allows(cmd *statepb.Command) error {
	needs := state.Level(cmd)
	if needs <= 1 {
		return nil // that of all versions
	}
	if has, err := c.FeatureLevel(); err != nil || has < needs {
		return errors.Join(err, ErrLevel)
	}
	return nil
}

// FeatureLevel is that of the commands which all members know.
func (c *Controller) FeatureLevel() (uint32, error) {
	servers, err := c.store.Servers()
	if err != nil {
		return 0, fmt.Errorf("look who the routers are: %w", err)
	}
	ids := make([]string, len(servers))
	for i, s := range servers {
		ids[i] = s.ID
	}
	return c.machine.View().CommonLevel(ids, c.store.ServerID()), nil
}

// Propose applies a command. A refusal by the state is a *state.RejectedError; ErrLevel says that not all routers know the command yet.
func (c *Controller) Propose(ctx context.Context, cmd *statepb.Command) (raftstore.Result, error) {
	if err := c.allows(cmd); err != nil {
		return raftstore.Result{}, err
	}
	cmd.AtUnixNano = c.stamp()
	b, err := proto.Marshal(cmd)
	if err != nil {
		return raftstore.Result{}, fmt.Errorf("encode command: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	r, err := c.store.Propose(ctx, b)
	if err != nil {
		return raftstore.Result{}, err
	}
	if rejection, ok := r.Value.(*state.RejectedError); ok {
		return r, rejection
	}
	return r, nil
}

// stamp is the time of a command, for people: now, or that of the latest command so far where this clock is behind, or was set back.
func (c *Controller) stamp() (unixNano int64) {
	applied := c.machine.Latest()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stamped = max(c.stamped, applied, c.now().UnixNano())
	return c.stamped
}

// Run works whenever this router leads, until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	var wg sync.WaitGroup
	stop := func() {}
	defer func() {
		stop()
		wg.Wait()
	}()
	for l := range c.store.LeadershipChanges(ctx) {
		stop()
		wg.Wait()
		if !l.Leader {
			continue
		}
		c.cfg.Logger.Info("leading the cluster", "term", l.Term)
		lead, cancel := context.WithCancel(ctx)
		stop = cancel
		c.leases.Reset()
		c.forget()
		wg.Go(func() { c.lead(lead) })
		wg.Go(func() { c.leases.Run(lead, c.expire) })
	}
}

// forget drops what was heard and seen in an earlier leadership: it may have changed since, and changed back. No leadership is under way.
func (c *Controller) forget() {
	c.reports.Reset()
	c.clients = idleClients{after: clientIdle}
	c.detours, c.wished = nil, nil
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unplaced, c.back = nil, 0
	clear(c.since)
	clear(c.drains)
}

func (c *Controller) expire(ctx context.Context, sidecar string, epoch uint64) {
	_, err := c.Propose(ctx, &statepb.Command{Kind: &statepb.Command_EndSession{EndSession: &statepb.EndSession{SidecarId: sidecar, Epoch: epoch}}})
	switch rejection := (*state.RejectedError)(nil); {
	case err == nil:
		c.reports.End(sidecar)
		c.cfg.Logger.Warn("session of a silent sidecar has ended", "sidecar", sidecar)
	case errors.As(err, &rejection): // a newer session is there
	case ctx.Err() == nil:
		c.cfg.Logger.Warn("session of a silent sidecar could not be ended", "sidecar", sidecar, "err", err)
	}
}

// lead runs until leadership ends. What fails is tried again at the next change or tick.
func (c *Controller) lead(ctx context.Context) {
	if !c.found(ctx) || !c.adoptKey(ctx) {
		return
	}
	c.mu.Lock()
	c.leading = ctx
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.leading = nil
		c.mu.Unlock()
	}()
	tick := time.NewTicker(reconcileEvery)
	defer tick.Stop()
	for {
		changed := c.machine.Changed()
		if err := c.reconcile(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("pipelines could not be brought in step", "err", err)
			changed = nil // wait for the tick, not for what was just changed
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-c.holds.left:
		case <-tick.C:
		}
	}
}

// found gives the state the id of its cluster, once; false when leadership ended before.
func (c *Controller) found(ctx context.Context) bool {
	view := c.machine.View()
	if view.ClusterID != "" {
		return true
	}
	// Services outlive clusters: to them, the owners of one that is founded later are the newer ones. One that is founded from what another has left is later, whatever the clock says.
	incarnation := max(uint64(max(time.Now().Unix(), 1)), view.Incarnation+1)
	return c.insist(ctx, "found the cluster", &statepb.Command{Kind: &statepb.Command_Found{
		Found: &statepb.Found{ClusterId: c.store.ClusterID(), Incarnation: incarnation},
	}})
}

// adoptKey gives the state the key that signs assignments, once, where they are signed; false when leadership ended before.
func (c *Controller) adoptKey(ctx context.Context) bool {
	if !c.cfg.Sign || c.machine.SigningKey() != nil {
		return true
	}
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	return c.insist(ctx, "give the cluster a signing key", &statepb.Command{Kind: &statepb.Command_AdoptSigningKey{
		AdoptSigningKey: &statepb.AdoptSigningKey{Seed: seed},
	}})
}

// insist proposes a command until it is applied; false when leadership ended before.
func (c *Controller) insist(ctx context.Context, what string, cmd *statepb.Command) bool {
	for {
		_, err := c.Propose(ctx, cmd)
		switch {
		case err == nil:
			return true
		case ctx.Err() == nil:
			c.cfg.Logger.Error("not done yet, it is tried again", "what", what, "err", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(reconcileEvery):
		}
	}
}
