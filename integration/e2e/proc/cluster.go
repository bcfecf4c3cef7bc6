package proc

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Router is a conveyor-router that keeps its place while its processes come and go.
type Router struct {
	*Process
	t        testing.TB
	dir      string
	port     int
	ops      int
	extraEnv []string
	binary   string // empty for that of this working tree
}

// NewRouter prepares a router and does not start it.
func NewRouter(t testing.TB, env ...string) *Router {
	t.Helper()
	return &Router{t: t, dir: filepath.Join(t.TempDir(), "router"), port: Port(t), ops: Port(t), extraEnv: env}
}

// KeepIn makes the router keep its data in another directory than one of the test's. It is called before Start.
func (r *Router) KeepIn(dir string) { r.dir = dir }

// Use makes the router run another binary from its next start on.
func (r *Router) Use(binary string) { r.binary = binary }

// Start starts a process at the place of the router. The one before has ended.
func (r *Router) Start() {
	r.t.Helper()
	binary := r.binary
	if binary == "" {
		binary = Binary(r.t, "conveyor-router")
	}
	r.Process = Start(r.t, Spec{Name: "conveyor-router", Path: binary, Env: append([]string{
		"GRPC_PORT=" + strconv.Itoa(r.port), "OPS_PORT=" + strconv.Itoa(r.ops), "DATA_DIR=" + r.dir,
	}, r.extraEnv...)})
}

// AwaitReady waits until it leads and answers.
func (r *Router) AwaitReady() {
	r.t.Helper()
	awaitReady(r.t, r.Ops())
}

// Addr is the address of its API.
func (r *Router) Addr() string { return Loopback(r.port) }

// Ops is the address of its side port.
func (r *Router) Ops() string { return Loopback(r.ops) }

// Routers are whom sidecars and commands are told to ask; *Router and Cluster are some.
type Routers interface {
	// Addr is host:port, or several with commas between.
	Addr() string
}

// Cluster is several routers.
type Cluster []*Router

// NewCluster prepares n routers that found a cluster together, and does not start them.
func NewCluster(t testing.TB, n int, env ...string) Cluster {
	t.Helper()
	var c Cluster
	for range n {
		c = append(c, NewRouter(t, env...))
	}
	for i, r := range c {
		r.extraEnv = append(r.extraEnv, "RAFT_NODE_ID="+strconv.Itoa(i+1), "RAFT_PEERS="+c.Addr(), "DLQ_PORT="+strconv.Itoa(Port(t)))
	}
	return c
}

// Addr is that of all routers.
func (c Cluster) Addr() string {
	var all []string
	for _, r := range c {
		all = append(all, r.Addr())
	}
	return strings.Join(all, ",")
}

// Start starts all of them, and returns when they are ready.
func (c Cluster) Start() {
	for _, r := range c {
		r.Start()
	}
	for _, r := range c {
		r.AwaitReady()
	}
}

// Sidecar is a conveyor-sidecar that keeps its place while its processes come and go.
type Sidecar struct {
	*Process
	t        testing.TB
	id       string
	dir      string
	router   string
	port     int
	ops      int
	services string
	extraEnv []string
	binary   string // empty for that of this working tree
}

// NewSidecar prepares a sidecar that looks for services on some ports, and does not start it.
func NewSidecar(t testing.TB, id string, r Routers, services []int, env ...string) *Sidecar {
	t.Helper()
	var list []string
	for _, p := range services {
		list = append(list, strconv.Itoa(p))
	}
	return &Sidecar{
		t: t, id: id, dir: filepath.Join(t.TempDir(), "sidecar"), router: r.Addr(), port: Port(t), ops: Port(t),
		services: strings.Join(list, ","), extraEnv: env,
	}
}

// Use makes the sidecar run another binary from its next start on.
func (s *Sidecar) Use(binary string) { s.binary = binary }

// Setenv gives the sidecar more settings from its next start on.
func (s *Sidecar) Setenv(settings ...string) { s.extraEnv = append(s.extraEnv, settings...) }

// Start starts a process at the place of the sidecar. The one before has ended.
func (s *Sidecar) Start() {
	s.t.Helper()
	binary := s.binary
	if binary == "" {
		binary = Binary(s.t, "conveyor-sidecar")
	}
	s.Process = Start(s.t, Spec{Name: "conveyor-sidecar " + s.id, Path: binary, Env: append([]string{
		"SIDECAR_ID=" + s.id, "CLUSTER_ENDPOINT=" + s.router, "GRPC_PORT=" + strconv.Itoa(s.port), "OPS_PORT=" + strconv.Itoa(s.ops),
		"DATA_DIR=" + s.dir, "DISCOVERY_PORTS=" + s.services,
	}, s.extraEnv...)})
}

// AwaitReady waits until it has registered and knows what to run.
func (s *Sidecar) AwaitReady() {
	s.t.Helper()
	awaitReady(s.t, s.Ops())
}

// Address is where other sidecars reach it.
func (s *Sidecar) Address() string { return Loopback(s.port) }

// Ops is the address of its side port.
func (s *Sidecar) Ops() string { return Loopback(s.ops) }

// Service is a program on a port: conveyor-connect, or a child of the test binary.
type Service struct {
	*Process
	t    testing.TB
	Port int
	// Dir is the working directory; empty for that of the test.
	Dir   string
	start func() *Process
}

// NewConnect prepares a conveyor-connect and does not start it.
func NewConnect(t testing.TB) *Service {
	t.Helper()
	s := &Service{t: t, Port: Port(t)}
	s.start = func() *Process {
		return Start(t, Spec{Name: "conveyor-connect", Path: Binary(t, "conveyor-connect"), Args: []string{"--listen", s.Addr()}, Dir: s.Dir})
	}
	return s
}

// NewService prepares a child of this test binary, which finds the address to listen on in SERVICE_LISTEN, and does not start it.
func NewService(t testing.TB, child string, env ...string) *Service {
	t.Helper()
	s := &Service{t: t, Port: Port(t)}
	s.start = func() *Process {
		return StartChild(t, child, append([]string{"SERVICE_LISTEN=" + s.Addr()}, env...)...)
	}
	return s
}

// Start starts a process at the place of the service. The one before has ended.
func (s *Service) Start() { s.Process = s.start() }

// AwaitReady waits until it listens.
func (s *Service) AwaitReady() {
	s.t.Helper()
	Until(s.t, func() string {
		var d net.Dialer
		conn, err := d.DialContext(s.t.Context(), "tcp", s.Addr())
		if err != nil {
			return err.Error()
		}
		_ = conn.Close() // nothing was written
		return ""
	})
}

// Addr is where it listens.
func (s *Service) Addr() string { return Loopback(s.Port) }

// Get asks a side port; the status is 0 when nobody answers.
func Get(ctx context.Context, address, path string) (status int, body string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(content)
}

// awaitReady waits until a side port says that its daemon is ready.
func awaitReady(t testing.TB, ops string) {
	t.Helper()
	Until(t, func() string {
		status, body := Get(t.Context(), ops, "/readyz")
		if status == http.StatusOK {
			return ""
		}
		return "the daemon at " + ops + " is not ready: " + strconv.Itoa(status) + " " + body
	})
}
