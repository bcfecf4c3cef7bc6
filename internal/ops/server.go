// Package ops serves the operators' side port of a process: /metrics, /healthz, /readyz, and profiles
// on loopback.
package ops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// stopTimeout is how long requests in progress may go on after Run was asked to end.
const stopTimeout = 2 * time.Second

// Config says where the side port listens.
type Config struct {
	Host string // empty means all addresses
	Port int    // 0 lets the system choose
	// Setting is the name of the setting to change when the port is taken, for the error.
	Setting string
	// Logger receives failures of the server; nil discards them.
	Logger *slog.Logger
}

// A Server is the side port. /healthz answers 200 for as long as the process can answer at all.
type Server struct {
	cfg      Config
	registry *prometheus.Registry
	ready    *readiness

	mu  sync.Mutex
	lis net.Listener
}

// New returns a server that does not listen yet. It adds the collectors of the Go runtime and of the
// process to the registry, unless they are there already.
func New(cfg Config, registry *prometheus.Registry, checks Checks) (*Server, error) {
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		err := registry.Register(c)
		if already := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &already) {
			return nil, fmt.Errorf("register runtime metrics: %w", err)
		}
	}
	return &Server{cfg: cfg, registry: registry, ready: newReadiness(checks)}, nil
}

// Listen opens the port, so that a conflict shows before anything else starts. Run does it if it was
// not called. A listener that Run never takes over is closed with Close.
func (s *Server) Listen(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lis != nil {
		return nil
	}
	addr := net.JoinHostPort(s.cfg.Host, strconv.Itoa(s.cfg.Port))
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		setting := s.cfg.Setting
		if setting == "" {
			setting = "the ops port setting"
		}
		return fmt.Errorf("listen on %s: the port is taken by another program; stop it or choose another port with %s: %w", addr, setting, err)
	case err != nil:
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	s.lis = lis
	return nil
}

// Addr returns the address after Listen, else nil.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lis == nil {
		return nil
	}
	return s.lis.Addr()
}

// Close closes the port. It is idempotent; a Run under way returns an error.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lis == nil {
		return nil
	}
	if err := s.lis.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close %s: %w", s.lis.Addr(), err)
	}
	return nil
}

// Run serves until ctx ends, then lets requests in progress finish for a moment and returns nil.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(ctx); err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	if s.cfg.Logger != nil {
		srv.ErrorLog = slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelWarn)
	} else {
		srv.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelWarn)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(s.lis) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", s.lis.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		_ = srv.Close() // a profile that is still being taken
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", s.lis.Addr(), err)
	}
	return nil
}

// Handler returns the pages, for those who serve them elsewhere. Profiles are part of it only when
// the configured or actual address is loopback.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{Registry: s.registry, MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { reply(w, report{Status: "ok"}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { reply(w, s.ready.report(r.Context())) })
	if s.isLoopback() {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func (s *Server) isLoopback() bool {
	if addr := s.Addr(); addr != nil {
		ap, err := netip.ParseAddrPort(addr.String())
		return err == nil && ap.Addr().Unmap().IsLoopback()
	}
	a, err := netip.ParseAddr(s.cfg.Host)
	return s.cfg.Host == "localhost" || err == nil && a.Unmap().IsLoopback()
}
