package rpc_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/internal/logging/logtest"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type message = wrapperspb.BytesValue

// handlers is the service under test: one unary method and one stream.
type handlers struct {
	call   func(context.Context, *message) (*message, error)
	stream func(grpc.ServerStream) error
}

func (h *handlers) register(s *grpc.Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Service", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Call",
			Handler: func(_ any, ctx context.Context, dec func(any) error, mw grpc.UnaryServerInterceptor) (any, error) {
				in := new(message)
				if err := dec(in); err != nil {
					return nil, err
				}
				info := &grpc.UnaryServerInfo{FullMethod: "/test.Service/Call"}
				return mw(ctx, in, info, func(ctx context.Context, req any) (any, error) { return h.call(ctx, req.(*message)) })
			},
		}},
		Streams: []grpc.StreamDesc{{
			StreamName: "Stream", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error { return h.stream(s) },
		}},
	}, h)
}

// running is a server that stops with the test.
type running struct {
	*rpc.Server
	addr   string
	stop   context.CancelFunc // begins the drain
	served chan error
}

func start(t *testing.T, h *handlers, cfg rpc.ServerConfig, drain time.Duration) *running {
	t.Helper()
	lis, err := rpc.Listen(t.Context(), "127.0.0.1", 0, false, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Server: rpc.NewServer(cfg), addr: lis.Addr().String(), stop: cancel, served: make(chan error, 1)}
	h.register(r.Server.Server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.served <- r.Serve(ctx, lis, drain)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

func dial(t *testing.T, target string, cfg rpc.DialConfig) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(target, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func call(ctx context.Context, conn *grpc.ClientConn, size int, opts ...grpc.CallOption) (*message, error) {
	out := new(message)
	err := conn.Invoke(ctx, "/test.Service/Call", &message{Value: make([]byte, size)}, out, opts...)
	return out, err
}

func open(ctx context.Context, t *testing.T, conn *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Service/Stream")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func echo(_ context.Context, in *message) (*message, error) { return in, nil }

func TestServer_LimitsMessagesAndHeaders(t *testing.T) {
	s := start(t, &handlers{call: echo}, rpc.ServerConfig{}, time.Minute)
	small := start(t, &handlers{call: echo}, rpc.ServerConfig{MaxMessageBytes: 1000}, time.Minute)
	pool := &countingPool{BufferPool: mem.DefaultBufferPool()}
	conn := dial(t, s.addr, rpc.DialConfig{BufferPool: pool})

	if out, err := call(t.Context(), conn, 4<<20); err != nil || len(out.Value) != 4<<20 {
		t.Errorf("largest record: %d bytes, %v", len(out.GetValue()), err)
	}
	if pool.count() == 0 {
		t.Error("the given buffer pool was not used")
	}
	if _, err := call(t.Context(), conn, 5<<20); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("5 MiB: %v, want ResourceExhausted", err)
	}
	if _, err := call(t.Context(), dial(t, small.addr, rpc.DialConfig{}), 2000); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("2000 bytes at a limit of 1000: %v, want ResourceExhausted", err)
	}
	if _, err := call(t.Context(), dial(t, s.addr, rpc.DialConfig{MaxMessageBytes: 1000}), 2000); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("answer of 2000 bytes at a client's limit of 1000: %v, want ResourceExhausted", err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("a", 20<<10))
	if _, err := call(ctx, conn, 1); err == nil {
		t.Error("20 KiB of headers were accepted")
	}
	if _, err := call(t.Context(), conn, 1); err != nil {
		t.Errorf("after the refusals: %v", err)
	}
}

type countingPool struct {
	mem.BufferPool
	mu sync.Mutex
	n  int
}

func (p *countingPool) Get(size int) *[]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	return p.BufferPool.Get(size)
}

func (p *countingPool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

func TestServer_LimitsStreamsPerConnection(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	s := start(t, &handlers{stream: func(s grpc.ServerStream) error {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		defer func() { mu.Lock(); now--; mu.Unlock() }()
		if err := s.SendMsg(&message{}); err != nil {
			return err
		}
		<-s.Context().Done()
		return nil
	}}, rpc.ServerConfig{}, time.Minute)
	conn := dial(t, s.addr, rpc.DialConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const extra = 32
	firstCtx, cancelFirst := context.WithCancel(ctx)
	defer cancelFirst()
	for i := range rpc.MaxConcurrentStreams {
		c := ctx
		if i < extra {
			c = firstCtx
		}
		if err := open(c, t, conn).RecvMsg(new(message)); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for range extra {
		wg.Go(func() { // waits for a place
			s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Service/Stream")
			if err == nil {
				err = s.RecvMsg(new(message))
			}
			if err != nil {
				t.Errorf("a stream that waited: %v", err)
			}
		})
	}
	cancelFirst()
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if most > rpc.MaxConcurrentStreams {
		t.Errorf("%d streams at a time", most)
	}
}

func TestServer_SurvivesPanics(t *testing.T) {
	var log logtest.Buffer
	s := start(t, &handlers{
		call:   func(context.Context, *message) (*message, error) { panic("secret cause") },
		stream: func(grpc.ServerStream) error { panic(errors.New("secret cause")) },
	}, rpc.ServerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}, time.Minute)
	conn := dial(t, s.addr, rpc.DialConfig{})
	_, unary := call(t.Context(), conn, 1)
	stream := open(t.Context(), t, conn).RecvMsg(new(message))
	for kind, err := range map[string]error{"unary": unary, "stream": stream} {
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want an internal error that tells nothing", kind, err)
		}
	}
	for _, want := range []string{"method=/test.Service/Call", "method=/test.Service/Stream", "secret cause", "server_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, log.String())
		}
	}
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("after the panics: %v", err)
	}
}

func TestServer_DrainLetsCallsFinish(t *testing.T) {
	started, finish := make(chan struct{}), make(chan struct{})
	s := start(t, &handlers{call: func(_ context.Context, in *message) (*message, error) {
		close(started)
		<-finish
		return in, nil
	}}, rpc.ServerConfig{}, time.Hour)
	conn := dial(t, s.addr, rpc.DialConfig{})
	watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wantHealth := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if got, err := watch.Recv(); err != nil || got.Status != want {
			t.Fatalf("health = %v, %v; want %v", got.GetStatus(), err, want)
		}
	}
	wantHealth(healthpb.HealthCheckResponse_SERVING)
	result := make(chan error, 1)
	go func() { _, err := call(t.Context(), conn, 1); result <- err }()
	<-started
	s.stop()
	wantHealth(healthpb.HealthCheckResponse_NOT_SERVING)
	close(finish)
	if err := <-result; err != nil {
		t.Errorf("the call in progress: %v", err)
	}
}

func TestServer_DrainIsBounded(t *testing.T) {
	cancelled, cleaned := make(chan struct{}), make(chan struct{})
	s := start(t, &handlers{stream: func(s grpc.ServerStream) error {
		if err := s.SendMsg(&message{}); err != nil {
			return err
		}
		<-s.Context().Done()
		close(cancelled)
		<-cleaned
		return s.Context().Err()
	}}, rpc.ServerConfig{}, 10*time.Millisecond)
	stream := open(t.Context(), t, dial(t, s.addr, rpc.DialConfig{}))
	if err := stream.RecvMsg(new(message)); err != nil {
		t.Fatal(err)
	}
	s.stop()
	<-cancelled
	select {
	case err := <-s.served:
		t.Errorf("Serve returned before its handler: %v", err)
		close(cleaned)
	case <-time.After(50 * time.Millisecond): // can only miss a fault, not invent one
		close(cleaned)
		if err := <-s.served; err != nil {
			t.Errorf("Serve = %v", err)
		}
	}
	if err := stream.RecvMsg(new(message)); status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestListen_SaysWhichPortIsTakenAndWhatToDo(t *testing.T) {
	lis, err := rpc.Listen(t.Context(), "127.0.0.1", 0, false, "")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	_, err = rpc.Listen(t.Context(), "127.0.0.1", lis.Addr().(*net.TCPAddr).Port, false, "GRPC_PORT")
	if err == nil || !strings.Contains(err.Error(), lis.Addr().String()) || !strings.Contains(err.Error(), "GRPC_PORT") {
		t.Errorf("Listen = %v", err)
	}
	var refused *rpc.PlaintextError
	if _, err := rpc.Listen(t.Context(), "", 0, false, ""); !errors.As(err, &refused) {
		t.Errorf("Listen on all addresses without TLS = %v", err)
	}
}

func TestDial_RefusesPlaintextToOtherMachines(t *testing.T) {
	var refused *rpc.PlaintextError
	if _, err := rpc.Dial("router:50051", rpc.DialConfig{}); !errors.As(err, &refused) {
		t.Errorf("Dial = %v, want a refusal", err)
	}
}

// A name says nothing about where it leads: the address is checked when it is known, and before
// anything is sent to it.
func TestDial_ChecksTheResolvedAddress(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		if c, err := lis.Accept(); err == nil {
			_ = c.Close()
			t.Error("a connection was made")
		}
	}()
	_, port, _ := net.SplitHostPort(lis.Addr().String())
	conn := dial(t, net.JoinHostPort("localhost", port), rpc.DialConfig{Plaintext: func(addr netip.Addr) error {
		return &rpc.PlaintextError{Action: "connect to", Target: addr.String()}
	}})
	_, err = call(t.Context(), conn, 1)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "without certificates") {
		t.Errorf("call = %v, want a refusal", err)
	}
	_ = conn.Close()
	_ = lis.Close()
	<-accepted
}

func TestDial_ReachesUnixSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	lis, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(rpc.ServerConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, lis, time.Minute) }()
	for _, target := range []string{"unix:" + path, "unix://" + path} {
		if _, err := healthpb.NewHealthClient(dial(t, target, rpc.DialConfig{})).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

func TestServe_ReportsALostListener(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = lis.Close()
	if err := rpc.NewServer(rpc.ServerConfig{}).Serve(t.Context(), lis, time.Minute); err == nil {
		t.Error("Serve = nil")
	}
}
