package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/terminal"
)

// addYes adds the flag that answers for whoever would be asked.
func addYes(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "do not ask")
}

// canConfirm refuses a command that must be confirmed when nobody did and nobody is here to be asked; consequence says why it must be.
func (a *app) canConfirm(cmd *cobra.Command, yes bool, consequence string) error {
	if yes || terminal.Interactive(a.env.Stdin, a.err) {
		return nil
	}
	err := usage(cmd, "%s, and nobody is here to be asked", consequence)
	err.fix = "add --yes"
	return err
}

// confirm asks a question that is answered with no unless somebody says yes, and says then what otherwise says.
func (a *app) confirm(ctx context.Context, question, otherwise string) error {
	fmt.Fprintf(a.env.Stderr, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // ends with its read; a terminal cannot be asked to give up
		line, _ := bufio.NewReader(a.env.Stdin).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case s := <-answer:
		if s == "y" || s == "yes" {
			return nil
		}
		say(a.env.Stderr, "%s", otherwise)
		return quiet{exitFailed}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
