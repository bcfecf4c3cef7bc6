package cli

import "github.com/spf13/cobra"

// Tree is the command tree, for tests that walk it.
func Tree(env Env) *cobra.Command {
	root := (&app{env: env}).root()
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	return root
}
