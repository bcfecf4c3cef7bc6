// Package engine runs the stages that are assigned to a sidecar and moves their records: from services and other sidecars, through its
// stages, to services and other sidecars.
//
// Every edge has a window of credit that a record occupies until it has settled, so that what a stage holds is bounded by its edges, and
// a slow sink stops its source. Acknowledgements go the way back, record by record, through the tree of package flow.
package engine

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// Control is what the engine asks of the routers. Methods block until a router has answered or ctx ends.
type Control interface {
	ReadCheckpoints(ctx context.Context, pipeline, sourceStage string) (*controlv1.ReadCheckpointsResponse, error)
	ReportCheckpoints(ctx context.Context, checkpoints []*controlv1.Checkpoint) ([]controlv1.CheckpointResult, error)
	StoreDeadLetters(ctx context.Context, letters []*controlv1.Letter) ([]*controlv1.StoredLetter, error)
	ReadLetters(ctx context.Context, namespace, pipeline string, after uint64, limit int) ([]*controlv1.Letter, error)
}

// Config is what an engine is made of.
type Config struct {
	SidecarID string
	// Boot is greater than that of every earlier process of the sidecar. 0 is for one that never resumes.
	Boot    uint64
	Control Control
	// Memory is of this sidecar's lanes; nil remembers nothing.
	Memory Memory
	// DialPeer connects to another sidecar, DialService to a service. The engine closes the connections.
	DialPeer    func(target, sidecarID string) (*grpc.ClientConn, error)
	DialService func(target string) (*grpc.ClientConn, error)
	Logger      *slog.Logger
}

// Engine runs stages. Its methods may be called at once.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	ctx     context.Context //nolint:containedctx // of everything that the engine runs
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	changes chan struct{}
	wake    chan struct{}

	checkpoints *checkpointer
	letters     *undertaker
	reach       reach

	mu       sync.Mutex
	desired  []*controlv1.Assignment
	signer   ed25519.PublicKey
	stages   map[key]*stage
	draining bool
	shut     bool // nothing is taken from other sidecars any more
}

// key names a stage of a generation.
type key struct {
	pipeline   string
	generation uint64
	stage      string
}

func (k key) String() string { return fmt.Sprintf("%s@%d/%s", k.pipeline, k.generation, k.stage) }

func keyOf(a *controlv1.Assignment) key { return key{a.GetPipeline(), a.GetGeneration(), a.GetStage()} }

func epochOf(e *conveyorv1.Epoch) flow.Epoch {
	return flow.Epoch{Incarnation: e.GetIncarnation(), Index: e.GetIndex()}
}

func epochProto(e flow.Epoch) *conveyorv1.Epoch {
	return &conveyorv1.Epoch{Incarnation: e.Incarnation, Index: e.Index}
}

// New returns an engine that runs nothing yet. Close ends it.
func New(cfg Config) *Engine {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.Memory == nil {
		cfg.Memory = noMemory{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Engine{
		cfg: cfg, log: log, ctx: ctx, cancel: cancel,
		changes: make(chan struct{}, 1), wake: make(chan struct{}, 1), stages: make(map[key]*stage),
	}
	e.checkpoints = newCheckpointer(cfg.Control, cfg.Memory, log)
	e.letters = newUndertaker(cfg.Control, log)
	e.wg.Go(func() { e.checkpoints.run(ctx) })
	e.wg.Go(func() { e.letters.run(ctx) })
	e.wg.Go(e.reconcile)
	return e
}

// Apply takes the whole of what should run and returns before it does. Unless key is empty, other sidecars must show that it signed what they
// say of themselves.
func (e *Engine) Apply(key ed25519.PublicKey, assignments []*controlv1.Assignment) {
	e.mu.Lock()
	e.desired, e.signer = assignments, key
	e.mu.Unlock()
	signal(e.wake)
}

// CutOff says whether the routers have been silent for so long that what must not go on without them pauses.
func (e *Engine) CutOff(cut bool) {
	if !e.reach.set(cut) {
		return
	}
	for _, s := range e.sorted() {
		switch {
		case !s.spec.GetPauseWithoutRouters():
		case cut:
			e.log.Warn("source pauses: no router is reached", "stage", s.key.String())
		default:
			e.log.Info("source goes on: a router is reached again", "stage", s.key.String())
		}
	}
}

// PaceCheckpoints says how long to collect checkpoints before they are reported.
func (e *Engine) PaceCheckpoints(pause time.Duration) { e.checkpoints.pace(pause) }

// Changes is sent to, without blocking, when there is something new to acknowledge or to report.
func (e *Engine) Changes() <-chan struct{} { return e.changes }

// signal wakes whoever waits on a channel of capacity one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// reconcile makes what runs equal to what should.
func (e *Engine) reconcile() {
	for {
		select {
		case <-e.ctx.Done():
			e.stopAll()
			return
		case <-e.wake:
		}
		e.step()
	}
}

func (e *Engine) step() {
	e.mu.Lock()
	desired := make(map[key]*controlv1.Assignment, len(e.desired))
	for _, a := range e.desired {
		desired[keyOf(a)] = a
	}
	var stop []*stage
	for k, s := range e.stages {
		// A stage never changes its epoch: the newer owner is another one, also when it is this sidecar again.
		if a := desired[k]; a == nil || epochOf(a.GetEpoch()) != s.epoch {
			stop = append(stop, s)
			delete(e.stages, k)
		}
	}
	e.mu.Unlock()
	for _, s := range stop {
		s.stop()
		e.log.Info("stage stopped", "stage", s.key.String())
	}
	var started []*stage
	e.mu.Lock()
	for k, a := range desired {
		s := e.stages[k]
		if s == nil {
			s = newStage(e, a)
			e.stages[k] = s
			started = append(started, s)
		}
		s.update(a, e.draining)
		if e.shut {
			s.links.shutIntake()
		}
	}
	for _, s := range e.stages {
		for _, out := range s.out {
			e.connect(s, out)
		}
	}
	e.mu.Unlock()
	for _, s := range started {
		s.start()
		e.log.Info("stage started", "stage", s.key.String(), "epoch", s.epoch.Index)
	}
	signal(e.changes)
}

// connect gives an edge the target that the assignment names: a stage here, or a link to another sidecar. Called with the lock.
func (e *Engine) connect(s *stage, out *edge) {
	peer := out.peer()
	switch {
	case peer.GetCompleted():
		out.attach(nil, flow.Epoch{})
	case peer.GetSidecarId() == "":
		// What the last owner has may still settle there, and if it comes back the numbers of its link must go on.
	case peer.GetSidecarId() == e.cfg.SidecarID:
		to := e.stages[key{s.key.pipeline, s.key.generation, peer.GetStage()}]
		if to == nil || to.epoch != epochOf(peer.GetEpoch()) {
			return
		}
		out.attach(func() target {
			to.in.reopen(s.key.stage)
			return localTarget{to: to, from: s.key.stage}
		}, to.epoch)
	default:
		out.attach(func() target { return newLinkOut(s, out, peer) }, epochOf(peer.GetEpoch()))
	}
}

func (e *Engine) stopAll() {
	e.mu.Lock()
	stages := e.stages
	e.stages = make(map[key]*stage)
	e.mu.Unlock()
	for _, s := range stages {
		s.stop()
	}
}

// sorted returns what runs, in a steady order.
func (e *Engine) sorted() []*stage {
	e.mu.Lock()
	defer e.mu.Unlock()
	stages := make([]*stage, 0, len(e.stages))
	for _, s := range e.stages {
		stages = append(stages, s)
	}
	slices.SortFunc(stages, func(a, b *stage) int {
		return cmp.Or(cmp.Compare(a.key.pipeline, b.key.pipeline), cmp.Compare(a.key.generation, b.key.generation), cmp.Compare(a.key.stage, b.key.stage))
	})
	return stages
}

// Ended returns the assignments that ran to their end, until they are withdrawn.
func (e *Engine) Ended() []*controlv1.EndedAssignment {
	var ended []*controlv1.EndedAssignment
	for _, s := range e.sorted() {
		if over, completed := s.over(); over {
			ended = append(ended, &controlv1.EndedAssignment{
				Pipeline: s.key.pipeline, Generation: s.key.generation, Stage: s.key.stage, Epoch: epochProto(s.epoch), Completed: completed,
			})
		}
	}
	return ended
}

// Reports returns what goes on.
func (e *Engine) Reports() ([]*controlv1.StageReport, []*controlv1.LaneReport) {
	var stages []*controlv1.StageReport
	var lanes []*controlv1.LaneReport
	for _, s := range e.sorted() {
		stages = append(stages, &controlv1.StageReport{Pipeline: s.key.pipeline, Generation: s.key.generation, Status: s.status()})
		for _, l := range s.laneStatus() {
			lanes = append(lanes, &controlv1.LaneReport{Pipeline: s.key.pipeline, Generation: s.key.generation, Status: l})
		}
	}
	return stages, lanes
}

// Unreachable are the sidecars that do not answer this one, in order.
func (e *Engine) Unreachable() []string {
	away := map[string]bool{}
	for _, s := range e.sorted() {
		for _, out := range s.out {
			if id := out.unreachable(); id != "" {
				away[id] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(away))
}

// Drain stops the sources and blocks until what is in flight here has settled and is checkpointed, or ctx ends. What others still send is taken for as long as something is in flight
// here, but for half of the time at most: they may wait for it because they stop too. Then nothing more is taken, and it ends when all senders know how everything ended that was.
func (e *Engine) Drain(ctx context.Context) error {
	e.mu.Lock()
	e.draining = true
	for _, s := range e.stages {
		s.drain(true)
	}
	e.mu.Unlock()
	stages := e.sorted()
	open, cancel := ctx, func() {}
	if end, ok := ctx.Deadline(); ok {
		open, cancel = context.WithTimeout(ctx, time.Until(end)/2)
	}
	defer cancel()
	for _, s := range stages {
		if s.awaitRest(open) != nil {
			break
		}
	}
	e.mu.Lock()
	e.shut = true
	for _, s := range e.stages {
		s.links.shutIntake()
	}
	e.mu.Unlock()
	for _, await := range []func(*stage, context.Context) error{(*stage).awaitRest, (*stage).awaitTold} {
		for _, s := range stages {
			if err := await(s, ctx); err != nil {
				return fmt.Errorf("drain stage %s: %w", s.key, err)
			}
		}
	}
	return nil
}

// Close ends all that runs and blocks until it has ended.
func (e *Engine) Close() error {
	e.cancel()
	e.wg.Wait()
	return nil
}
