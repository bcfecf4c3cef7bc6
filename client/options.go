package client

import (
	"crypto/tls"
	"log/slog"
	"time"

	"google.golang.org/grpc/credentials"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
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
	creds      credentials.TransportCredentials // nil for plaintext
	serverName string                           // empty for the host that is dialled
	timeout    time.Duration
	retryFor   time.Duration
	logger     *slog.Logger
	agent      string
	stale      func(Staleness)
}

// WithTLS makes every connection use TLS with this configuration, which must hold the caller's certificate where routers ask for one.
// Without it a Client connects to loopback addresses only. The configuration is not changed and must not be changed afterwards.
// Its ServerName, if there is one, is who every router must be; otherwise that is the host that is dialled.
func WithTLS(config *tls.Config) Option {
	return func(o *options) { o.creds, o.serverName = credentials.NewTLS(config), config.ServerName }
}

// WithCredentials is WithTLS for credentials that may change while the Client is used, such as certificates that are renewed: every new connection asks them anew. They
// must encrypt.
func WithCredentials(creds credentials.TransportCredentials) Option {
	return func(o *options) { o.creds, o.serverName = creds, "" }
}

// WithTimeout bounds a call whose context has no deadline of its own; streams are not bounded. The default is DefaultTimeout.
func WithTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithRetryFor says how long a call is repeated while no router answers it. 0 asks every router once. The default is DefaultRetryFor.
func WithRetryFor(d time.Duration) Option { return func(o *options) { o.retryFor = d } }

// WithLogger logs what callers do not learn otherwise: that a watch broke off and goes on. The default discards.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// WithUserAgent names the calling program to the routers.
func WithUserAgent(name string) Option { return func(o *options) { o.agent = name } }

// Staleness says how old an answer may be that did not come from the leader.
type Staleness struct {
	// Server is the id of the router that answered.
	Server string
	// AppliedIndex is how far the state had come there.
	AppliedIndex uint64
	// Known is false while that router has not caught up with a leader since it started; Age means nothing then.
	Known bool
	// Age is how long ago everything that the leader had committed was applied there. What came since may be missing.
	Age time.Duration
}

// WithStaleReads lets Get, List, PipelineStatus, Sidecars and Cluster be answered by whichever router is reached, without a leader and so also without a majority.
// told is called with the age of every answer, concurrently when calls are. Everything else goes to the leader as before.
func WithStaleReads(told func(Staleness)) Option { return func(o *options) { o.stale = told } }

// staleReads is what requests ask for.
func (o *options) staleReads() bool { return o.stale != nil }

// tell reports the age of an answer.
func (o *options) tell(s *controlv1.Staleness) {
	if o.stale != nil && s != nil {
		o.stale(Staleness{Server: s.GetServerId(), AppliedIndex: s.GetAppliedIndex(), Known: s.GetKnown(), Age: time.Duration(s.GetAgeMillis()) * time.Millisecond})
	}
}

func (o *options) apply(opts []Option) {
	o.timeout, o.retryFor, o.logger, o.agent = DefaultTimeout, DefaultRetryFor, slog.New(slog.DiscardHandler), "conveyor-client"
	for _, opt := range opts {
		opt(o)
	}
}
