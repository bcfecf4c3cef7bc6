package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/cli/internal/view"
)

func (a *app) describeCommand() *cobra.Command {
	var server serverFlags
	var ns namespaceFlags
	var format output.Format
	cmd := &cobra.Command{
		Use:     "describe TYPE [NAME...]",
		GroupID: groupServer,
		Short:   "Show what an object does, and what it waits for",
		Example: `  conveyor describe pipeline orders
  conveyor describe sidecars`,
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
			if !format.Table() {
				if err := a.printObjects(&format, targets, objects, &ns); err != nil {
					return err
				}
				return missing
			}
			for i, o := range objects {
				if i > 0 {
					say(a.env.Stdout, "")
				}
				if err := describe(a.env.Stdout, o); err != nil {
					return err
				}
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

func describe(w io.Writer, o *view.Object) error {
	m := o.Metadata
	field(w, "Name", m.Name)
	field(w, "Namespace", m.Namespace)
	field(w, "Kind", o.Kind)
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		field(w, "Label", k+"="+m.Labels[k])
	}
	if m.Generation > 0 {
		field(w, "Generation", fmt.Sprint(m.Generation))
	}
	field(w, "Owner", m.Owner)
	if !o.Created().IsZero() {
		field(w, "Created", o.Created().Local().Format(time.RFC3339))
	}
	switch s := o.Status.(type) {
	case *view.PipelineStatus:
		if err := describePipeline(w, s); err != nil {
			return err
		}
	case *view.SidecarStatus:
		return describeSidecar(w, s)
	}
	if len(o.Spec) == 0 {
		return nil
	}
	text, err := output.YAML(o.Spec)
	if err != nil {
		return err
	}
	say(w, "Spec:\n  %s", strings.ReplaceAll(strings.TrimRight(string(text), "\n"), "\n", "\n  "))
	return nil
}

func field(w io.Writer, name, value string) {
	if value != "" {
		say(w, "%-13s %s", name+":", output.Clean(value))
	}
}

func describePipeline(w io.Writer, s *view.PipelineStatus) error {
	field(w, "Phase", cmp.Or(s.Phase, notKnown))
	field(w, "Guarantee", s.Guarantee)
	if s.Counts != nil {
		field(w, "Records", counts(*s.Counts))
	} else {
		field(w, "Records", notKnown)
	}
	if s.ReportsUnknown {
		field(w, "Reports", "only the router that leads knows what sidecars report")
	}
	if len(s.Stages) > 0 {
		say(w, "Stages:")
		var rows [][]string
		for _, st := range s.Stages {
			row := []string{"  " + st.Name, st.Kind, st.Sidecar, notKnown, notKnown, notKnown, notKnown}
			if st.Open != nil && st.Figures != nil {
				state := "open"
				if !*st.Open {
					state = "not open"
				}
				row = []string{"  " + st.Name, st.Kind, st.Sidecar, state, fmt.Sprint(st.RecordsIn), fmt.Sprint(st.RecordsOut), fmt.Sprint(st.Failed)}
			}
			rows = append(rows, row)
		}
		if err := output.Table(w, []string{"  NAME", "KIND", "SIDECAR", "STATE", "IN", "OUT", "FAILED"}, rows); err != nil {
			return err
		}
		for _, st := range s.Stages {
			if st.WaitingFor != "" {
				say(w, "  %s waits for: %s", st.Name, output.Clean(st.WaitingFor))
			}
		}
	}
	if len(s.Lanes) > 0 {
		say(w, "Lanes:")
		var rows [][]string
		for _, l := range s.Lanes {
			state := "reading"
			if l.Ended {
				state = "ended"
			}
			rows = append(rows, []string{
				"  " + l.Stage, l.Partition, state, fmt.Sprint(l.Read), fmt.Sprint(l.SettledThrough), fmt.Sprint(l.CheckpointedThrough), output.Cut(position(l.Position), 24),
			})
		}
		if err := output.Table(w, []string{"  STAGE", "PARTITION", "STATE", "READ", "SETTLED", "CHECKPOINT", "POSITION"}, rows); err != nil {
			return err
		}
		for _, l := range s.Lanes {
			if l.Problem != "" {
				say(w, "  %s/%s: %s", l.Stage, l.Partition, output.Clean(l.Problem))
			}
		}
	}
	if len(s.Conditions) > 0 {
		say(w, "Conditions:")
		for _, c := range s.Conditions {
			line := fmt.Sprintf("  %s=%t", c.Type, c.Status)
			if c.Reason != "" {
				line += " " + c.Reason
			}
			if c.Message != "" {
				line += ": " + output.Clean(c.Message)
			}
			say(w, "%s", line)
		}
	}
	return nil
}

// position shows opaque bytes: as text where they are text, else in hexadecimal.
func position(p []byte) string {
	for _, b := range p {
		if b < 0x20 || b > 0x7e {
			return fmt.Sprintf("%x", p)
		}
	}
	return string(p)
}

func counts(c view.Counts) string {
	return fmt.Sprintf("%d read = %d written + %d filtered + %d dead + %d unrouted + %d shed + %d in flight",
		c.Read, c.Written, c.Filtered, c.DeadLettered, c.Unrouted, c.Shed, c.InFlight)
}

func describeSidecar(w io.Writer, s *view.SidecarStatus) error {
	field(w, "Address", s.Address)
	field(w, "Host", s.HostName)
	field(w, "Version", s.Version)
	field(w, "Stages", fmt.Sprint(s.Stages))
	if len(s.Endpoints) == 0 {
		return nil
	}
	say(w, "Services:")
	for _, e := range s.Endpoints {
		var abilities []string
		for _, a := range e.Abilities {
			abilities = append(abilities, a.String())
		}
		say(w, "  %s: %s", e.Address, output.Clean(strings.Join(abilities, ", ")))
	}
	return nil
}
