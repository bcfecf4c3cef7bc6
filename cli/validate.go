package cli

import (
	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/dsl"
)

// ValidationReport is everything that is wrong with manifests.
type ValidationReport struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Valid says that no finding is an error.
	Valid     bool      `json:"valid"`
	Resources int       `json:"resources"`
	Findings  []Finding `json:"findings"`
}

// Finding is one fault or warning and its place.
type Finding struct {
	Code       string   `json:"code"`
	Severity   string   `json:"severity"`
	File       string   `json:"file"`
	Line       int      `json:"line"`
	Column     int      `json:"column"`
	EndColumn  int      `json:"endColumn,omitempty"`
	Path       string   `json:"path,omitempty"`
	Message    string   `json:"message"`
	Suggestion string   `json:"suggestion"`
	Fix        *dsl.Fix `json:"fix,omitempty"`
}

func (a *app) validateCommand() *cobra.Command {
	var files fileFlags
	var format output.Format
	cmd := &cobra.Command{
		Use:     "validate -f FILE|DIR|-",
		GroupID: groupFiles,
		Short:   "Find everything that is wrong with manifests",
		Long: `Find everything that is wrong with manifests, without a server. A reference to a
service that is in none of the files is a warning: it may be applied later.
Exit code 2 when there is an error.`,
		Example: `  conveyor validate -f pipelines/
  conveyor validate -f pipelines/ -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := files.required(cmd); err != nil {
				return err
			}
			set, diags := a.check(files, dsl.Warning)
			if err := a.printReport(&format, set, diags); err != nil {
				return err
			}
			if dsl.HasErrors(diags) {
				return quiet{exitInvalid}
			}
			return nil
		},
	}
	files.add(cmd)
	addOutput(cmd, &format)
	return cmd
}

func (a *app) printReport(format *output.Format, set *dsl.Set, diags []dsl.Diagnostic) error {
	if format.Table() {
		if err := a.show(a.env.Stdout, set, diags); err != nil {
			return err
		}
		if dsl.HasErrors(diags) {
			say(a.env.Stdout, "%s", faultCount(diags))
			return nil
		}
		say(a.env.Stdout, "%s: %s valid, %s", a.out.Green("ok"), plural(len(set.Resources), "manifest"), faultCount(diags))
		return nil
	}
	report := ValidationReport{
		APIVersion: dsl.APIVersion, Kind: "ValidationReport", Valid: !dsl.HasErrors(diags), Resources: len(set.Resources), Findings: []Finding{},
	}
	var names []string
	for _, d := range diags {
		report.Findings = append(report.Findings, Finding{
			Code: d.Code, Severity: string(d.Severity), File: d.File, Line: d.Line, Column: d.Column, EndColumn: d.EndColumn,
			Path: d.Path, Message: d.Message, Suggestion: d.Suggestion, Fix: d.Fix,
		})
		names = append(names, "finding/"+d.Code)
	}
	return format.Print(a.env.Stdout, report, names)
}
