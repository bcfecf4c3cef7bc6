package raftstore

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// sink passes the library's log on. What it says about its normal life is for its developers.
type sink struct{ log *slog.Logger }

// expected are warnings that every start of a cluster of one brings.
var expected = map[string]bool{"heartbeat timeout reached, starting election": true}

// Accept implements hclog.SinkAdapter.
func (s sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	l := slog.LevelDebug
	switch {
	case level >= hclog.Error:
		l = slog.LevelError
	case level >= hclog.Warn && !expected[msg]:
		l = slog.LevelWarn
	}
	s.log.Log(context.Background(), l, "raft", append([]any{"message", msg}, args...)...)
}

func newHCLog(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Output: io.Discard, Level: hclog.Off})
	l.RegisterSink(sink{log: log})
	return l
}
