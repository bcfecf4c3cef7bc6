package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/connectors"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/dsl/expr"
	"github.com/conveyor-etl/conveyor/sdk"
)

// fileFlags name manifests.
type fileFlags struct{ paths []string }

func (f *fileFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.paths, "filename", "f", nil, "manifests: `FILE|DIR|-`; may be repeated")
}

func (f *fileFlags) required(cmd *cobra.Command) error {
	if len(f.paths) == 0 {
		err := usage(cmd, "no manifests given")
		err.fix = fmt.Sprintf("name a file or a directory: `%s -f pipelines/`", cmd.CommandPath())
		return err
	}
	return nil
}

// check loads manifests and finds everything that is wrong with them and between them.
func (a *app) check(f fileFlags, missing dsl.Severity) (*dsl.Set, []dsl.Diagnostic) {
	set, diags := dsl.Loader{Stdin: a.env.Stdin}.Load(f.paths)
	return set, append(diags, dsl.Validate(set, dsl.Options{
		MissingReference: missing,
		CheckExpr:        expr.Check,
		CheckConnector:   checkConnector,
	})...)
}

// checkConnector asks the ready-made connectors, of which every build has all.
func checkConnector(kind, connector string, config []byte) []dsl.ConnectorFault {
	err := connectors.Check(strings.ToLower(kind), connector, config)
	var unknown *connectors.UnknownError
	var bad *sdk.ConfigError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unknown):
		return []dsl.ConnectorFault{{Unknown: true, Known: unknown.Known}}
	case !errors.As(err, &bad):
		return []dsl.ConnectorFault{{Message: err.Error()}}
	}
	var out []dsl.ConnectorFault
	for _, f := range bad.Faults {
		out = append(out, dsl.ConnectorFault{Field: f.Field, Message: f.Message})
	}
	return out
}

// load is check for commands that go on with the manifests: warnings and errors are shown, and errors end the command.
func (a *app) load(cmd *cobra.Command, f fileFlags, missing dsl.Severity) (*dsl.Set, error) {
	if err := f.required(cmd); err != nil {
		return nil, err
	}
	set, diags := a.check(f, missing)
	if err := a.show(a.env.Stderr, set, diags); err != nil {
		return nil, err
	}
	if dsl.HasErrors(diags) {
		say(a.env.Stderr, "%s", faultCount(diags))
		return nil, quiet{exitInvalid}
	}
	return set, nil
}

// stdinOnce refuses to read manifests and records from one standard input: whoever comes second would find it empty.
func (a *app) stdinOnce(f fileFlags, set *dsl.Set) error {
	if !slices.Contains(f.paths, "-") {
		return nil
	}
	for _, r := range set.Resources {
		if s := r.Service(); r.Kind == dsl.KindSource && s.Connector != nil && s.Connector.Type == "stdin" {
			return &fault{
				exit: exitInvalid, code: "STDIN_TWICE", err: fmt.Errorf("the manifests and the records of source %s cannot both come from standard input", r.Metadata.Name),
				fix: "keep the manifests in a file: -f FILE",
			}
		}
	}
	return nil
}

// show renders diagnostics for people.
func (a *app) show(w io.Writer, set *dsl.Set, diags []dsl.Diagnostic) error {
	if len(diags) == 0 {
		return nil
	}
	color := a.err.Color
	if w == a.env.Stdout {
		color = a.out.Color
	}
	if err := dsl.Render(w, diags, set.Source, color); err != nil {
		return fmt.Errorf("show what is wrong: %w", err)
	}
	return nil
}

func faultCount(diags []dsl.Diagnostic) string {
	errs, warnings := 0, 0
	for _, d := range diags {
		if d.Severity == dsl.Error {
			errs++
		} else {
			warnings++
		}
	}
	return plural(errs, "error") + ", " + plural(warnings, "warning")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
