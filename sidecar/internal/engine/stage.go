package engine

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/buffer"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// The limits of a stage for which neither the pipeline nor the service says otherwise.
const (
	defaultWindowRecords = 16384
	defaultWindowBytes   = 8 << 20
	defaultBatchRecords  = 4096
	defaultBatchBytes    = 256 << 10
	defaultMaxSpan       = 1 << 16
	defaultRecordBytes   = 1 << 20
)

// worker is the work of one kind of stage.
type worker interface {
	// run does the work until ctx ends or nothing is left to do; then it has told its edges and called finish.
	run(ctx context.Context)
	// inFlight returns how many records the stage itself has.
	inFlight() int
}

// stage is one assigned stage.
type stage struct {
	e     *Engine
	key   key
	epoch flow.Epoch
	uid   string
	spec  *controlv1.StageSpec
	owner *linkv1.Ownership // shows others that the stage is ours
	in    *inbox
	out   []*edge
	links *linkIn
	log   *slog.Logger

	work   worker
	cancel context.CancelFunc
	done   chan struct{}
	ctx    context.Context //nolint:containedctx // of the stage's work; its cause says why it ended

	burying atomic.Int64   // records on their way to the dead letters
	graves  *buffer.Window // room for those of them that hold no credit of an edge

	recordsIn, recordsOut, failed, retries, fenced atomic.Uint64

	mu        sync.Mutex
	upstream  []string
	asg       *controlv1.Assignment
	draining  bool
	drained   chan struct{} // closed when draining begins, of the assignment or of the whole sidecar
	ending    chan struct{} // closed when the assignment is drained
	endOnce   sync.Once
	resting   bool // its lanes have ended, since the sidecar is drained
	waiting   string
	open      bool
	ended     bool
	completed bool
}

// newStage makes a stage, which start starts. A stage that cannot work says why in its status and does nothing.
func newStage(e *Engine, a *controlv1.Assignment) *stage {
	s := &stage{
		e: e, key: keyOf(a), epoch: epochOf(a.GetEpoch()), uid: a.GetPipelineUid(), spec: a.GetSpec(), in: newInbox(),
		owner: &linkv1.Ownership{
			SidecarId: e.cfg.SidecarID, FirstSlot: a.GetFirstSlot(), LastSlot: a.GetLastSlot(), Signature: a.GetSignature(),
		},
		done: make(chan struct{}), drained: make(chan struct{}), ending: make(chan struct{}), asg: a,
	}
	s.log = e.log.With("pipeline", s.key.pipeline, "stage", s.key.stage)
	s.ctx, s.cancel = context.WithCancel(e.ctx)
	s.links = newLinkIn(s)
	s.graves = buffer.New(s.windowRecords(), s.windowBytes())
	for _, p := range a.GetDownstream() {
		out, err := newEdge(s.key.stage, p, s.windowRecords(), s.windowBytes())
		if err != nil {
			s.work = broken{s: s, err: err}
			continue
		}
		s.out = append(s.out, out)
	}
	if s.work == nil {
		s.work = newWorker(s)
	}
	return s
}

func newWorker(s *stage) worker {
	kind := s.spec.GetKind()
	switch work := s.spec.GetWork().(type) {
	case *controlv1.StageSpec_ServiceWork:
		switch kind {
		case conveyorv1.ServiceKind_SERVICE_KIND_SOURCE:
			return newSource(s, work.ServiceWork)
		case conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM:
			return newService(s, work.ServiceWork, transformPort{})
		case conveyorv1.ServiceKind_SERVICE_KIND_SINK:
			return newService(s, work.ServiceWork, sinkPort{})
		}
	case *controlv1.StageSpec_Cel:
		w, err := newCel(s, work.Cel)
		if err != nil {
			return broken{s: s, err: err}
		}
		return w
	case *controlv1.StageSpec_DeadLetters:
		return newLetterSource(s)
	}
	return broken{s: s, err: fmt.Errorf("this sidecar does not know the work of stage %s (%T, %s): it is older than the router", s.key.stage, s.spec.GetWork(), kind)}
}

// broken is the work of a stage that can do none.
type broken struct {
	s   *stage
	err error
}

func (b broken) run(ctx context.Context) {
	b.s.wait(b.err.Error())
	<-ctx.Done()
}

func (broken) inFlight() int { return 0 }

func (s *stage) windowRecords() int {
	if n := s.spec.GetLimits().GetWindowRecords(); n > 0 {
		return int(n)
	}
	return defaultWindowRecords
}

func (s *stage) windowBytes() int64 {
	if n := s.spec.GetLimits().GetWindowBytes(); n > 0 {
		return int64(n)
	}
	return defaultWindowBytes
}

func (s *stage) batchRecords() int {
	if n := s.spec.GetLimits().GetBatchRecords(); n > 0 {
		return int(n)
	}
	return defaultBatchRecords
}

func (s *stage) start() {
	s.e.wg.Go(func() {
		defer close(s.done)
		s.work.run(s.ctx)
	})
}

// stop ends the stage at once and blocks until it has. What has not settled stays with its senders.
func (s *stage) stop() {
	s.cancel()
	s.in.close()
	s.links.close()
	for _, out := range s.out {
		out.close()
	}
	<-s.done
}

// update takes in a newer form of the assignment.
func (s *stage) update(a *controlv1.Assignment, draining bool) {
	s.mu.Lock()
	s.asg = a
	s.upstream = nil
	for _, p := range a.GetUpstream() {
		s.upstream = append(s.upstream, p.GetStage())
	}
	s.mu.Unlock()
	for _, p := range a.GetUpstream() {
		if p.GetCompleted() {
			s.in.gone(p.GetStage(), !a.GetDrain())
		}
	}
	for _, p := range a.GetDownstream() {
		for _, out := range s.out {
			if out.to == p.GetStage() {
				out.setPeer(p)
			}
		}
	}
	s.drain(a.GetDrain() || draining)
	if a.GetDrain() {
		s.endOnce.Do(func() { close(s.ending) })
	}
	signal(s.in.ready)
}

// drain makes a source stop reading, for good.
func (s *stage) drain(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on && !s.draining {
		s.draining = true
		close(s.drained)
	}
}

// upstreamPeer returns the other end of the edge from a stage, nil without one.
func (s *stage) upstreamPeer(name string) *controlv1.Peer {
	for _, p := range s.assignment().GetUpstream() {
		if p.GetStage() == name {
			return p
		}
	}
	return nil
}

func (s *stage) assignment() *controlv1.Assignment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asg
}

// wait says what the stage cannot go on without; empty when it works.
func (s *stage) wait(what string) {
	s.mu.Lock()
	changed := s.waiting != what
	s.waiting = what
	s.mu.Unlock()
	if changed && what != "" {
		s.log.Warn("stage waits", "for", what)
	}
}

func (s *stage) setOpen(open bool) {
	s.mu.Lock()
	s.open = open
	if open {
		s.waiting = ""
	}
	s.mu.Unlock()
}

// inputOver reports whether everything upstream has ended and arrived, and nothing will be replayed.
func (s *stage) inputOver() (over, completed bool) {
	s.mu.Lock()
	upstream := s.upstream
	s.mu.Unlock()
	if s.held() {
		return false, false
	}
	return s.in.over(upstream)
}

// held reports whether the stage must not end by itself.
func (s *stage) held() bool {
	a := s.assignment()
	return a.GetHold() && !a.GetDrain()
}

// restPoll is how often is looked whether what is in flight has settled, once nothing more comes.
const restPoll = 5 * time.Millisecond

// outputIdle reports whether everything that the stage handed on, or buried, has settled.
func (s *stage) outputIdle() bool {
	if s.burying.Load() > 0 {
		return false
	}
	for _, out := range s.out {
		if !out.idle() {
			return false
		}
	}
	return true
}

// finish tells the stages behind that nothing more comes, waits until they know, and then tells the router that the stage has run to its
// end. It returns early when ctx ends.
func (s *stage) finish(ctx context.Context, completed bool) {
	for _, out := range s.out {
		out.end(completed)
	}
	for _, out := range s.out {
		for !out.endKnown() {
			if !sleep(ctx, restPoll) {
				return
			}
		}
	}
	s.mu.Lock()
	s.ended, s.completed = true, completed
	s.waiting = ""
	s.mu.Unlock()
	signal(s.e.changes)
}

// refusedBy counts an error of a service or a peer that refuses this owner of the stage for a newer one.
func (s *stage) refusedBy(err error) {
	if reasonOf(err) == reasonFenced {
		s.fenced.Add(1)
	}
}

// setResting notes that the stage has stopped here, to go on elsewhere.
func (s *stage) setResting() {
	s.mu.Lock()
	s.resting = true
	s.mu.Unlock()
}

func (s *stage) rests() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended || s.resting
}

func (s *stage) over() (over, completed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended, s.completed
}

// awaitRest blocks until nothing is in flight here.
func (s *stage) awaitRest(ctx context.Context) error {
	return s.await(ctx, func() bool {
		_, source := s.work.(*source)
		return s.rests() || !source && s.work.inFlight() == 0 && s.in.empty() && s.outputIdle()
	})
}

// awaitTold blocks until the sidecars that send to the stage know how all ended that it took.
func (s *stage) awaitTold(ctx context.Context) error { return s.await(ctx, s.links.toldAll) }

// await blocks until a condition holds, or the stage has ended.
func (s *stage) await(ctx context.Context, holds func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d records in flight: %w", s.work.inFlight(), ctx.Err())
		case <-s.done:
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// status is what the stage does now.
func (s *stage) status() *controlv1.StageStatus {
	st := &controlv1.StageStatus{
		Name: s.key.stage, Kind: strings.ToLower(strings.TrimPrefix(s.spec.GetKind().String(), "SERVICE_KIND_")), Service: s.spec.GetService(),
		SidecarId: s.e.cfg.SidecarID, RecordsIn: s.recordsIn.Load(), RecordsOut: s.recordsOut.Load(), Failed: s.failed.Load(),
		Retries: s.retries.Load(), InFlight: uint64(max(0, s.work.inFlight())), Fenced: s.fenced.Load(),
	}
	s.mu.Lock()
	st.Open, st.WaitingFor = s.open, s.waiting
	s.mu.Unlock()
	for _, out := range s.out {
		records, bytes := out.window.Outstanding()
		st.Edges = append(st.Edges, &controlv1.EdgeStatus{
			To: out.to, Records: out.sent.Load(), Bytes: out.sentBytes.Load(), OutstandingRecords: uint64(records), OutstandingBytes: uint64(bytes),
			BlockedMillis: uint64(out.window.Stats().Blocked.Milliseconds()),
		})
		if st.WaitingFor == "" {
			st.WaitingFor = out.problem()
		}
	}
	if st.WaitingFor == "" {
		st.WaitingFor = s.e.letters.problem(s.key)
	}
	return st
}

func (s *stage) laneStatus() []*controlv1.LaneStatus {
	if src, ok := s.work.(interface {
		lanes() []*controlv1.LaneStatus
	}); ok {
		return src.lanes()
	}
	return nil
}

// opening is what a service is told at the start of a stream.
func (s *stage) opening(work *controlv1.ServiceWork) *conveyorv1.Opening {
	return &conveyorv1.Opening{
		Pipeline: s.key.pipeline, Stage: s.key.stage, Generation: s.key.generation, Type: work.GetType(), Config: work.GetConfig(),
		Epoch: epochProto(s.epoch), Uid: s.spec.GetService(), FromStart: s.spec.GetFromStart(),
	}
}

// dial connects to the stage's service.
func (s *stage) dial(work *controlv1.ServiceWork) (*grpc.ClientConn, error) {
	conn, err := s.e.cfg.DialService(work.GetAddress())
	if err != nil {
		return nil, fmt.Errorf("service %s at %s: %w", s.spec.GetService(), work.GetAddress(), err)
	}
	return conn, nil
}
