package connectors

import (
	"io"
	"os"

	"github.com/conveyor-etl/conveyor/connectors/internal/blackhole"
	"github.com/conveyor-etl/conveyor/connectors/internal/file"
	"github.com/conveyor-etl/conveyor/connectors/internal/generate"
	"github.com/conveyor-etl/conveyor/connectors/internal/stdio"
	"github.com/conveyor-etl/conveyor/sdk"
)

// Options say what the connectors that use the process itself read and write. The zero value is the process's own.
type Options struct {
	Stdin  io.Reader
	Stdout io.Writer
}

// Abilities returns every connector: the sources generate, file and stdin, and the sinks file, stdout, log and blackhole.
func Abilities(o Options) []sdk.Option {
	if o.Stdin == nil {
		o.Stdin = os.Stdin
	}
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	return []sdk.Option{
		generate.Source(), file.Source(), stdio.Stdin(o.Stdin),
		file.Sink(), stdio.Stdout(o.Stdout), stdio.Log(), blackhole.Sink(),
	}
}

// NewServer returns a server of every connector; its Serve runs them.
func NewServer(o Options, options ...sdk.Option) (*sdk.Server, error) {
	return sdk.NewServer(append(Abilities(o), options...)...)
}
