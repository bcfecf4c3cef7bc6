package connectors

import (
	"fmt"
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

// UnknownError says that there is no connector of a kind and a type.
type UnknownError struct {
	Kind, Type string
	// Known are the types of that kind.
	Known []string
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("there is no %s of type %q", e.Kind, e.Type)
}

// Check reports what is wrong with the config of the connector of a kind ("source", "transform" or "sink") and a type: nil, a *sdk.ConfigError or an *UnknownError.
func Check(kind, typ string, config []byte) error {
	e := &UnknownError{Kind: kind, Type: typ}
	for _, o := range Abilities(Options{}) {
		a, ok := o.(sdk.Ability)
		if !ok || a.Kind() != kind {
			continue
		}
		if a.Type() == typ {
			return a.CheckConfig(config)
		}
		e.Known = append(e.Known, a.Type())
	}
	return e
}

// NewServer returns a server of every connector; its Serve runs them.
func NewServer(o Options, options ...sdk.Option) (*sdk.Server, error) {
	return sdk.NewServer(append(Abilities(o), options...)...)
}
