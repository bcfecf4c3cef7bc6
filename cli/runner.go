package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/dsl/graph"
	"github.com/conveyor-etl/conveyor/internal/logging"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// runner brings the pipelines of manifests to life in a router of this process.
type runner struct {
	app    *app
	client *client.Client
	data   string
	set    *dsl.Set
	// pipelines of the manifests, in their order, without disabled ones.
	pipelines []*dsl.Resource
	// earlier are pipelines that the data directory knew before, by namespace/name.
	earlier map[string]bool
	// completed had completed before the manifests were applied, by namespace/name.
	completed map[string]bool
	// reopened had completed and were opened again.
	reopened []*dsl.Resource
}

// takeUp applies the manifests, and pauses what else the data directory holds.
func (r *runner) takeUp(ctx context.Context, set *dsl.Set) error {
	r.set, r.earlier, r.completed = set, map[string]bool{}, map[string]bool{}
	known, _, err := r.client.List(ctx, dsl.KindPipeline, "")
	if err != nil {
		return err
	}
	for _, k := range known {
		status, err := r.client.PipelineStatus(ctx, k.GetNamespace(), k.GetName())
		if err != nil {
			return err
		}
		ref := k.GetNamespace() + "/" + k.GetName()
		r.earlier[ref], r.completed[ref] = true, status.GetPhase() == controlv1.Phase_PHASE_COMPLETED
	}
	applied, err := r.client.Apply(ctx, inOrder(set), client.ApplyOptions{})
	if err != nil {
		return err
	}
	for _, done := range applied {
		for _, w := range done.Warnings {
			r.app.warn("%s", w)
		}
	}
	for _, p := range set.Pipelines() {
		if p.Pipeline().IsEnabled() {
			r.pipelines = append(r.pipelines, p)
		} else {
			r.app.warn("pipeline %s is disabled by its manifest and is not run", p.Metadata.Name)
		}
	}
	for _, k := range known {
		if _, wanted := set.Lookup(dsl.KindPipeline, k.GetNamespace(), k.GetName()); !wanted {
			if err := r.pause(ctx, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// pause disables a pipeline of an earlier run. Its checkpoints stay, and applying its manifest enables it again.
func (r *runner) pause(ctx context.Context, k *controlv1.Resource) error {
	res, diags := dsl.FromJSON(k.GetManifest())
	if err := dsl.Err(diags); err != nil {
		return fmt.Errorf("read pipeline %s of %s: %w", k.GetName(), r.data, err)
	}
	if !res.Pipeline().IsEnabled() {
		return nil
	}
	r.app.warn("pipeline %s is in %s and not in the manifests: it is paused", k.GetName(), r.data)
	off := false
	res.Pipeline().Enabled = &off
	_, err := r.client.Apply(ctx, []*dsl.Resource{res}, client.ApplyOptions{Owner: k.GetOwner()})
	return err
}

// reopen lets completed pipelines read on, or with fromStart makes all begin anew.
func (r *runner) reopen(ctx context.Context, fromStart bool) error {
	for _, p := range r.pipelines {
		if !r.earlier[p.Ref()] {
			continue
		}
		status, err := r.client.PipelineStatus(ctx, p.Metadata.Namespace, p.Metadata.Name)
		if err != nil {
			return err
		}
		completed := status.GetPhase() == controlv1.Phase_PHASE_COMPLETED
		if !completed && !fromStart {
			continue
		}
		err = r.client.RestartPipeline(ctx, p.Metadata.Namespace, p.Metadata.Name, fromStart)
		switch {
		case errors.Is(err, client.ErrNotFound) && fromStart: // it was applied and never began
		case errors.Is(err, client.ErrConflict) && !fromStart: // it is no longer completed, as its manifest has changed
		case err != nil:
			return err
		default:
			r.reopened = append(r.reopened, p)
		}
	}
	return nil
}

// awaitCompleted waits until the pipelines that had completed have done so once more: those that were opened again, and those that go on because their manifests have changed.
func (r *runner) awaitCompleted(ctx context.Context) error {
	for _, p := range r.pipelines {
		for r.completed[p.Ref()] || slices.Contains(r.reopened, p) {
			status, err := r.client.PipelineStatus(ctx, p.Metadata.Namespace, p.Metadata.Name)
			if err != nil {
				return err
			}
			if settledPhase(status.GetPhase()) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for pipeline %s to complete: %w%s", p.Metadata.Name, ctx.Err(), why(status))
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// again takes the problems apart: the letters to try again, and those that cannot be replayed because their records never left the source.
func (r *runner) again(ctx context.Context, problems []ReplayProblem) (*controlv1.LetterFilter, []ReplayProblem, error) {
	retry := &controlv1.LetterFilter{AllNamespaces: true}
	var stay []ReplayProblem
	for _, p := range problems {
		l, err := r.client.Letter(ctx, p.ID)
		if err != nil {
			return nil, nil, err
		}
		g := r.graphOf(l.GetNamespace(), l.GetPipeline())
		switch node := g.Node(l.GetStage()); {
		case node == nil:
			stay = append(stay, ReplayProblem{p.ID, fmt.Sprintf("the manifests have no stage %s in a pipeline %s", l.GetStage(), l.GetPipeline())})
		case node.Kind == graph.Source:
			stay = append(stay, ReplayProblem{p.ID, "it holds what the source could not make a record of: correct it where it came from"})
		default:
			retry.Ids = append(retry.Ids, p.ID)
		}
	}
	return retry, stay, nil
}

// graphOf is the graph of a pipeline that runs here; an empty one when it does not.
func (r *runner) graphOf(namespace, name string) *graph.Graph {
	for _, p := range r.pipelines {
		if p.Metadata.Namespace == namespace && p.Metadata.Name == name {
			if g, _ := dsl.Compile(r.set.Lookup, p); g != nil {
				return g
			}
		}
	}
	return &graph.Graph{}
}

// writesToStdout reports whether records go to standard output, where nothing else should be then.
func (r *runner) writesToStdout() bool {
	return slices.ContainsFunc(r.set.Resources, func(res *dsl.Resource) bool {
		s := res.Service()
		return res.Kind == dsl.KindSink && s.Connector != nil && s.Connector.Type == "stdout"
	})
}

// logger is where embedded parts log: standard error, what needs attention only.
func (a *app) logger() *slog.Logger {
	l, err := logging.New(a.env.Stderr, "warn", "text")
	if err != nil {
		return logging.Discard()
	}
	return l
}

// isDataDir refuses a directory that no run has used.
func isDataDir(dir string) error {
	_, err := os.Stat(filepath.Join(dir, "router"))
	if errors.Is(err, fs.ErrNotExist) {
		return &fault{
			exit: exitFailed, code: "NO_DATA", err: fmt.Errorf("%s is not the data directory of a run", dir),
			fix: "`conveyor run` keeps its data in ./.conveyor, or where --data said",
		}
	}
	if err != nil {
		return fmt.Errorf("look at data directory %s: %w", dir, err)
	}
	return nil
}
