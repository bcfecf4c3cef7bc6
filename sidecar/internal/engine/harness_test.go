package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 30 * time.Second

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// fakeControl keeps checkpoints and letters in memory.
type fakeControl struct {
	mu          sync.Mutex
	checkpoints map[string]*controlv1.Checkpoint
	letters     []*controlv1.Letter
	down        error // no call is answered
	reportsDown error // no checkpoint is taken
	lettersDown error
	shortStore  bool   // answers for one letter less than it was given
	poison      string // payload of a record whose letter is refused
	fence       bool
	listed      bool
	history     []*controlv1.Checkpoint
}

func newControl() *fakeControl { return &fakeControl{checkpoints: map[string]*controlv1.Checkpoint{}} }

func (c *fakeControl) set(change func(*fakeControl)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

func (c *fakeControl) ReadCheckpoints(_ context.Context, pipeline, stage string) (*controlv1.ReadCheckpointsResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down != nil {
		return nil, c.down
	}
	resp := &controlv1.ReadCheckpointsResponse{Listed: c.listed}
	for _, p := range c.checkpoints {
		if p.GetPipeline() == pipeline && p.GetSourceStage() == stage {
			resp.Checkpoints = append(resp.Checkpoints, proto.CloneOf(p))
		}
	}
	return resp, nil
}

func older(a, b *conveyorv1.Epoch) bool {
	if a.GetIncarnation() != b.GetIncarnation() {
		return a.GetIncarnation() < b.GetIncarnation()
	}
	return a.GetIndex() < b.GetIndex()
}

func (c *fakeControl) ReportCheckpoints(_ context.Context, points []*controlv1.Checkpoint) ([]controlv1.CheckpointResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reportsDown != nil {
		return nil, c.reportsDown
	}
	if c.down != nil {
		return nil, c.down
	}
	var results []controlv1.CheckpointResult
	for _, p := range points {
		name := p.GetPipeline() + "/" + p.GetSourceStage() + "/" + p.GetPartition()
		before := c.checkpoints[name]
		switch {
		case c.fence || older(p.GetEpoch(), before.GetEpoch()):
			results = append(results, controlv1.CheckpointResult_CHECKPOINT_RESULT_FENCED)
			continue
		case !older(before.GetEpoch(), p.GetEpoch()) && p.GetSequence() < before.GetSequence():
			results = append(results, controlv1.CheckpointResult_CHECKPOINT_RESULT_STALE)
			continue
		}
		next := proto.CloneOf(p)
		if len(next.Position) == 0 {
			next.Position = before.GetPosition()
		}
		c.checkpoints[name] = next
		c.history = append(c.history, next)
		results = append(results, controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED)
	}
	return results, nil
}

func (c *fakeControl) StoreDeadLetters(_ context.Context, letters []*controlv1.Letter) ([]*controlv1.StoredLetter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lettersDown != nil {
		return nil, c.lettersDown
	}
	if c.shortStore {
		return make([]*controlv1.StoredLetter, len(letters)-1), nil
	}
	for _, l := range letters {
		if c.poison != "" && string(l.GetRecord().GetPayload()) == c.poison {
			return nil, errors.New("that letter cannot be stored")
		}
	}
	var stored []*controlv1.StoredLetter
	for _, l := range letters {
		l = proto.CloneOf(l)
		l.Id = uint64(len(c.letters) + 1)
		c.letters = append(c.letters, l)
		stored = append(stored, &controlv1.StoredLetter{Id: l.Id})
	}
	return stored, nil
}

func (c *fakeControl) ReadLetters(_ context.Context, namespace, pipeline string, after uint64, limit int) ([]*controlv1.Letter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var some []*controlv1.Letter
	for _, l := range c.letters {
		if l.GetId() > after && len(some) < limit && l.GetNamespace() == namespace && l.GetPipeline() == pipeline {
			some = append(some, l)
		}
	}
	return some, nil
}

func (c *fakeControl) stored() []*controlv1.Letter {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*controlv1.Letter(nil), c.letters...)
}

// position returns the position that is stored of the source stage "in".
func (c *fakeControl) position() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.checkpoints["default/p/in/"].GetPosition())
}

// node is an engine with its data plane on loopback, behind a proxy that can cut its connections.
type node struct {
	t      testing.TB
	id     string
	engine *engine.Engine
	server *grpc.Server
	addr   string
	proxy  *proxy
	wg     sync.WaitGroup
	once   sync.Once
}

func dial(target string) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), experimental.WithBufferPool(wire.Shared()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{}), grpc.MaxCallRecvMsgSize(8<<20)))
}

func newNode(t testing.TB, id string, control engine.Control) *node {
	t.Helper()
	n := &node{t: t, id: id}
	n.engine = engine.New(engine.Config{SidecarID: id, Control: control, DialPeer: dial, DialService: dial})
	n.server = grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}), experimental.BufferPool(wire.Shared()), grpc.MaxRecvMsgSize(8<<20))
	n.engine.RegisterLink(n.server)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = lis.Addr().String()
	n.wg.Go(func() { _ = n.server.Serve(lis) })
	n.proxy = newProxy(t, n.addr)
	t.Cleanup(n.close)
	return n
}

func (n *node) close() {
	n.once.Do(func() {
		if err := n.engine.Close(); err != nil {
			n.t.Error(err)
		}
		n.server.Stop()
		n.wg.Wait()
		n.proxy.close()
	})
}

// proxy forwards connections and can cut them.
type proxy struct {
	lis net.Listener
	wg  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func newProxy(t testing.TB, to string) *proxy {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{lis: lis, conns: map[net.Conn]bool{}}
	p.wg.Go(func() {
		for {
			in, err := lis.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns[in], p.conns[out] = true, true
			p.mu.Unlock()
			pipe := func(a, b net.Conn) {
				_, _ = io.Copy(a, b)
				_ = a.Close()
				_ = b.Close()
				p.mu.Lock()
				delete(p.conns, a)
				delete(p.conns, b)
				p.mu.Unlock()
			}
			p.wg.Go(func() { pipe(in, out) })
			p.wg.Go(func() { pipe(out, in) })
		}
	})
	return p
}

func (p *proxy) addr() string { return p.lis.Addr().String() }

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) close() {
	_ = p.lis.Close()
	p.cut()
	p.wg.Wait()
}

// pipeline plays the router for one pipeline, default/p.
type pipeline struct {
	t      testing.TB
	stages []*stageDef
	edges  []*controlv1.Peer // Stage is the end, From the beginning
	froms  []string
	drain  bool

	mu     sync.Mutex
	ended  map[string]*controlv1.EndedAssignment
	index  uint64
	stop   chan struct{}
	wg     sync.WaitGroup
	closed sync.Once
}

type stageDef struct {
	name  string
	spec  *controlv1.StageSpec
	node  *node
	epoch uint64
}

func newPipeline(t testing.TB) *pipeline {
	p := &pipeline{t: t, ended: map[string]*controlv1.EndedAssignment{}, index: 10, stop: make(chan struct{})}
	t.Cleanup(p.close)
	return p
}

func (p *pipeline) close() {
	p.closed.Do(func() { close(p.stop) })
	p.wg.Wait()
}

func (p *pipeline) stage(n *node, name string, spec *controlv1.StageSpec) *stageDef {
	spec.Service = "default/" + name
	if spec.Retry == nil {
		spec.Retry = &controlv1.RetryPolicy{MaxRetries: 3, BackoffMillis: 1, MaxBackoffMillis: 5}
	}
	p.index++
	s := &stageDef{name: name, spec: spec, node: n, epoch: p.index}
	p.stages = append(p.stages, s)
	return s
}

func service(kind conveyorv1.ServiceKind, addr string) *controlv1.StageSpec {
	return &controlv1.StageSpec{Kind: kind, Work: &controlv1.StageSpec_ServiceWork{ServiceWork: &controlv1.ServiceWork{Address: addr}}}
}

func (p *pipeline) source(n *node, s *fakeSource) *stageDef {
	return p.stage(n, "in", service(conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, s.addr))
}

func (p *pipeline) sink(n *node, name string, s *fakeSink) *stageDef {
	return p.stage(n, name, service(conveyorv1.ServiceKind_SERVICE_KIND_SINK, s.addr))
}

func (p *pipeline) transform(n *node, name string, s *fakeTransform) *stageDef {
	return p.stage(n, name, service(conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM, s.addr))
}

func (p *pipeline) cel(n *node, name, filter, mapper string) *stageDef {
	return p.stage(n, name, &controlv1.StageSpec{
		Kind: conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM, Work: &controlv1.StageSpec_Cel{Cel: &controlv1.CelWork{Filter: filter, Map: mapper}},
	})
}

func (p *pipeline) edge(from, to string) *controlv1.Peer {
	e := &controlv1.Peer{Stage: to}
	p.edges, p.froms = append(p.edges, e), append(p.froms, from)
	return e
}

func (p *pipeline) chain(names ...string) {
	for i := range len(names) - 1 {
		p.edge(names[i], names[i+1])
	}
}

func (p *pipeline) find(name string) *stageDef {
	for _, s := range p.stages {
		if s.name == name {
			return s
		}
	}
	p.t.Fatalf("no stage %s", name)
	return nil
}

// move gives a stage to a node, under a new epoch.
func (p *pipeline) move(name string, n *node) {
	p.mu.Lock()
	s := p.find(name)
	p.index++
	s.node, s.epoch = n, p.index
	p.mu.Unlock()
	p.apply()
}

func (p *pipeline) peer(edge *controlv1.Peer, name string) *controlv1.Peer {
	out := proto.CloneOf(edge)
	s := p.find(name)
	out.Stage, out.Completed = name, p.ended[name] != nil
	if s.node != nil && !out.Completed {
		out.SidecarId, out.Address, out.Epoch = s.node.id, s.node.proxy.addr(), &conveyorv1.Epoch{Incarnation: 1, Index: s.epoch}
	}
	return out
}

// apply gives all nodes what they should run.
func (p *pipeline) apply() {
	p.mu.Lock()
	defer p.mu.Unlock()
	desired := map[*node][]*controlv1.Assignment{}
	for _, s := range p.stages {
		if s.node == nil {
			continue
		}
		if _, ok := desired[s.node]; !ok {
			desired[s.node] = nil
		}
		if p.ended[s.name] != nil {
			continue
		}
		a := &controlv1.Assignment{
			Pipeline: "default/p", PipelineUid: "u", Generation: 1, Stage: s.name, Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: s.epoch},
			LastSlot: 255, Drain: p.drain, Spec: s.spec,
		}
		for i, e := range p.edges {
			if e.GetStage() == s.name {
				a.Upstream = append(a.Upstream, p.peer(e, p.froms[i]))
			}
			if p.froms[i] == s.name {
				a.Downstream = append(a.Downstream, p.peer(e, e.GetStage()))
			}
		}
		desired[s.node] = append(desired[s.node], a)
	}
	for n, assignments := range desired {
		n.engine.Apply(assignments)
	}
}

// start applies the pipeline and takes reports of ends, as the router does.
func (p *pipeline) start() {
	p.apply()
	p.wg.Go(func() {
		for {
			select {
			case <-p.stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			changed := false
			p.mu.Lock()
			for _, s := range p.stages {
				if s.node == nil || p.ended[s.name] != nil {
					continue
				}
				for _, e := range s.node.engine.Ended() {
					if e.GetStage() == s.name && e.GetEpoch().GetIndex() == s.epoch {
						p.ended[s.name] = e
						changed = true
					}
				}
			}
			p.mu.Unlock()
			if changed {
				p.apply()
			}
		}
	})
}

func (p *pipeline) over() (over, completed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	completed = true
	for _, s := range p.stages {
		e := p.ended[s.name]
		if e == nil {
			return false, false
		}
		completed = completed && e.GetCompleted()
	}
	return true, completed
}

// await waits until the pipeline has run to its end.
func (p *pipeline) await() (completed bool) {
	p.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		over, completed := p.over()
		if over {
			return completed
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("the pipeline does not end:\n%s", p.describe())
		}
	}
}

func (p *pipeline) describe() string {
	text := ""
	seen := map[*node]bool{}
	for _, s := range p.stages {
		if s.node == nil || seen[s.node] {
			continue
		}
		seen[s.node] = true
		stages, lanes := s.node.engine.Reports()
		for _, r := range stages {
			text += fmt.Sprintf("%s: %v\n", s.node.id, r.GetStatus())
		}
		for _, r := range lanes {
			text += fmt.Sprintf("%s: lane %v\n", s.node.id, r.GetStatus())
		}
	}
	return text
}

func (n *node) status(stage string) *controlv1.StageStatus {
	stages, _ := n.engine.Reports()
	for _, r := range stages {
		if r.GetStatus().GetName() == stage {
			return r.GetStatus()
		}
	}
	return &controlv1.StageStatus{}
}

func (n *node) lane() *controlv1.LaneStatus {
	_, lanes := n.engine.Reports()
	for _, l := range lanes {
		return l.GetStatus()
	}
	return &controlv1.LaneStatus{}
}

// drainAll drains the pipeline.
func (p *pipeline) drainAll() {
	p.mu.Lock()
	p.drain = true
	p.mu.Unlock()
	p.apply()
}

// exactly checks that the sink has each of the numbers 1..n once.
func exactly(t testing.TB, s *fakeSink, n int) {
	t.Helper()
	atLeast(t, s, n)
	for payload, times := range s.payloads() {
		if times != 1 {
			t.Errorf("record %s came %d times", payload, times)
			return
		}
	}
}

func atLeast(t testing.TB, s *fakeSink, n int) {
	t.Helper()
	got := s.payloads()
	for i := 1; i <= n; i++ {
		if got[strconv.Itoa(i)] == 0 {
			t.Errorf("record %d of %d is lost; the sink has %d", i, n, len(got))
			return
		}
	}
	if len(got) > n {
		t.Errorf("the sink has %d records, there are %d", len(got), n)
	}
}

var errDown = errors.New("no router answers")
