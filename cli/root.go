package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// root is the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "conveyor",
		Short: "Build, run and look after data pipelines",
		Long: `Conveyor moves records through pipelines of sources, transforms and sinks.

Exit codes: 0 done, 1 failed or not found, 2 wrong usage or invalid manifests,
3 no server or service answered, 4 not permitted, 130 interrupted.
Environment: CONVEYOR_SERVER (as --server), NO_COLOR.`,
		Example: `  conveyor dev                          # try it: everything in one process, with a demo
  conveyor validate -f pipelines/       # check manifests without a server
  conveyor run -f pipelines/            # run pipelines here until their sources end`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          groupArgs,
		RunE:          showHelp,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var bad *pflag.InvalidValueError
		var number *strconv.NumError
		if errors.As(err, &bad) && errors.As(err, &number) {
			return usage(cmd, "--%s %q is not a number", bad.GetFlag().Name, bad.GetValue())
		}
		return usage(cmd, "%s", strings.TrimSpace(err.Error()))
	})
	root.AddGroup(
		&cobra.Group{ID: groupHere, Title: "Run it here:"},
		&cobra.Group{ID: groupFiles, Title: "Work on manifests:"},
		&cobra.Group{ID: groupServer, Title: "Use a server:"},
	)
	// Help fits into 80 columns, flags included.
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "Flags.FlagUsages ", "Flags.FlagUsagesWrapped 80 "))
	root.AddCommand(
		a.devCommand(), a.runCommand(),
		a.validateCommand(), a.graphCommand(),
		a.applyCommand(), a.getCommand(), a.describeCommand(), a.deleteCommand(), a.dlqCommand(), a.clusterCommand(),
		a.versionCommand(),
	)
	return root
}

const (
	groupHere   = "here"
	groupFiles  = "files"
	groupServer = "server"
)

// groupArgs refuses what looks like a misspelt subcommand.
func groupArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := usage(cmd, "unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err.fix = fmt.Sprintf("did you mean `%s %s`?", cmd.CommandPath(), near[0])
	}
	return err
}

// unknownCommand finds a misspelt command before its flags are complained about.
func unknownCommand(root *cobra.Command, args []string) error {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(args)
	if err != nil {
		return nil //nolint:nilerr // cobra finds it again and says it better
	}
	if !cmd.HasSubCommands() || len(rest) == 0 || strings.HasPrefix(rest[0], "-") || strings.HasPrefix(rest[0], "__complete") {
		return nil
	}
	return groupArgs(cmd, rest)
}

func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// exactlyOne is like cobra.ExactArgs(1), with an error that says what is wanted.
func exactlyOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage(cmd, "want %s, got %d arguments", what, len(args))
		}
		return nil
	}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(cmd, "unexpected argument %q", args[0])
	}
	return nil
}
