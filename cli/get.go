package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/cli/internal/view"
	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

func (a *app) getCommand() *cobra.Command {
	var server serverFlags
	var ns namespaceFlags
	var format output.Format
	cmd := &cobra.Command{
		Use:     "get TYPE [NAME...]",
		GroupID: groupServer,
		Short:   "List pipelines, sources, transforms, sinks and sidecars",
		Long: `List objects of a type, or some of them by name. The types are pipelines (pl),
sources (src), transforms (tf), sinks (sk), sidecars (sc), or all.`,
		Example: `  conveyor get pipelines
  conveyor get sources --all-namespaces
  conveyor get pipeline/orders -o yaml
  conveyor get pl -o jsonpath='{.items[*].metadata.name}'`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := parseTargets(cmd, args)
			if err != nil {
				return err
			}
			c, err := a.dial(cmd.Context(), server)
			if err != nil {
				return err
			}
			defer c.Close()
			objects, missing, err := fetch(cmd.Context(), c, targets, &ns)
			if err != nil {
				return err
			}
			if err := a.printObjects(&format, targets, objects, &ns); err != nil {
				return err
			}
			return missing
		},
	}
	server.addReading(cmd)
	ns.add(cmd, true)
	addOutput(cmd, &format)
	cmd.ValidArgsFunction = a.completeTargets(&server, &ns)
	return cmd
}

// fetch reads what the targets name. What does not exist is in missing; the rest is returned all the same.
func fetch(ctx context.Context, c *client.Client, targets []target, ns *namespaceFlags) (objects []*view.Object, missing, err error) {
	var absent []error
	for _, t := range targets {
		found, err := fetchKind(ctx, c, t, ns)
		var list absentError
		if errors.As(err, &list) {
			absent = append(absent, list)
		} else if err != nil {
			return nil, nil, err
		}
		objects = append(objects, found...)
	}
	if len(absent) > 0 {
		missing = &fault{exit: exitFailed, code: "NOT_FOUND", err: errors.Join(absent...), fix: "`conveyor get all -A` lists what there is"}
	}
	return objects, missing, nil
}

// absentError names what does not exist.
type absentError struct {
	kind      string
	namespace string
	names     []string
}

func (e absentError) Error() string {
	where := ""
	if e.namespace != "" && e.kind != kindSidecar {
		where = fmt.Sprintf(" in namespace %s", e.namespace)
	}
	return fmt.Sprintf("there is no %s %s%s", strings.ToLower(e.kind), strings.Join(e.names, ", "), where)
}

func fetchKind(ctx context.Context, c *client.Client, t target, ns *namespaceFlags) ([]*view.Object, error) {
	all, err := listKind(ctx, c, t.kind, ns.wanted())
	if err != nil {
		return nil, err
	}
	if len(t.names) > 0 {
		absent := absentError{kind: t.kind, namespace: ns.wanted()}
		var picked []*view.Object
		for _, name := range t.names {
			n := len(picked)
			for _, o := range all {
				if o.Metadata.Name == name {
					picked = append(picked, o)
				}
			}
			if len(picked) == n {
				absent.names = append(absent.names, name)
			}
		}
		all = picked
		if len(absent.names) > 0 {
			err = absent
		}
	}
	if t.kind != dsl.KindPipeline {
		return all, err
	}
	for _, o := range all {
		status, e := c.PipelineStatus(ctx, o.Metadata.Namespace, o.Metadata.Name)
		switch {
		case errors.Is(e, client.ErrNotFound): // deleted meanwhile
		case e != nil:
			return nil, e
		default:
			o.Status = view.Pipeline(status)
		}
	}
	return all, err
}

func listKind(ctx context.Context, c *client.Client, kind, namespace string) ([]*view.Object, error) {
	var out []*view.Object
	if kind == kindSidecar {
		sidecars, err := c.Sidecars(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range sidecars {
			out = append(out, view.Sidecar(s))
		}
	} else {
		resources, _, err := c.List(ctx, kind, namespace)
		if err != nil {
			return nil, err
		}
		for _, r := range resources {
			o, err := view.Resource(r)
			if err != nil {
				return nil, err
			}
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(x, y *view.Object) int {
		return strings.Compare(x.Metadata.Namespace+"/"+x.Metadata.Name, y.Metadata.Namespace+"/"+y.Metadata.Name)
	})
	return out, nil
}

// printObjects prints what get found: one object that was asked for by name as itself, everything else as a list.
func (a *app) printObjects(format *output.Format, targets []target, objects []*view.Object, ns *namespaceFlags) error {
	if format.Table() {
		return a.printTables(format, targets, objects, ns)
	}
	var names []string
	for _, o := range objects {
		names = append(names, o.TypeName())
	}
	if len(targets) == 1 && len(targets[0].names) == 1 {
		switch len(objects) {
		case 0:
			return nil
		case 1:
			return format.Print(a.env.Stdout, objects[0], names)
		}
	}
	kind := targets[0].kind
	for _, t := range targets {
		if t.kind != kind {
			kind = ""
		}
	}
	return format.Print(a.env.Stdout, view.NewList(kind, objects), names)
}

func (a *app) printTables(format *output.Format, targets []target, objects []*view.Object, ns *namespaceFlags) error {
	if len(objects) == 0 {
		if !slices.ContainsFunc(targets, func(t target) bool { return len(t.names) > 0 }) {
			where := "in namespace " + ns.namespace
			if ns.all || len(targets) == 1 && targets[0].kind == kindSidecar {
				where = "anywhere"
			}
			say(a.env.Stderr, "nothing found %s", where)
		}
		return nil
	}
	var seen []string
	for _, t := range targets {
		if slices.Contains(seen, t.kind) {
			continue
		}
		of := slices.DeleteFunc(slices.Clone(objects), func(o *view.Object) bool { return o.Kind != t.kind })
		if len(of) == 0 {
			continue
		}
		if len(seen) > 0 {
			say(a.env.Stdout, "")
		}
		seen = append(seen, t.kind)
		header, rows := tableOf(t.kind, of, format.Wide(), ns.all && t.kind != kindSidecar, len(targets) > 1)
		if err := output.Table(a.env.Stdout, header, rows); err != nil {
			return err
		}
	}
	return nil
}

func tableOf(kind string, objects []*view.Object, wide, namespaces, typed bool) (header []string, rows [][]string) {
	now := time.Now()
	columns, cells := serviceColumns, serviceCells
	switch kind {
	case dsl.KindPipeline:
		columns, cells = pipelineColumns, pipelineCells
	case kindSidecar:
		columns, cells = sidecarColumns, sidecarCells
	}
	header = columns(wide)
	if namespaces {
		header = append([]string{"NAMESPACE"}, header...)
	}
	for _, o := range objects {
		row := cells(o, now, wide)
		if typed {
			row[0] = o.TypeName()
		}
		if namespaces {
			row = append([]string{o.Metadata.Namespace}, row...)
		}
		rows = append(rows, row)
	}
	return header, rows
}

func pipelineColumns(wide bool) []string {
	h := []string{"NAME", "PHASE", "READ", "WRITTEN", "FILTERED", "DEAD", "AGE"}
	if wide {
		h = append(h, "UNROUTED", "SHED", "IN-FLIGHT", "GENERATION", "GUARANTEE")
	}
	return h
}

func pipelineCells(o *view.Object, now time.Time, wide bool) []string {
	s, ok := o.Status.(*view.PipelineStatus)
	if !ok {
		s = &view.PipelineStatus{Phase: "Unknown"}
	}
	n := func(of func(*view.Counts) uint64) string {
		if s.Counts == nil {
			return notKnown
		}
		return fmt.Sprint(of(s.Counts))
	}
	row := []string{
		o.Metadata.Name, cmp.Or(s.Phase, notKnown), n(func(c *view.Counts) uint64 { return c.Read }), n(func(c *view.Counts) uint64 { return c.Written }),
		n(func(c *view.Counts) uint64 { return c.Filtered }), n(func(c *view.Counts) uint64 { return c.DeadLettered }), output.Age(now, o.Created()),
	}
	if wide {
		row = append(row, n(func(c *view.Counts) uint64 { return c.Unrouted }), n(func(c *view.Counts) uint64 { return c.Shed }),
			n(func(c *view.Counts) uint64 { return c.InFlight }), fmt.Sprint(s.Generation), s.Guarantee)
	}
	return row
}

// notKnown stands in tables for what the router that answered does not know.
const notKnown = "-"

func serviceColumns(wide bool) []string {
	h := []string{"NAME", "RUNS", "AGE"}
	if wide {
		h = append(h, "TRANSPORT", "GENERATION", "OWNER")
	}
	return h
}

func serviceCells(o *view.Object, now time.Time, wide bool) []string {
	spec := serviceSpec(o)
	row := []string{o.Metadata.Name, view.Runs(spec), output.Age(now, o.Created())}
	if wide {
		row = append(row, view.Transport(spec), fmt.Sprint(o.Metadata.Generation), o.Metadata.Owner)
	}
	return row
}

func sidecarColumns(wide bool) []string {
	h := []string{"NAME", "HOST", "STAGES", "ADDRESS", "AGE"}
	if wide {
		h = append(h, "VERSION", "SERVICES")
	}
	return h
}

func sidecarCells(o *view.Object, now time.Time, wide bool) []string {
	s, ok := o.Status.(*view.SidecarStatus)
	if !ok {
		s = &view.SidecarStatus{}
	}
	row := []string{o.Metadata.Name, s.HostName, fmt.Sprint(s.Stages), s.Address, output.Age(now, o.Created())}
	if wide {
		var services []string
		for _, e := range s.Endpoints {
			services = append(services, fmt.Sprintf("%s (%s)", e.Address, plural(len(e.Abilities), "type")))
		}
		row = append(row, s.Version, strings.Join(services, ", "))
	}
	return row
}

// serviceSpec is the spec of a Source, Transform or Sink; nil when it cannot be read.
func serviceSpec(o *view.Object) *dsl.ServiceSpec {
	text, err := output.JSON(o.Manifest())
	if err != nil {
		return nil
	}
	r, diags := dsl.FromJSON(text)
	if dsl.HasErrors(diags) {
		return nil
	}
	return r.Service()
}

// completeTargets offers types, and names of objects from the server.
func (a *app) completeTargets(server *serverFlags, ns *namespaceFlags) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return plurals(), cobra.ShellCompDirectiveNoFileComp
		}
		kind, err := kindOf(cmd, args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		c, err := a.dial(ctx, *server)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		objects, err := listKind(ctx, c, kind, ns.wanted())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, o := range objects {
			names = append(names, o.Metadata.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// settledPhase reports whether a pipeline has nothing more to do.
func settledPhase(p controlv1.Phase) bool {
	return p == controlv1.Phase_PHASE_COMPLETED || p == controlv1.Phase_PHASE_PAUSED
}
