// Package status collects what sidecars tell of their work. It lives in the leader's memory and is lost with it.
package status

import (
	"cmp"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// maxLanes bounds the memory of one pipeline's report.
const maxLanes = 10_000

// Session names who reports.
type Session struct {
	Sidecar string
	Epoch   uint64
}

// Reports are the last words on each pipeline. It may be used concurrently.
type Reports struct {
	mu        sync.Mutex
	pipelines map[string]*pipeline
}

type pipeline struct {
	generation uint64
	stages     map[string]stage
	lanes      map[laneKey]*lane
}

type stage struct {
	from   Session
	status *controlv1.StageStatus
}

type laneKey struct{ source, stage, partition string }

type lane struct {
	from   Session
	live   bool
	status *controlv1.LaneStatus
	// before are the counts of earlier readers of the lane in this generation.
	before *controlv1.Counts
}

// New returns empty reports.
func New() *Reports { return &Reports{pipelines: map[string]*pipeline{}} }

// Reset forgets all reports.
func (r *Reports) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pipelines = map[string]*pipeline{}
}

// Accept says whether a report about a pipeline's generation is wanted: it is not about a pipeline that this router does not know.
type Accept func(pipeline string, generation uint64) bool

// Take takes a heartbeat. Statuses are kept and must not be changed afterwards.
func (r *Reports) Take(from Session, stages []*controlv1.StageReport, lanes []*controlv1.LaneReport, accept Accept) {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := map[string]map[string]bool{}
	for _, s := range stages {
		p := r.pipeline(s.GetPipeline(), s.GetGeneration(), accept)
		if p == nil || s.GetStatus() == nil {
			continue
		}
		if told[s.GetPipeline()] == nil {
			told[s.GetPipeline()] = map[string]bool{}
		}
		told[s.GetPipeline()][s.GetStatus().GetName()] = true
		p.stages[s.GetStatus().GetName()] = stage{from: from, status: s.GetStatus()}
	}
	for _, l := range lanes {
		p := r.pipeline(l.GetPipeline(), l.GetGeneration(), accept)
		if p == nil || l.GetStatus() == nil {
			continue
		}
		p.take(from, l.GetStatus())
	}
	for name, p := range r.pipelines {
		for s, report := range p.stages {
			if report.from.Sidecar == from.Sidecar && !told[name][s] {
				delete(p.stages, s)
			}
		}
	}
}

func (r *Reports) pipeline(name string, generation uint64, accept Accept) *pipeline {
	p := r.pipelines[name]
	if p != nil && p.generation == generation {
		return p
	}
	if (p != nil && p.generation > generation) || !accept(name, generation) {
		return nil
	}
	p = &pipeline{generation: generation, stages: map[string]stage{}, lanes: map[laneKey]*lane{}}
	r.pipelines[name] = p
	return p
}

func (p *pipeline) take(from Session, s *controlv1.LaneStatus) {
	key := laneKey{s.GetSource(), s.GetSourceStage(), s.GetPartition()}
	l := p.lanes[key]
	if l == nil {
		if len(p.lanes) >= maxLanes {
			return
		}
		l = &lane{before: &controlv1.Counts{}}
		p.lanes[key] = l
	} else if l.from != from || s.GetCounts().GetRead() < l.status.GetCounts().GetRead() {
		// Another reader, or the same one that began again: its counts begin at zero.
		l.retire()
	}
	l.from, l.live, l.status = from, true, s
}

// retire keeps what a reader has counted. What it had in flight is read again.
func (l *lane) retire() {
	c := proto.CloneOf(l.status.GetCounts())
	if c != nil {
		c.Read -= min(c.GetRead(), c.GetInFlight())
		c.InFlight = 0
		Add(l.before, c)
	}
	l.status = proto.CloneOf(l.status)
	l.status.Counts = &controlv1.Counts{}
}

// Add adds counts to others.
func Add(to, c *controlv1.Counts) {
	to.Read += c.GetRead()
	to.Acknowledged += c.GetAcknowledged()
	to.Dead += c.GetDead()
	to.Filtered += c.GetFiltered()
	to.Unrouted += c.GetUnrouted()
	to.Shed += c.GetShed()
	to.InFlight += c.GetInFlight()
}

// End forgets the stages of a session that has ended.
func (r *Reports) End(sidecar string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pipelines {
		for name, s := range p.stages {
			if s.from.Sidecar == sidecar {
				delete(p.stages, name)
			}
		}
		for _, l := range p.lanes {
			if l.from.Sidecar == sidecar && l.live {
				l.retire()
				l.live = false
			}
		}
	}
}

// Forget drops the pipelines that keep does not want.
func (r *Reports) Forget(keep func(pipeline string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.pipelines {
		if !keep(name) {
			delete(r.pipelines, name)
		}
	}
}

// Stage returns the last report of a stage by the sidecar, or nil.
func (r *Reports) Stage(pipeline string, generation uint64, name, sidecar string) *controlv1.StageStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pipelines[pipeline]
	if p == nil || p.generation != generation || p.stages[name].from.Sidecar != sidecar {
		return nil
	}
	return p.stages[name].status
}

// Lanes returns the lanes of a pipeline with all that was counted in this generation, in order, and the sum of those whose source stage is counted.
func (r *Reports) Lanes(pipeline string, generation uint64, counted func(sourceStage string) bool) ([]*controlv1.LaneStatus, *controlv1.Counts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := &controlv1.Counts{}
	p := r.pipelines[pipeline]
	if p == nil || p.generation != generation {
		return nil, sum
	}
	out := make([]*controlv1.LaneStatus, 0, len(p.lanes))
	for _, l := range p.lanes {
		s := proto.CloneOf(l.status)
		if s.GetCounts() == nil {
			s.Counts = &controlv1.Counts{}
		}
		Add(s.GetCounts(), l.before)
		if counted(s.GetSourceStage()) {
			Add(sum, s.GetCounts())
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *controlv1.LaneStatus) int {
		return cmp.Or(cmp.Compare(a.GetSourceStage(), b.GetSourceStage()), cmp.Compare(a.GetSource(), b.GetSource()), cmp.Compare(a.GetPartition(), b.GetPartition()))
	})
	return out, sum
}
