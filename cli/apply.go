package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/cli/internal/view"
	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
)

// applyResult is what became of one manifest.
type applyResult struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Action     string       `json:"action"`
	Warnings   []string     `json:"warnings,omitempty"`
	Resource   *view.Object `json:"resource"`
}

func (a *app) applyCommand() *cobra.Command {
	var server serverFlags
	var files fileFlags
	var format output.Format
	var opts client.ApplyOptions
	cmd := &cobra.Command{
		Use:     "apply -f FILE|DIR|-",
		GroupID: groupServer,
		Short:   "Create or change what manifests describe, all or nothing",
		Long: `Create or change what manifests describe, all or nothing. A changed pipeline
finishes what is in flight and goes on where it was.`,
		Example: `  conveyor apply -f pipelines/
  conveyor apply -f pipelines/ --dry-run
  cat pipeline.yaml | conveyor apply -f -`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := a.loadForApply(cmd, files)
			if err != nil {
				return err
			}
			c, err := a.dial(cmd.Context(), server)
			if err != nil {
				return err
			}
			defer c.Close()
			applied, err := c.Apply(cmd.Context(), inOrder(set), opts)
			if err != nil {
				return err
			}
			return a.printApplied(&format, applied, opts.DryRun)
		},
	}
	server.add(cmd)
	files.add(cmd)
	addOutput(cmd, &format)
	cmd.Flags().BoolVar(&opts.DryRun, "dry-run", false, "let the server check and tell what would change, and change nothing")
	cmd.Flags().BoolVar(&opts.TakeOver, "take-over", false, "also change what belongs to another owner, which loses it")
	return cmd
}

// loadForApply leaves references to what is not in the files to the server, which knows whether they exist.
func (a *app) loadForApply(cmd *cobra.Command, files fileFlags) (*dsl.Set, error) {
	if err := files.required(cmd); err != nil {
		return nil, err
	}
	set, diags := a.check(files, dsl.Warning)
	if dsl.HasErrors(diags) {
		if err := a.show(a.env.Stderr, set, diags); err != nil {
			return nil, err
		}
		say(a.env.Stderr, "%s; nothing was applied", faultCount(diags))
		return nil, quiet{exitInvalid}
	}
	return set, nil
}

// inOrder sorts resources so that what is referred to comes first.
func inOrder(set *dsl.Set) []*dsl.Resource {
	order := dsl.Kinds()
	out := slices.Clone(set.Resources)
	slices.SortStableFunc(out, func(x, y *dsl.Resource) int { return slices.Index(order, x.Kind) - slices.Index(order, y.Kind) })
	return out
}

func (a *app) printApplied(format *output.Format, applied []client.Applied, dryRun bool) error {
	var names []string
	var items []applyResult
	for _, r := range applied {
		name := strings.ToLower(r.Resource.GetKind()) + "/" + r.Resource.GetName()
		for _, w := range r.Warnings {
			a.warn("%s: %s", name, output.Clean(w))
		}
		names = append(names, name)
		if format.Table() {
			suffix := ""
			if dryRun {
				suffix = " (dry run)"
			}
			say(a.env.Stdout, "%s %s%s", name, r.Action, suffix)
			continue
		}
		o, err := view.Resource(r.Resource)
		if err != nil {
			return err
		}
		items = append(items, applyResult{APIVersion: dsl.APIVersion, Kind: "ApplyResult", Action: string(r.Action), Warnings: r.Warnings, Resource: o})
	}
	if format.Table() {
		return nil
	}
	return format.Print(a.env.Stdout, view.NewList("ApplyResult", items), names)
}
