// Package blackhole is the sink that forgets everything.
package blackhole

import (
	"context"

	"github.com/conveyor-etl/conveyor/sdk"
)

// Config is empty.
type Config struct{}

// Sink returns the ability "blackhole". It logs how many records each stream gave it.
func Sink() sdk.Ability {
	return sdk.OpenSink("blackhole", func(_ context.Context, o sdk.Opening, _ Config) (sdk.Writer, error) {
		return &writer{opening: o}, nil
	})
}

type writer struct {
	opening        sdk.Opening
	records, bytes int64
}

func (w *writer) Write(_ context.Context, batch []sdk.Record) error {
	w.records += int64(len(batch))
	for i := range batch {
		w.bytes += int64(len(batch[i].Payload))
	}
	return nil
}

func (w *writer) Close() error {
	w.opening.Logger.Info("blackhole closed", "records", w.records, "bytes", w.bytes)
	return nil
}
