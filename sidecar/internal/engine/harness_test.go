package engine_test

import (
	"context"
	"errors"
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
	deaf        bool // takes checkpoints, and nobody hears of it
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
	if c.deaf {
		return nil, errDown
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
	forget func() // closes the data directory
}

func dial(target string) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), experimental.WithBufferPool(wire.Shared()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{}), grpc.MaxCallRecvMsgSize(8<<20)))
}

func newNode(t testing.TB, id string, control engine.Control, opts ...grpc.ServerOption) *node {
	t.Helper()
	n := &node{t: t, id: id, forget: func() {}}
	n.engine = engine.New(engine.Config{SidecarID: id, Control: control, DialPeer: func(target, _ string) (*grpc.ClientConn, error) { return dial(target) }, DialService: dial})
	opts = append(opts, grpc.ForceServerCodecV2(wire.Codec{}), experimental.BufferPool(wire.Shared()), grpc.MaxRecvMsgSize(8<<20))
	n.server = grpc.NewServer(opts...)
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
		n.forget()
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
