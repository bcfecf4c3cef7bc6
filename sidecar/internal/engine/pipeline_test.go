package engine_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// pipeline plays the router for one pipeline, default/p.
type pipeline struct {
	t      testing.TB
	stages []*stageDef
	edges  []*controlv1.Peer // Stage is the end, From the beginning
	froms  []string
	drain  bool
	hold   bool

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
			LastSlot: 255, Drain: p.drain, Hold: p.hold, Spec: s.spec,
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
		n.engine.Apply(nil, assignments)
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

// drainAll drains the pipeline.
func (p *pipeline) drainAll() {
	p.mu.Lock()
	p.drain = true
	p.mu.Unlock()
	p.apply()
}
