package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
)

type deleteFlags struct {
	wait         bool
	timeout      time.Duration
	ignoreAbsent bool
}

// object is what a delete removes.
type object struct{ kind, namespace, name string }

func (o object) typeName() string { return strings.ToLower(o.kind) + "/" + o.name }

func (a *app) deleteCommand() *cobra.Command {
	var server serverFlags
	var ns namespaceFlags
	var files fileFlags
	var flags deleteFlags
	cmd := &cobra.Command{
		Use:     "delete TYPE NAME... | -f FILE|DIR|-",
		GroupID: groupServer,
		Short:   "Delete objects; a pipeline finishes what is in flight first",
		Long: `Delete objects. A pipeline first finishes what is in flight; then its
checkpoints are dropped, so that a new one of the same name begins anew. Dead
letters stay.`,
		Example: `  conveyor delete pipeline orders
  conveyor delete -f pipelines/
  conveyor delete pl/orders --wait=false`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			objects, err := a.toDelete(cmd, args, files, ns.namespace)
			if err != nil {
				return err
			}
			c, err := a.dial(cmd.Context(), server)
			if err != nil {
				return err
			}
			defer c.Close()
			return a.delete(cmd.Context(), c, objects, flags)
		},
	}
	server.add(cmd)
	ns.add(cmd, false)
	files.add(cmd)
	cmd.Flags().BoolVar(&flags.wait, "wait", true, "wait until pipelines have drained and are gone")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", 2*time.Minute, "how long to wait")
	cmd.Flags().BoolVar(&flags.ignoreAbsent, "ignore-not-found", false, "it is no error when there is nothing to delete")
	cmd.ValidArgsFunction = a.completeTargets(&server, &ns)
	return cmd
}

func (a *app) toDelete(cmd *cobra.Command, args []string, files fileFlags, namespace string) ([]object, error) {
	if len(files.paths) > 0 {
		if len(args) > 0 {
			return nil, usage(cmd, "name objects or give -f, not both")
		}
		set, diags := dsl.Loader{Stdin: a.env.Stdin}.Load(files.paths)
		if err := a.show(a.env.Stderr, set, diags); err != nil {
			return nil, err
		}
		if dsl.HasErrors(diags) {
			return nil, quiet{exitInvalid}
		}
		// What refers to others goes first.
		resources := inOrder(set)
		slices.Reverse(resources)
		var out []object
		for _, r := range resources {
			out = append(out, object{r.Kind, r.Metadata.Namespace, r.Metadata.Name})
		}
		return out, nil
	}
	targets, err := parseTargets(cmd, args)
	if err != nil {
		return nil, err
	}
	var out []object
	for _, t := range targets {
		switch {
		case t.kind == kindSidecar:
			return nil, usage(cmd, "a sidecar is not deleted; stop its process instead")
		case len(t.names) == 0:
			return nil, usage(cmd, "say which %s to delete", strings.ToLower(t.kind))
		}
		for _, n := range t.names {
			out = append(out, object{t.kind, namespace, n})
		}
	}
	return out, nil
}

func (a *app) delete(ctx context.Context, c *client.Client, objects []object, flags deleteFlags) error {
	var waiting []object
	var errs []error
	for _, o := range objects {
		err := c.Delete(ctx, o.kind, o.namespace, o.name)
		switch {
		case errors.Is(err, client.ErrNotFound):
			if !flags.ignoreAbsent {
				errs = append(errs, absentError{o.kind, o.namespace, []string{o.name}})
			}
		case err != nil:
			return errors.Join(append(errs, err)...)
		case o.kind == dsl.KindPipeline && flags.wait:
			waiting = append(waiting, o)
		case o.kind == dsl.KindPipeline:
			say(a.env.Stdout, "%s draining", o.typeName())
		default:
			say(a.env.Stdout, "%s deleted", o.typeName())
		}
	}
	wait, cancel := context.WithTimeoutCause(ctx, flags.timeout, errStillDraining)
	defer cancel()
	for _, o := range waiting {
		if err := awaitGone(wait, c, o); err != nil {
			return errors.Join(append(errs, err)...)
		}
		say(a.env.Stdout, "%s deleted", o.typeName())
	}
	if len(errs) > 0 {
		return &fault{exit: exitFailed, code: "NOT_FOUND", err: errors.Join(errs...)}
	}
	return nil
}

var errStillDraining = errors.New("still draining")

// awaitGone waits until the pipeline no longer exists.
func awaitGone(ctx context.Context, c *client.Client, o object) error {
	for {
		_, err := c.PipelineStatus(ctx, o.namespace, o.name)
		switch {
		case errors.Is(err, client.ErrNotFound):
			return nil
		case err != nil && ctx.Err() == nil:
			return err
		}
		select {
		case <-ctx.Done():
			if !errors.Is(context.Cause(ctx), errStillDraining) {
				return context.Cause(ctx)
			}
			// The time to wait is over, but one more question is allowed.
			reason := ""
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			if s, err := c.PipelineStatus(last, o.namespace, o.name); err == nil {
				reason = why(s)
			}
			cancel()
			return &fault{
				exit: exitFailed, code: "TIMEOUT", err: fmt.Errorf("%s is still draining%s", o.typeName(), output.Clean(reason)),
				fix: "it goes on draining; wait longer with --timeout, or look at `conveyor describe " + o.typeName() + "`",
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
}
