package client_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// router is a server that answers as a test says.
type router struct {
	controlv1.UnimplementedAdminServiceServer
	controlv1.UnimplementedDeadLetterServiceServer
	controlv1.UnimplementedSidecarCoordinatorServer

	calls   atomic.Int64
	list    func(call int64) (*controlv1.ListResourcesResponse, error)
	restart func(call int64) error
	watch   func(call int64, req *controlv1.WatchResourcesRequest, send func(*controlv1.WatchResourcesResponse) error) error
	letters func(call int64, req *controlv1.ListLettersRequest, send func(*controlv1.ListLettersResponse) error) error
	replay  func(call int64, send func(*controlv1.ReplayLettersResponse) error) error
}

func (r *router) ListResources(context.Context, *controlv1.ListResourcesRequest) (*controlv1.ListResourcesResponse, error) {
	return r.list(r.calls.Add(1))
}

func (r *router) RestartPipeline(context.Context, *controlv1.RestartPipelineRequest) (*controlv1.RestartPipelineResponse, error) {
	return &controlv1.RestartPipelineResponse{}, r.restart(r.calls.Add(1))
}

func (r *router) WatchResources(req *controlv1.WatchResourcesRequest, s grpc.ServerStreamingServer[controlv1.WatchResourcesResponse]) error {
	return r.watch(r.calls.Add(1), req, s.Send)
}

func (r *router) ListLetters(req *controlv1.ListLettersRequest, s grpc.ServerStreamingServer[controlv1.ListLettersResponse]) error {
	return r.letters(r.calls.Add(1), req, s.Send)
}

func (r *router) ReplayLetters(_ *controlv1.ReplayLettersRequest, s grpc.ServerStreamingServer[controlv1.ReplayLettersResponse]) error {
	return r.replay(r.calls.Add(1), s.Send)
}

// serve starts the router on the address, and returns the address.
func (r *router) serve(t *testing.T, address string, opts ...grpc.ServerOption) string {
	t.Helper()
	return serveAt(t, address, r, r, r, opts...)
}

// serveOn starts the router on a listener, which it closes, and returns its address.
func (r *router) serveOn(t *testing.T, lis net.Listener, opts ...grpc.ServerOption) string {
	t.Helper()
	return serveOn(t, lis, r, r, r, opts...)
}

// serveAdmin starts a server of the admin service alone.
func serveAdmin(t *testing.T, admin controlv1.AdminServiceServer) string {
	t.Helper()
	r := &router{}
	return serveAt(t, "127.0.0.1:0", admin, r, r)
}

func serveAt(
	t *testing.T, address string, admin controlv1.AdminServiceServer, letters controlv1.DeadLetterServiceServer, sidecars controlv1.SidecarCoordinatorServer, opts ...grpc.ServerOption,
) string {
	t.Helper()
	lis, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, lis, admin, letters, sidecars, opts...)
}

func serveOn(
	t *testing.T, lis net.Listener, admin controlv1.AdminServiceServer, letters controlv1.DeadLetterServiceServer, sidecars controlv1.SidecarCoordinatorServer, opts ...grpc.ServerOption,
) string {
	t.Helper()
	srv := grpc.NewServer(opts...)
	controlv1.RegisterAdminServiceServer(srv, admin)
	controlv1.RegisterDeadLetterServiceServer(srv, letters)
	controlv1.RegisterSidecarCoordinatorServer(srv, sidecars)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(lis) })
	t.Cleanup(func() { srv.Stop(); wg.Wait() })
	return lis.Addr().String()
}

// deadAddress is an address at which nothing listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

func dial(t *testing.T, targets []string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), targets, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

var errGone = status.Error(codes.Unavailable, "going away")

func okList(int64) (*controlv1.ListResourcesResponse, error) {
	return &controlv1.ListResourcesResponse{Revision: 7}, nil
}

func TestClient_AsksTheNextRouterWhenOneIsDown(t *testing.T) {
	r := &router{list: okList}
	c := dial(t, []string{deadAddress(t), r.serve(t, "127.0.0.1:0")})
	_, revision, err := c.List(t.Context(), "Pipeline", "")
	if err != nil || revision != 7 {
		t.Fatalf("List = revision %d, error %v; want 7", revision, err)
	}
}

func TestClient_WaitsForARouterThatStarts(t *testing.T) {
	address := deadAddress(t)
	c := dial(t, []string{address})
	got := make(chan error, 1)
	go func() {
		_, _, err := c.List(context.Background(), "Pipeline", "")
		got <- err
	}()
	(&router{list: okList}).serve(t, address)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

func TestClient_RepeatsUntilARouterLeads(t *testing.T) {
	r := &router{list: func(call int64) (*controlv1.ListResourcesResponse, error) {
		if call < 4 {
			return nil, refusal(codes.FailedPrecondition, client.ReasonNotLeader, "follows")
		}
		return okList(call)
	}}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
	if _, _, err := c.List(t.Context(), "Pipeline", ""); err != nil {
		t.Fatal(err)
	}
	if n := r.calls.Load(); n != 4 {
		t.Errorf("the router was asked %d times, want 4", n)
	}
}

func TestClient_AsksTheNextAtOnceWhenARouterCannotAnswer(t *testing.T) {
	for _, reason := range []client.Reason{client.ReasonRemoved, client.ReasonNothingKnown} {
		first := &router{list: func(int64) (*controlv1.ListResourcesResponse, error) {
			return nil, refusal(codes.Unavailable, reason, "not here")
		}}
		c := dial(t, []string{first.serve(t, "127.0.0.1:0"), (&router{list: okList}).serve(t, "127.0.0.1:0")})
		if _, _, err := c.List(t.Context(), "Pipeline", ""); err != nil {
			t.Errorf("%s: %v", reason, err)
		}
		if n := first.calls.Load(); n != 1 {
			t.Errorf("%s: the router was asked %d times, want 1", reason, n)
		}
	}
}

func TestClient_SaysWhoDidNotAnswerAndWhy(t *testing.T) {
	address := deadAddress(t)
	c := dial(t, []string{address}, client.WithRetryFor(0))
	_, _, err := c.List(t.Context(), "Pipeline", "")
	var e *client.UnreachableError
	if !errors.Is(err, client.ErrUnreachable) || !errors.As(err, &e) {
		t.Fatalf("error %v does not match ErrUnreachable", err)
	}
	if diff := cmp.Diff([]string{address}, e.Targets); diff != "" {
		t.Error(diff)
	}
	var op *net.OpError
	if !errors.As(err, &op) {
		t.Errorf("error %v does not hold the network's own error", err)
	}
}

func TestClient_DoesNotRepeatARefusal(t *testing.T) {
	r := &router{list: func(int64) (*controlv1.ListResourcesResponse, error) {
		return nil, refusal(codes.NotFound, client.ReasonNotFound, "no such thing")
	}}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
	if _, _, err := c.List(t.Context(), "Pipeline", ""); !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("error %v does not match ErrNotFound", err)
	}
	if n := r.calls.Load(); n != 1 {
		t.Errorf("the router was asked %d times, want once", n)
	}
}

func TestClient_DoesNotRepeatWhatARouterMayHaveDone(t *testing.T) {
	r := &router{restart: func(int64) error { return errGone }}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
	if err := c.RestartPipeline(t.Context(), "default", "p", true); !errors.Is(err, client.ErrUnreachable) {
		t.Fatalf("error %v does not match ErrUnreachable", err)
	}
	if n := r.calls.Load(); n != 1 {
		t.Errorf("the router was asked %d times, want once", n)
	}
}

func TestClient_BoundsACallWithoutDeadline(t *testing.T) {
	block := make(chan struct{})
	r := &router{list: func(int64) (*controlv1.ListResourcesResponse, error) { <-block; return nil, errGone }}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")}, client.WithTimeout(20*time.Millisecond))
	t.Cleanup(func() { close(block) })
	_, _, err := c.List(context.Background(), "Pipeline", "")
	if !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v; want one that matches ErrUnreachable and context.DeadlineExceeded", err)
	}
}

func TestClient_CloseEndsCalls(t *testing.T) {
	c := dial(t, []string{deadAddress(t)})
	got := make(chan error, 1)
	go func() {
		_, _, err := c.List(context.Background(), "Pipeline", "")
		got <- err
	}()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, client.ErrClosed) {
		t.Fatalf("error %v does not match ErrClosed", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestClient_CancelIsReturnedAsSuch(t *testing.T) {
	c := dial(t, []string{deadAddress(t)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.List(ctx, "Pipeline", ""); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v does not match context.Canceled", err)
	}
}

func TestLetters_GoOnBehindTheLastAfterABreak(t *testing.T) {
	letter := func(id uint64) *controlv1.ListLettersResponse {
		return &controlv1.ListLettersResponse{Letter: &controlv1.Letter{Id: id}}
	}
	r := &router{letters: func(call int64, req *controlv1.ListLettersRequest, send func(*controlv1.ListLettersResponse) error) error {
		for id := req.GetAfter() + 1; id <= 5; id++ {
			if call == 1 && id == 3 {
				return errGone
			}
			if err := send(letter(id)); err != nil {
				return err
			}
		}
		return nil
	}}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
	for _, tt := range []struct {
		limit uint32
		want  []uint64
	}{{0, []uint64{1, 2, 3, 4, 5}}, {4, []uint64{1, 2, 3, 4}}} {
		r.calls.Store(0)
		var got []uint64
		for l, err := range c.Letters(t.Context(), nil, tt.limit) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, l.GetId())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("limit %d: %s", tt.limit, diff)
		}
	}
}

func TestReplay_GoesOnWhereItsRouterIsLostBeforeTheFirstProgress(t *testing.T) {
	const short = time.Millisecond
	r := &router{replay: func(call int64, send func(*controlv1.ReplayLettersResponse) error) error {
		if call == 1 {
			<-time.After(10 * short) // to open the pipeline takes longer than callers wait for a router
			return errGone
		}
		return send(&controlv1.ReplayLettersResponse{Done: true})
	}}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")}, client.WithRetryFor(short))
	for _, err := range c.ReplayLetters(t.Context(), nil) {
		if err != nil {
			t.Error(err)
		}
	}
	if n := r.calls.Load(); n != 2 {
		t.Errorf("the replay was begun %d times", n)
	}
}

func TestReplay_IsNotBegunTwice(t *testing.T) {
	r := &router{replay: func(_ int64, send func(*controlv1.ReplayLettersResponse) error) error {
		return errors.Join(send(&controlv1.ReplayLettersResponse{Selected: 3, Settled: 1}), errGone)
	}}
	c := dial(t, []string{r.serve(t, "127.0.0.1:0")})
	var settled []uint64
	var last error
	for p, err := range c.ReplayLetters(t.Context(), nil) {
		if last = err; err == nil {
			settled = append(settled, p.GetSettled())
		}
	}
	if last == nil {
		t.Error("no error although the replay broke off")
	}
	if diff := cmp.Diff([]uint64{1}, settled); diff != "" {
		t.Error(diff)
	}
	if n := r.calls.Load(); n != 1 {
		t.Errorf("the replay was begun %d times", n)
	}
}

func TestDial_RefusesWhatItWouldHaveToSendInTheClear(t *testing.T) {
	for _, tt := range []struct {
		target string
		want   error
	}{
		{"localhost:50051", nil},
		{"127.0.0.9:1", nil},
		{"[::1]:50051", nil},
		{"a-name-that-nobody-has.invalid:50051", nil}, // judged when it is known
		{"192.0.2.1:50051", client.ErrInsecure},
		{"[2001:db8::1]:50051", client.ErrInsecure},
		{"localhost", client.ErrInvalid},
		{"localhost:0", client.ErrInvalid},
		{"localhost:http", client.ErrInvalid},
	} {
		c, err := client.Dial(t.Context(), []string{tt.target})
		if !errors.Is(err, tt.want) {
			t.Errorf("Dial(%q) = %v, want %v", tt.target, err, tt.want)
		}
		if c != nil {
			c.Close()
		}
	}
	if _, err := client.Dial(t.Context(), nil); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("Dial without targets = %v, want ErrInvalid", err)
	}
}

// follower is a router that passes what it is asked on, and says to whom.
type follower struct {
	router
	leader string
}

func (f *follower) ListResources(ctx context.Context, req *controlv1.ListResourcesRequest) (*controlv1.ListResourcesResponse, error) {
	if err := grpc.SetTrailer(ctx, metadata.Pairs("conveyor-leader", f.leader)); err != nil {
		return nil, err
	}
	return f.router.ListResources(ctx, req)
}

func TestClient_AsksTheLeaderOnceARouterHasSaidWhoItIs(t *testing.T) {
	list := func(int64) (*controlv1.ListResourcesResponse, error) { return &controlv1.ListResourcesResponse{}, nil }
	leader := &router{list: list}
	passing := &follower{router: router{list: list}, leader: serveAdmin(t, leader)}
	c := dial(t, []string{serveAdmin(t, passing), passing.leader})
	for range 3 {
		if _, _, err := c.List(t.Context(), "Source", ""); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := passing.calls.Load(), leader.calls.Load(); a != 1 || b != 2 {
		t.Errorf("the follower was asked %d times and the leader %d times", a, b)
	}
}
