package client

import (
	"crypto/tls"
	"log/slog"
	"time"
)

// The defaults of a Client.
const (
	// DefaultTimeout bounds a call whose context has no deadline of its own.
	DefaultTimeout = 30 * time.Second
	// DefaultRetryFor is how long a call is repeated while no router answers it.
	DefaultRetryFor = 10 * time.Second
)

// Option changes how a Client works.
type Option func(*options)

type options struct {
	tls      *tls.Config
	timeout  time.Duration
	retryFor time.Duration
	logger   *slog.Logger
	agent    string
}

// WithTLS makes every connection use TLS with this configuration, which must hold the caller's certificate where routers ask for one.
// Without it a Client connects to loopback addresses only. The configuration is not changed and must not be changed afterwards.
func WithTLS(config *tls.Config) Option { return func(o *options) { o.tls = config } }

// WithTimeout bounds a call whose context has no deadline of its own; streams are not bounded. The default is DefaultTimeout.
func WithTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithRetryFor says how long a call is repeated while no router answers it. 0 asks every router once. The default is DefaultRetryFor.
func WithRetryFor(d time.Duration) Option { return func(o *options) { o.retryFor = d } }

// WithLogger logs what callers do not learn otherwise: that a watch broke off and goes on. The default discards.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// WithUserAgent names the calling program to the routers.
func WithUserAgent(name string) Option { return func(o *options) { o.agent = name } }

func (o *options) apply(opts []Option) {
	o.timeout, o.retryFor, o.logger, o.agent = DefaultTimeout, DefaultRetryFor, slog.New(slog.DiscardHandler), "conveyor-client"
	for _, opt := range opts {
		opt(o)
	}
}
