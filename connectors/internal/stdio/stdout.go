// Package stdio is the source that reads the process's standard input and the sinks that write its output and its log.
package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/conveyor-etl/conveyor/connectors/internal/jsontext"
	"github.com/conveyor-etl/conveyor/sdk"
)

// OutConfig is the config of stdout.
type OutConfig struct {
	Format string `conveyor:"enum=ndjson|lines" default:"ndjson" doc:"ndjson: payloads are JSON, one to a line; lines: payloads are text, one to a line"`
}

// Stdout returns the ability "stdout", a sink that writes to out. Streams that are open at once take turns by batches.
func Stdout(out io.Writer) sdk.Ability {
	var mu sync.Mutex
	return sdk.OpenSink("stdout", func(_ context.Context, _ sdk.Opening, cfg OutConfig) (sdk.Writer, error) {
		return &stdout{mu: &mu, out: out, cfg: cfg}, nil
	})
}

type stdout struct {
	mu  *sync.Mutex
	out io.Writer
	cfg OutConfig
	buf []byte
}

func (s *stdout) Write(_ context.Context, batch []sdk.Record) error {
	s.buf = s.buf[:0]
	failed := sdk.Each(batch, s.append)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.out.Write(s.buf); err != nil {
		return sdk.Unavailable(sdk.Code("OUTPUT_CLOSED", fmt.Errorf("write standard output: %w", err)))
	}
	return failed
}

func (s *stdout) append(r sdk.Record) error {
	if s.cfg.Format == "lines" {
		if bytes.IndexByte(r.Payload, '\n') >= 0 {
			return sdk.Permanent(sdk.Code("NOT_ONE_LINE", errors.New("the payload has several lines")))
		}
		s.buf = append(append(s.buf, r.Payload...), '\n')
		return nil
	}
	valid, compact := jsontext.Valid(r.Payload)
	switch {
	case !valid:
		return sdk.Permanent(sdk.Code("NOT_JSON", errors.New("the payload is not JSON")))
	case compact:
		s.buf = append(s.buf, r.Payload...)
	default:
		s.buf = jsontext.AppendCompact(s.buf, r.Payload)
	}
	s.buf = append(s.buf, '\n')
	return nil
}

func (s *stdout) Close() error { return nil }

// LogConfig is the config of log.
type LogConfig struct {
	Level    string `conveyor:"enum=debug|info|warn|error" default:"info" doc:"level of the lines"`
	MaxBytes int    `default:"1024" doc:"most bytes of a payload in a line"`
}

// Log returns the ability "log", a sink that writes a line for every record to the log of the service.
func Log() sdk.Ability {
	return sdk.OpenSink("log", func(_ context.Context, o sdk.Opening, cfg LogConfig) (sdk.Writer, error) {
		w := &logger{log: o.Logger, max: max(cfg.MaxBytes, 0)}
		if err := w.level.UnmarshalText([]byte(cfg.Level)); err != nil {
			return nil, fmt.Errorf("level: %w", err)
		}
		return w, nil
	})
}

type logger struct {
	log   *slog.Logger
	level slog.Level
	max   int
}

func (l *logger) Write(ctx context.Context, batch []sdk.Record) error {
	for i := range batch {
		r := &batch[i]
		payload := r.Payload
		if len(payload) > l.max {
			payload = payload[:l.max]
		}
		l.log.Log(ctx, l.level, "record", "id", strings.Clone(r.ID), "key", string(r.Key), "payload", strings.ToValidUTF8(string(payload), "\uFFFD"))
	}
	return nil
}

func (l *logger) Close() error { return nil }
