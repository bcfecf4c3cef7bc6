package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/dsl/graph"
)

var graphFormats = map[string]func(io.Writer, ...*graph.Graph) error{
	"ascii":   graph.ASCII,
	"dot":     graph.DOT,
	"mermaid": graph.Mermaid,
}

func (a *app) graphCommand() *cobra.Command {
	var files fileFlags
	var format string
	cmd := &cobra.Command{
		Use:     "graph -f FILE|DIR|-",
		GroupID: groupFiles,
		Short:   "Draw the pipelines of manifests",
		Long: `Draw the pipelines of manifests, without a server: as text, for Graphviz (dot),
or as a Mermaid flowchart.`,
		Example: `  conveyor graph -f pipelines/
  conveyor graph -f pipelines/ --format dot | dot -Tpng -o pipelines.png
  conveyor graph -f pipelines/ --format mermaid`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			draw, ok := graphFormats[format]
			if !ok {
				return usage(cmd, "unknown format %q; want ascii, dot or mermaid", format)
			}
			set, err := a.load(cmd, files, dsl.Warning)
			if err != nil {
				return err
			}
			graphs, err := compile(set)
			if err != nil {
				return err
			}
			if len(graphs) == 0 {
				return &fault{exit: exitFailed, code: "NO_PIPELINES", err: fmt.Errorf("there is no Pipeline in %s", strings.Join(files.paths, ", "))}
			}
			if err := draw(a.env.Stdout, graphs...); err != nil {
				return fmt.Errorf("draw: %w", err)
			}
			return nil
		},
	}
	files.add(cmd)
	cmd.Flags().StringVar(&format, "format", "ascii", "`FORMAT`: ascii, dot or mermaid")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"ascii", "dot", "mermaid"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// compile turns the pipelines of a set into graphs.
func compile(set *dsl.Set) ([]*graph.Graph, error) {
	var graphs []*graph.Graph
	for _, p := range set.Pipelines() {
		g, diags := dsl.Compile(set.Lookup, p)
		if err := dsl.Err(diags); err != nil {
			return nil, &fault{exit: exitInvalid, code: "INVALID_MANIFEST", err: err}
		}
		graphs = append(graphs, g)
	}
	return graphs, nil
}
