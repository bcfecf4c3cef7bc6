package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/cli/internal/view"
	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// watch follows the pipelines of a run.
type watch struct {
	runner       *runner
	stallTimeout time.Duration
	pipelines    []*watched
	endpoints    [][]endpoint
}

// watched is one pipeline and what is known of it.
type watched struct {
	namespace, name string
	status          *controlv1.PipelineStatus
	counts          view.Counts
	// moved is when a record moved last.
	moved    time.Time
	rate     float64
	rateFrom uint64
	rateAt   time.Time
}

func newWatch(r *runner, stallTimeout time.Duration) *watch {
	w := &watch{runner: r, stallTimeout: stallTimeout}
	now := time.Now()
	for _, p := range r.pipelines {
		w.pipelines = append(w.pipelines, &watched{namespace: p.Metadata.Namespace, name: p.Metadata.Name, moved: now, rateAt: now})
		w.endpoints = append(w.endpoints, endpointsOf(r.set, p))
	}
	return w
}

// recount reads the counts once more after everything has stopped. What else was known stays, since it says why.
func (w *watch) recount(ctx context.Context) error {
	for _, p := range w.pipelines {
		status, err := w.runner.client.PipelineStatus(ctx, p.namespace, p.name)
		if err != nil {
			return err
		}
		p.counts = most(p.counts, view.ShowCounts(status.GetCounts()))
		p.counts.InFlight = unsettled(p.counts, p.status)
	}
	return nil
}

// unsettled counts the records that were read and have no outcome. Once the parts have stopped nobody reports them any more.
func unsettled(c view.Counts, s *controlv1.PipelineStatus) uint64 {
	settled := c.Written + c.Filtered + c.DeadLettered + c.Unrouted + c.Shed
	if settledPhase(s.GetPhase()) || settled > c.Read {
		return 0
	}
	return c.Read - settled
}

// look reads the state of all pipelines.
func (w *watch) look(ctx context.Context) error {
	for _, p := range w.pipelines {
		status, err := w.runner.client.PipelineStatus(ctx, p.namespace, p.name)
		if err != nil {
			return err
		}
		p.update(status, time.Now())
	}
	return nil
}

func (p *watched) update(status *controlv1.PipelineStatus, now time.Time) {
	counts := view.ShowCounts(status.GetCounts())
	if p.status == nil || settledOf(status) != settledOf(p.status) || !waits(status) && (counts != p.counts || footprint(status) != footprint(p.status)) {
		p.moved = now
	}
	// A report may be missing for a moment, while a stage moves or ends; what was counted stays counted.
	p.counts = most(p.counts, counts)
	p.status = status
	if d := now.Sub(p.rateAt); d >= time.Second {
		p.rate = float64(p.counts.Read-p.rateFrom) / d.Seconds()
		p.rateFrom, p.rateAt = p.counts.Read, now
	}
}

func most(a, b view.Counts) view.Counts {
	return view.Counts{
		Read: max(a.Read, b.Read), Written: max(a.Written, b.Written), Filtered: max(a.Filtered, b.Filtered), DeadLettered: max(a.DeadLettered, b.DeadLettered),
		Unrouted: max(a.Unrouted, b.Unrouted), Shed: max(a.Shed, b.Shed), InFlight: b.InFlight,
	}
}

// settledOf changes when records come to their end.
func settledOf(s *controlv1.PipelineStatus) (sum uint64) {
	c := view.ShowCounts(s.GetCounts())
	for _, l := range s.GetLanes() {
		sum += l.GetSettledThrough() + l.GetCheckpointedThrough()
	}
	return sum + c.Written + c.Filtered + c.DeadLettered + c.Unrouted + c.Shed
}

// waits reports whether a stage cannot go on. What is still read then only fills the windows before it, which a slow source does for hours.
func waits(s *controlv1.PipelineStatus) bool {
	return slices.ContainsFunc(s.GetStages(), func(st *controlv1.StageStatus) bool { return st.GetWaitingFor() != "" })
}

// footprint changes when records move that are not counted yet, such as those between two stages.
func footprint(s *controlv1.PipelineStatus) (sum uint64) {
	for _, st := range s.GetStages() {
		sum += st.GetRecordsIn() + st.GetRecordsOut()
	}
	for _, l := range s.GetLanes() {
		sum += l.GetSettledThrough() + l.GetCheckpointedThrough()
	}
	return sum
}

// done reports whether no pipeline has anything more to do.
func (w *watch) done() bool {
	for _, p := range w.pipelines {
		if !settledPhase(p.status.GetPhase()) {
			return false
		}
	}
	return true
}

// stalled is the index of a pipeline without progress, or -1.
func (w *watch) stalled() int {
	for i, p := range w.pipelines {
		if !settledPhase(p.status.GetPhase()) && time.Since(p.moved) >= w.stallTimeout {
			return i
		}
	}
	return -1
}

// lines are the progress for people.
func (w *watch) lines() []string {
	var out []string
	for _, p := range w.pipelines {
		c := p.counts
		line := fmt.Sprintf("%s: %s rec/s, %s read, %s written, %s filtered, %s dead", p.name, output.Count(uint64(p.rate)),
			output.Count(c.Read), output.Count(c.Written), output.Count(c.Filtered), output.Count(c.DeadLettered))
		if phase := p.status.GetPhase(); phase != controlv1.Phase_PHASE_RUNNING {
			line += " (" + view.Phase(phase) + ")"
		}
		if time.Since(p.moved) > 2*time.Second && !settledPhase(p.status.GetPhase()) {
			line += why(p.status)
		}
		out = append(out, output.Clean(line))
	}
	return out
}

// RunSummary is what the pipelines of a run did, each record counted once.
type RunSummary struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Pipelines  []PipelineSummary `json:"pipelines"`
}

// PipelineSummary is the part of one pipeline.
type PipelineSummary struct {
	Name         string `json:"name"`
	Namespace    string `json:"namespace"`
	Phase        string `json:"phase"`
	Read         uint64 `json:"read"`
	Written      uint64 `json:"written"`
	Filtered     uint64 `json:"filtered"`
	DeadLettered uint64 `json:"deadLettered"`
	Unrouted     uint64 `json:"unrouted"`
	Shed         uint64 `json:"shed"`
	// InFlight records had not settled at the end; the next run reads them again.
	InFlight uint64 `json:"inFlight"`
}

func (w *watch) summary() RunSummary {
	s := RunSummary{APIVersion: dsl.APIVersion, Kind: "RunSummary", Pipelines: []PipelineSummary{}}
	for _, p := range w.pipelines {
		c := p.counts
		s.Pipelines = append(s.Pipelines, PipelineSummary{
			Name: p.name, Namespace: p.namespace, Phase: view.Phase(p.status.GetPhase()), Read: c.Read, Written: c.Written, Filtered: c.Filtered,
			DeadLettered: c.DeadLettered, Unrouted: c.Unrouted, Shed: c.Shed, InFlight: c.InFlight,
		})
	}
	return s
}

func (a *app) printSummary(w *watch, f *runFlags) error {
	s := w.summary()
	if !f.format.Table() {
		var names []string
		for _, p := range s.Pipelines {
			names = append(names, "pipeline/"+p.Name)
		}
		return f.format.Print(a.env.Stdout, s, names)
	}
	var rows [][]string
	for i, p := range s.Pipelines {
		rows = append(rows, append([]string{p.Name, p.Phase}, countCells(w.pipelines[i].counts)...))
	}
	dst := a.env.Stdout
	if w.runner.writesToStdout() {
		dst = a.env.Stderr
	}
	return output.Table(dst, append([]string{"PIPELINE", "PHASE"}, countColumns...), rows)
}

var countColumns = []string{"READ", "WRITTEN", "FILTERED", "DEAD", "UNROUTED", "SHED"}

func countCells(c view.Counts) []string {
	return []string{
		fmt.Sprint(c.Read), fmt.Sprint(c.Written), fmt.Sprint(c.Filtered), fmt.Sprint(c.DeadLettered), fmt.Sprint(c.Unrouted), fmt.Sprint(c.Shed),
	}
}
