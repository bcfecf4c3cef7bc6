package discovery_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink describes itself as it is told.
type sink struct {
	conveyorv1.UnimplementedSinkServiceServer
	abilities []*conveyorv1.Ability
	wait      <-chan struct{}
}

func (s *sink) Describe(ctx context.Context, _ *conveyorv1.SinkServiceDescribeRequest) (*conveyorv1.SinkServiceDescribeResponse, error) {
	if s.wait != nil {
		select {
		case <-s.wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &conveyorv1.SinkServiceDescribeResponse{Abilities: s.abilities}, nil
}

func ability(kind conveyorv1.ServiceKind, typ, version string) *conveyorv1.Ability {
	return &conveyorv1.Ability{Kind: kind, Type: typ, Version: version}
}

func sinkOf(version string) *sink {
	return &sink{abilities: []*conveyorv1.Ability{ability(conveyorv1.ServiceKind_SERVICE_KIND_SINK, "", version)}}
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

// serve runs a gRPC server on the listeners until stop, or the test's end.
func serve(t *testing.T, register func(*grpc.Server), on ...net.Listener) (stop func()) {
	t.Helper()
	server := grpc.NewServer()
	register(server)
	var wg sync.WaitGroup
	for _, lis := range on {
		wg.Go(func() { _ = server.Serve(lis) })
	}
	stop = sync.OnceFunc(func() {
		server.Stop()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func withSink(s *sink) func(*grpc.Server) {
	return func(g *grpc.Server) { conveyorv1.RegisterSinkServiceServer(g, s) }
}

func port(lis net.Listener) int { return lis.Addr().(*net.TCPAddr).Port }

// scan runs a scanner and returns a function that waits until what it finds is as asked for.
func scan(t *testing.T, cfg discovery.Config) (until func(what string, is func([]*controlv1.Endpoint) bool) []*controlv1.Endpoint) {
	t.Helper()
	if cfg.Interval == 0 {
		cfg.Interval = 20 * time.Millisecond
	}
	emitted := make(chan []*controlv1.Endpoint, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { discovery.New(cfg).Run(ctx, func(e []*controlv1.Endpoint) { emitted <- e }) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func(what string, is func([]*controlv1.Endpoint) bool) []*controlv1.Endpoint {
		t.Helper()
		late := time.After(30 * time.Second)
		var last []*controlv1.Endpoint
		for {
			select {
			case last = <-emitted:
				if is(last) {
					return last
				}
			case <-late:
				t.Fatalf("waited in vain for this: %s; last: %v", what, last)
			}
		}
	}
}

func count(n int) func([]*controlv1.Endpoint) bool {
	return func(e []*controlv1.Endpoint) bool { return len(e) == n }
}

func version(v string) func([]*controlv1.Endpoint) bool {
	return func(e []*controlv1.Endpoint) bool { return len(e) == 1 && e[0].GetAbilities()[0].GetVersion() == v }
}

func TestScanner_SeesServicesComeChangeAndGo(t *testing.T) {
	lis := listen(t, "127.0.0.1:0")
	address, p := lis.Addr().String(), port(lis)
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	until := scan(t, discovery.Config{Ports: []int{p}})
	until("nothing, at first", count(0))
	stop := serve(t, withSink(sinkOf("1")), listen(t, address))
	got := until("the service", version("1"))
	if got[0].GetAddress() != address || int(got[0].GetPort()) != p {
		t.Errorf("found at %v", got[0])
	}
	stop()
	stop = serve(t, withSink(sinkOf("2")), listen(t, address))
	until("its next version", version("2"))
	stop()
	until("its end", count(0))
	serve(t, withSink(sinkOf("3")), listen(t, address))
	until("its return", version("3"))
}

func TestScanner_NoticesARestartBetweenTwoLooks(t *testing.T) {
	lis := listen(t, "127.0.0.1:0")
	address := lis.Addr().String()
	stop := serve(t, withSink(sinkOf("1")), lis)
	// By the interval alone the restart would be noticed after the test's patience.
	until := scan(t, discovery.Config{Ports: []int{port(lis)}, Interval: 2 * time.Second})
	until("the service", version("1"))
	stop()
	serve(t, withSink(sinkOf("2")), listen(t, address))
	until("the new version", version("2"))
}

func TestScanner_GathersEverythingThatAnAddressOffers(t *testing.T) {
	source := ability(conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, "file", "1")
	out := ability(conveyorv1.ServiceKind_SERVICE_KIND_SINK, "file", "1")
	lis := listen(t, "127.0.0.1:0")
	serve(t, func(g *grpc.Server) {
		// Each may tell of all.
		conveyorv1.RegisterSinkServiceServer(g, &sink{abilities: []*conveyorv1.Ability{source, out}})
		conveyorv1.RegisterSourceServiceServer(g, &sourceToo{abilities: []*conveyorv1.Ability{source}})
	}, lis)
	got := scan(t, discovery.Config{Ports: []int{port(lis)}})("the service", count(1))
	if n := len(got[0].GetAbilities()); n != 2 {
		t.Errorf("%d abilities: %v", n, got[0].GetAbilities())
	}
}

type sourceToo struct {
	conveyorv1.UnimplementedSourceServiceServer
	abilities []*conveyorv1.Ability
}

func (s *sourceToo) Describe(context.Context, *conveyorv1.SourceServiceDescribeRequest) (*conveyorv1.SourceServiceDescribeResponse, error) {
	return &conveyorv1.SourceServiceDescribeResponse{Abilities: s.abilities}, nil
}

func TestScanner_FindsTheServiceAmongHostilePorts(t *testing.T) {
	var ports []int
	// talk makes a listener that does something to everybody who connects.
	talk := func(do func(net.Conn)) {
		lis := listen(t, "127.0.0.1:0")
		ports = append(ports, port(lis))
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		wg.Go(func() {
			for {
				conn, err := lis.Accept()
				if err != nil {
					return
				}
				end := context.AfterFunc(ctx, func() { conn.Close() })
				wg.Go(func() { do(conn); conn.Close(); end() })
			}
		})
		t.Cleanup(func() { cancel(); lis.Close(); wg.Wait() })
	}
	talk(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) // never answers
	talk(func(c net.Conn) {
		for { // never stops
			if _, err := c.Write([]byte(strings.Repeat("rubbish\xff\x00", 1000))); err != nil {
				return
			}
		}
	})
	talk(func(net.Conn) {}) // hangs up
	talk(func(c net.Conn) { _ = tls.Server(c, &tls.Config{}).HandshakeContext(context.Background()) })
	web := listen(t, "127.0.0.1:0")
	ports = append(ports, port(web))
	site := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	var wg sync.WaitGroup
	wg.Go(func() { _ = site.Serve(web) })
	t.Cleanup(func() { site.Close(); wg.Wait() })

	grpcServers := map[string]func(*grpc.Server){
		"one of Conveyor's own parts": func(g *grpc.Server) {
			controlv1.RegisterSidecarCoordinatorServer(g, controlv1.UnimplementedSidecarCoordinatorServer{})
			healthpb.RegisterHealthServer(g, health.NewServer())
		},
		"an endless description": withSink(&sink{abilities: []*conveyorv1.Ability{{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SINK, ConfigSchema: make([]byte, 2<<20)}}}),
		"never a description":    withSink(&sink{wait: make(chan struct{})}),
		"an unknown kind":        withSink(&sink{abilities: []*conveyorv1.Ability{{Kind: 77}}}),
		"a type not to print":    withSink(&sink{abilities: []*conveyorv1.Ability{{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SINK, Type: "a\x1b[2J"}}}),
		"nothing on offer":       withSink(&sink{}),
	}
	for _, register := range grpcServers {
		lis := listen(t, "127.0.0.1:0")
		ports = append(ports, port(lis))
		serve(t, register, lis)
	}
	good := listen(t, "127.0.0.1:0")
	many := &sink{}
	for i := range 1000 {
		many.abilities = append(many.abilities, ability(conveyorv1.ServiceKind_SERVICE_KIND_SINK, fmt.Sprint(i), "1"))
	}
	serve(t, withSink(many), good)
	until := scan(t, discovery.Config{Ports: append(ports, port(good))})
	got := until("the service", count(1))
	if int(got[0].GetPort()) != port(good) {
		t.Errorf("found %v", got)
	}
	if n := len(got[0].GetAbilities()); n != 64 {
		t.Errorf("%d abilities of one address", n)
	}
}

func TestScanner_KeepsAReportSmall(t *testing.T) {
	s := &sink{abilities: []*conveyorv1.Ability{
		{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SINK, Type: "a", ConfigSchema: make([]byte, 15<<10)},
		{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SINK, Type: "b", ConfigSchema: make([]byte, 17<<10)},
	}}
	var on []net.Listener
	var ports []int
	for range 14 {
		lis := listen(t, "127.0.0.1:0")
		on, ports = append(on, lis), append(ports, port(lis))
	}
	serve(t, withSink(s), on...)
	got := scan(t, discovery.Config{Ports: ports})("all services", count(14))
	schemas := 0
	for _, e := range got {
		for _, a := range e.GetAbilities() {
			if a.GetType() == "b" && len(a.GetConfigSchema()) > 0 {
				t.Error("a schema over the limit was kept")
			}
			schemas += len(a.GetConfigSchema())
		}
	}
	if schemas == 0 || schemas > 160<<10 {
		t.Errorf("%d bytes of schemas", schemas)
	}
}

func TestScanner_LeavesAServiceThatIsNotServing(t *testing.T) {
	lis := listen(t, "127.0.0.1:0")
	state := health.NewServer()
	register := func(g *grpc.Server) {
		withSink(sinkOf("1"))(g)
		healthpb.RegisterHealthServer(g, state)
	}
	state.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	serve(t, register, lis)
	until := scan(t, discovery.Config{Ports: []int{port(lis)}})
	until("nothing while it is not ready", count(0))
	state.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	until("the service", version("1"))
}

func TestScanner_SkipsItsOwnPortsAndTheRestBeyondItsLimit(t *testing.T) {
	own, far := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0") // above the ports that come first
	serve(t, withSink(sinkOf("1")), own, far)
	ports := []int{port(own), port(far)}
	for p := range discovery.MaxPorts {
		ports = append(ports, 1+p) // nothing listens there
	}
	until := scan(t, discovery.Config{Ports: ports, Skip: []int{port(own)}})
	if got := until("a first look", func([]*controlv1.Endpoint) bool { return true }); len(got) != 0 {
		t.Errorf("found %v", got)
	}
}

func TestScanner_FindsAServiceOnIPv6(t *testing.T) {
	lis, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("needs IPv6 on loopback: %v", err)
	}
	serve(t, withSink(sinkOf("1")), lis)
	got := scan(t, discovery.Config{Ports: []int{port(lis)}})("the service", count(1))
	if got[0].GetAddress() != lis.Addr().String() {
		t.Errorf("found at %s, want %s", got[0].GetAddress(), lis.Addr())
	}
}
