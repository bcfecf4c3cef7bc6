package embed

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// natsLogger passes the server's log on. The server's own logger ends the process on a fatal message; this one marks the server failed.
type natsLogger struct {
	log    *slog.Logger
	failed chan struct{}

	mu    sync.Mutex
	cause error
}

func newNATSLogger(log *slog.Logger) *natsLogger {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &natsLogger{log: log, failed: make(chan struct{})}
}

// fail records the first cause and closes failed.
func (l *natsLogger) fail(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.cause = fmt.Errorf("embedded NATS server failed: %w", cause)
		close(l.failed)
	}
}

func (l *natsLogger) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// Noticef is what the server says about its life. Most of it concerns nobody who runs pipelines.
func (l *natsLogger) Noticef(format string, v ...any) {
	l.log.Debug("nats server", "message", fmt.Sprintf(format, v...))
}

// harmless begins warnings about what is so on purpose, or part of every start.
var harmless = []string{
	"Plaintext passwords detected", // they are made anew at each start, and never leave the process
	"failed to be ready for connections",
	"Waiting for routing to be established",
	"Metalayer blocking snapshot",
	"Catchup for stream",
	"TLS certificate chain and hostname of solicited routes will not be verified", // VerifyConnection does it, or checkTLS has refused the configuration
}

const handshake = "TLS route handshake error: "

// probes are the ends of handshakes with somebody who looks whether the port is open, or speaks another protocol. Who shows a certificate that is refused, or none, makes an error.
var probes = []string{"EOF", "tls: first record does not look like a TLS handshake", "connection reset by peer"}

// Warnf is for what the server can live with.
func (l *natsLogger) Warnf(format string, v ...any) {
	message := fmt.Sprintf(format, v...)
	for _, begin := range harmless {
		if strings.HasPrefix(message, begin) {
			l.log.Debug("nats server", "message", message)
			return
		}
	}
	l.log.Warn("nats server", "message", message)
}

// Errorf is for what the server could not do.
func (l *natsLogger) Errorf(format string, v ...any) {
	message := fmt.Sprintf(format, v...)
	level := slog.LevelError
	_, why, shaking := strings.Cut(message, handshake)
	switch {
	case strings.HasPrefix(message, "Error trying to connect to route"):
		level = slog.LevelWarn // another server that is not there yet, or not any more; it is tried for ever
	case shaking && slices.ContainsFunc(probes, func(end string) bool { return strings.HasSuffix(why, end) }):
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, "nats server", "message", message)
}

// Fatalf is for what the server cannot live with.
func (l *natsLogger) Fatalf(format string, v ...any) {
	message := fmt.Sprintf(format, v...)
	if strings.HasPrefix(message, noListener) {
		return // as it should be, see noPort
	}
	l.log.Error("nats server failed", "message", message)
	l.fail(fmt.Errorf("%s", message))
}

// Debugf is for the server's developers.
func (l *natsLogger) Debugf(format string, v ...any) {}

// Tracef is for the server's developers.
func (l *natsLogger) Tracef(format string, v ...any) {}
