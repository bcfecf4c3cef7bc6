package cli

import (
	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/internal/version"
)

type versionObject struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	version.Info
}

func (a *app) versionCommand() *cobra.Command {
	var format output.Format
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Tell which build this is",
		Example: `  conveyor version
  conveyor version -o json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			info := version.Get()
			if format.Table() {
				say(a.env.Stdout, "conveyor %s %s %s", info, info.Go, info.Platform)
				return nil
			}
			return format.Print(a.env.Stdout, versionObject{dsl.APIVersion, "Version", info}, []string{"version/" + info.Version})
		},
	}
	addOutput(cmd, &format)
	return cmd
}
