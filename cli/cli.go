package cli

import (
	"context"
	"io"
	"os"

	"github.com/conveyor-etl/conveyor/cli/internal/terminal"
	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/lifecycle"
)

// Env is what the command sees of the world.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Getenv looks up an environment variable; "" when it is not set.
	Getenv func(string) string

	left *leftovers
}

// Main runs the command of this process and returns its exit code. The first SIGINT or SIGTERM asks it to end, the second ends it at once, by exit.
func Main(exit func(code int)) int {
	var left leftovers
	ctx, stop := lifecycle.Signals(context.Background(), func(code int) {
		left.remove()
		exit(code)
	})
	defer stop()
	return Run(ctx, Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, left: &left}, os.Args[1:])
}

// Run runs one command line, without the name of the program, and returns its exit code. It blocks until the command is done; the end of ctx asks it to end
// early. Everything it starts has ended when it returns.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{out: terminal.New(env.Stdout, env.Getenv), err: terminal.New(env.Stderr, env.Getenv)}
	// Whatever writes on standard error writes above the progress that is drawn there.
	a.screen = &screen{w: env.Stderr}
	env.Stderr = a.screen
	a.env = env
	root := a.root()
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	if err := unknownCommand(root, args); err != nil {
		return a.report(ctx, err)
	}
	return a.report(ctx, root.ExecuteContext(ctx))
}

// app is one run of the command.
type app struct {
	env Env
	out *terminal.Terminal
	err *terminal.Terminal
	// screen is standard error, with the progress below what is written.
	screen *screen
	// target is the server that the command used, for its errors.
	target string
	// files are the certificates that it used.
	files certs.Files
	// listHint is the command that lists what the command is about.
	listHint string
}
