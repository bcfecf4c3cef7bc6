package cli

import (
	"io"

	"github.com/spf13/cobra"
)

// NewScreen is a screen and what draws on it.
func NewScreen(w io.Writer) (above io.Writer, draw func(lines ...string)) {
	s := &screen{w: w}
	return s, s.draw
}

// Tree is the command tree, for tests that walk it.
func Tree(env Env) *cobra.Command {
	root := (&app{env: env}).root()
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	return root
}
