package control

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// holdPoll is how often is looked whether the stages of a held pipeline run.
const holdPoll = 20 * time.Millisecond

// holds are the replays into pipelines that had completed. They are the memory of one leader: a hold in the state that is not here is released.
type holds struct {
	left chan struct{} // sent to, without blocking, when a holder has left

	mu      sync.Mutex
	holders map[string]int
	// released are the newest generations whose release was decided; what comes later must wait for the next one. They stay when the pipeline
	// has completed: who looks with an older view must still see them.
	released map[string]release
}

// release is of one generation in one life of a pipeline: another one of the name counts generations from 1 again.
type release struct {
	uid        string
	generation uint64
}

func newHolds() holds {
	return holds{left: make(chan struct{}, 1), holders: map[string]int{}, released: map[string]release{}}
}

// Hold opens a pipeline (namespace/name) again if it has completed, so that letters can be replayed into it, and keeps it from completing until release is
// called. It blocks until sidecars run those of the stages that the pipeline has, or ctx ends, which is no error: what does not run then is said of each
// letter. A pipeline that has not completed is left as it is, and so is one that its manifests do not let run. Release is never nil and may be called again.
func (c *Controller) Hold(ctx context.Context, pipeline string, stages []string) (release func(), err error) {
	c.holds.mu.Lock()
	c.holds.holders[pipeline]++
	c.holds.mu.Unlock()
	release = sync.OnceFunc(func() {
		c.holds.mu.Lock()
		if c.holds.holders[pipeline]--; c.holds.holders[pipeline] == 0 {
			delete(c.holds.holders, pipeline)
		}
		c.holds.mu.Unlock()
		select {
		case c.holds.left <- struct{}{}:
		default:
		}
	})
	tick := time.NewTicker(holdPoll)
	defer tick.Stop()
	for {
		view := c.machine.View()
		p := view.Pipelines[pipeline]
		switch {
		case p == nil || p.GetDraining() || !c.wanted(view, p):
			return release, nil
		case p.GetCompleted():
			_, err := c.Propose(ctx, &statepb.Command{Kind: &statepb.Command_RestartPipeline{
				RestartPipeline: &statepb.RestartPipeline{Pipeline: pipeline, Hold: true},
			}})
			if rejection := (*state.RejectedError)(nil); err != nil && !errors.As(err, &rejection) {
				return release, err
			}
		case c.isReleased(p): // it is about to complete
		case !p.GetHold() || c.running(view, p, stages):
			return release, nil
		}
		select {
		case <-ctx.Done():
			return release, nil
		case <-tick.C:
		}
	}
}

func (c *Controller) isReleased(p *statepb.Pipeline) bool {
	c.holds.mu.Lock()
	defer c.holds.mu.Unlock()
	r := c.holds.released[p.GetName()]
	return r.uid == p.GetUid() && r.generation >= p.GetGeneration()
}

// running reports whether sidecars have told of all the named stages that the pipeline has. An assignment alone says that a sidecar will run the stage.
func (c *Controller) running(view *state.View, p *statepb.Pipeline, stages []string) bool {
	for _, s := range p.GetPlan().GetStages() {
		if !slices.Contains(stages, s.GetName()) {
			continue
		}
		a := view.Assignments[state.StageKey{Pipeline: p.GetName(), Stage: s.GetName()}]
		if a == nil || c.reports.Stage(p.GetName(), a.GetGeneration(), a.GetStage(), a.GetSidecarId()) == nil {
			return false
		}
	}
	return true
}

// releases are the next steps of the pipelines that nobody holds any more.
func (c *Controller) releases(view *state.View) []*statepb.Command {
	c.holds.mu.Lock()
	defer c.holds.mu.Unlock()
	for name, r := range c.holds.released {
		if view.Pipelines[name].GetUid() != r.uid { // gone, or another one of the name
			delete(c.holds.released, name)
		}
	}
	var out []*statepb.Command
	for _, name := range state.SortedKeys(view.Pipelines) {
		p := view.Pipelines[name]
		r := release{p.GetUid(), p.GetGeneration()}
		// What was decided is done, even if the step did not succeed at first and somebody has come since.
		if !p.GetHold() || c.holds.holders[name] > 0 && c.holds.released[name] != r {
			continue
		}
		c.holds.released[name] = r
		out = append(out, &statepb.Command{Kind: &statepb.Command_ReleasePipeline{
			ReleasePipeline: &statepb.ReleasePipeline{Pipeline: name, Generation: p.GetGeneration()},
		}})
	}
	return out
}
