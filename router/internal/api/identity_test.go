package api_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router/internal/api"
)

// certificates are those of a cluster.
type certificates struct {
	t  *testing.T
	ca *certs.Authority
}

func newCertificates(t *testing.T) *certificates {
	t.Helper()
	ca, err := certs.NewAuthority(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return &certificates{t, ca}
}

func (c *certificates) store(role certs.Role, name string) *certs.Store {
	c.t.Helper()
	files, err := c.ca.Issue(certs.Identity{Role: role, Name: name}, []string{"127.0.0.1"}, time.Hour, filepath.Join(c.t.TempDir(), "part"))
	if err != nil {
		c.t.Fatal(err)
	}
	store, err := certs.Load(files, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return store
}

// accepting answers whatever reaches it.
type accepting struct {
	controlv1.UnimplementedRaftServiceServer
	controlv1.UnimplementedRouterServiceServer
	controlv1.UnimplementedSidecarCoordinatorServer
}

func (accepting) AppendEntries(stream grpc.BidiStreamingServer[controlv1.AppendEntriesRequest, controlv1.AppendEntriesResponse]) error {
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.Send(&controlv1.AppendEntriesResponse{}); err != nil {
			return err
		}
	}
}

func (accepting) RequestVote(context.Context, *controlv1.RequestVoteRequest) (*controlv1.RequestVoteResponse, error) {
	return &controlv1.RequestVoteResponse{}, nil
}

func (accepting) RequestPreVote(context.Context, *controlv1.RequestPreVoteRequest) (*controlv1.RequestPreVoteResponse, error) {
	return &controlv1.RequestPreVoteResponse{}, nil
}

func (accepting) TimeoutNow(context.Context, *controlv1.TimeoutNowRequest) (*controlv1.TimeoutNowResponse, error) {
	return &controlv1.TimeoutNowResponse{}, nil
}

func (accepting) InstallSnapshot(stream grpc.ClientStreamingServer[controlv1.InstallSnapshotRequest, controlv1.InstallSnapshotResponse]) error {
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return stream.SendAndClose(&controlv1.InstallSnapshotResponse{})
		} else if err != nil {
			return err
		}
	}
}

func (accepting) Announce(context.Context, *controlv1.AnnounceRequest) (*controlv1.AnnounceResponse, error) {
	return &controlv1.AnnounceResponse{}, nil
}

func (accepting) Register(context.Context, *controlv1.RegisterRequest) (*controlv1.RegisterResponse, error) {
	return &controlv1.RegisterResponse{}, nil
}

func (accepting) Heartbeat(context.Context, *controlv1.HeartbeatRequest) (*controlv1.HeartbeatResponse, error) {
	return &controlv1.HeartbeatResponse{}, nil
}

// Replays waits for something else than what it receives, as one that is passed on to the leader does.
func (accepting) Replays(stream grpc.BidiStreamingServer[controlv1.ReplaysRequest, controlv1.ReplaysResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&controlv1.ReplaysResponse{}); err != nil {
		return err
	}
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	}()
	<-stream.Context().Done()
	return status.FromContextError(stream.Context().Err()).Err()
}

// guarded runs a server behind the rules and the check of senders.
func guarded(t *testing.T, creds credentials.TransportCredentials) string {
	t.Helper()
	rules := api.Rules
	srv := rpc.NewServer(rpc.ServerConfig{
		TLS: creds, Unary: []grpc.UnaryServerInterceptor{rules.Unary, api.IdentityUnary}, Stream: []grpc.StreamServerInterceptor{rules.Stream, api.IdentityStream},
	})
	controlv1.RegisterRaftServiceServer(srv, accepting{})
	controlv1.RegisterRouterServiceServer(srv, accepting{})
	controlv1.RegisterSidecarCoordinatorServer(srv, accepting{})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Server.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String()
}

func dial(t *testing.T, addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func sender(id string) *controlv1.RaftTarget { return &controlv1.RaftTarget{SenderId: []byte(id)} }

func session(id string) *controlv1.Session { return &controlv1.Session{SidecarId: id, Epoch: 1} }

// speak calls every method that names its sender, under a name, and returns the errors by method.
func speak(ctx context.Context, conn *grpc.ClientConn, id string) map[string]error {
	raft, out := controlv1.NewRaftServiceClient(conn), map[string]error{}
	_, out["RequestVote"] = raft.RequestVote(ctx, &controlv1.RequestVoteRequest{Target: sender(id)})
	_, out["RequestPreVote"] = raft.RequestPreVote(ctx, &controlv1.RequestPreVoteRequest{Target: sender(id)})
	_, out["TimeoutNow"] = raft.TimeoutNow(ctx, &controlv1.TimeoutNowRequest{Target: sender(id)})
	_, out["Announce"] = controlv1.NewRouterServiceClient(conn).Announce(ctx, &controlv1.AnnounceRequest{ServerId: id})
	out["AppendEntries"] = exchange(raft.AppendEntries(ctx))(&controlv1.AppendEntriesRequest{Target: sender(id)})
	snapshot, err := raft.InstallSnapshot(ctx)
	if err == nil {
		_ = snapshot.Send(&controlv1.InstallSnapshotRequest{Head: &controlv1.SnapshotHead{Target: sender(id)}}) // CloseAndRecv has the error
		_ = snapshot.Send(&controlv1.InstallSnapshotRequest{Chunk: []byte("x")})
		_, err = snapshot.CloseAndRecv()
	}
	out["InstallSnapshot"] = err
	return out
}

// exchange sends messages over a stream, each after the answer to the one before, and returns the first error.
func exchange[Req, Resp any](stream grpc.BidiStreamingClient[Req, Resp], err error) func(...*Req) error {
	return func(messages ...*Req) error {
		for _, m := range messages {
			if err == nil {
				err = stream.Send(m)
			}
			if err == nil || errors.Is(err, io.EOF) {
				_, err = stream.Recv()
			}
		}
		return err
	}
}

func refusedFor(err error, words ...string) bool {
	st := status.Convert(err)
	for _, w := range words {
		if !strings.Contains(st.Message(), w) {
			return false
		}
	}
	return st.Code() == codes.PermissionDenied && len(st.Details()) == 1
}

func TestIdentity_ARouterSpeaksForItselfOnly(t *testing.T) {
	c := newCertificates(t)
	addr := guarded(t, c.store(certs.RoleRouter, "1").ServerCredentials())
	conn := dial(t, addr, c.store(certs.RoleRouter, "2").ClientCredentials(certs.RoleRouter))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for method, err := range speak(ctx, conn, "2-0abc") {
		if err != nil {
			t.Errorf("%s as itself: %v", method, err)
		}
	}
	for _, id := range []string{"3-0abc", "22-0abc", "", "any-0abc", "-2", " 2-0abc"} {
		for method, err := range speak(ctx, conn, id) {
			if !refusedFor(err, "the certificate is of router/2 and may not speak for router", id) {
				t.Errorf("%s as %q: %v", method, id, err)
			}
		}
	}
	stream := exchange(controlv1.NewRaftServiceClient(conn).AppendEntries(ctx))
	if err := stream(&controlv1.AppendEntriesRequest{Target: sender("2-0abc")}, &controlv1.AppendEntriesRequest{Target: sender("3-0abc")}); !refusedFor(err, "3-0abc") {
		t.Errorf("a later message as another: %v", err)
	}
	// A certificate for every router would let one vote as all.
	shared := dial(t, addr, c.store(certs.RoleRouter, certs.AnyName).ClientCredentials())
	for method, err := range speak(ctx, shared, "2-0abc") {
		if !refusedFor(err, "router/any") {
			t.Errorf("%s with a shared certificate: %v", method, err)
		}
	}
}

func TestIdentity_RaftIsNeverPassedOn(t *testing.T) {
	c := newCertificates(t)
	conn := dial(t, guarded(t, c.store(certs.RoleRouter, "1").ServerCredentials()), c.store(certs.RoleRouter, "2").ClientCredentials())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for method, err := range speak(metadata.AppendToOutgoingContext(ctx, "conveyor-caller", "router/3"), conn, "3-0abc") {
		if method == "Announce" {
			// Any router may be asked for the leader.
			if err != nil {
				t.Errorf("%s passed on: %v", method, err)
			}
			continue
		}
		if !refusedFor(err, "router/2 passes on what router/3 says") {
			t.Errorf("%s passed on: %v", method, err)
		}
	}
}

func TestIdentity_ASidecarSpeaksForItselfOnly(t *testing.T) {
	c := newCertificates(t)
	addr := guarded(t, c.store(certs.RoleRouter, "1").ServerCredentials())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, tc := range []struct {
		certificate, id string
		may             bool
	}{{"a", "a", true}, {"a", "b", false}, {"a", "any", false}, {"a", "", false}, {certs.AnyName, "b", true}} {
		conn := dial(t, addr, c.store(certs.RoleSidecar, tc.certificate).ClientCredentials(certs.RoleRouter))
		coordinator := controlv1.NewSidecarCoordinatorClient(conn)
		_, register := coordinator.Register(ctx, &controlv1.RegisterRequest{SidecarId: tc.id})
		_, heartbeat := coordinator.Heartbeat(ctx, &controlv1.HeartbeatRequest{Session: session(tc.id)})
		replays := exchange(coordinator.Replays(ctx))(&controlv1.ReplaysRequest{Session: session(tc.id)})
		for method, err := range map[string]error{"Register": register, "Heartbeat": heartbeat, "Replays": replays} {
			if tc.may && err != nil || !tc.may && !refusedFor(err, "the certificate is of sidecar/a and may not speak for sidecar") {
				t.Errorf("%s of %s as %q: %v", method, tc.certificate, tc.id, err)
			}
		}
	}
	// A stream ends also when its handler waits for something else.
	own := controlv1.NewSidecarCoordinatorClient(dial(t, addr, c.store(certs.RoleSidecar, "a").ClientCredentials()))
	stream := exchange(own.Replays(ctx))
	if err := stream(&controlv1.ReplaysRequest{Session: session("a")}, &controlv1.ReplaysRequest{Session: session("b")}); !refusedFor(err, `"b"`) {
		t.Errorf("a later message as another: %v", err)
	}
}

func TestIdentity_LoopbackWithoutCertificatesIsBelieved(t *testing.T) {
	conn := dial(t, guarded(t, nil), insecure.NewCredentials())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for method, err := range speak(ctx, conn, "3-0abc") {
		if err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	if _, err := controlv1.NewSidecarCoordinatorClient(conn).Register(ctx, &controlv1.RegisterRequest{SidecarId: "b"}); err != nil {
		t.Error(err)
	}
}
