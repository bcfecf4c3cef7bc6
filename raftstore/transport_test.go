package raftstore_test

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
)

func refusesCallsForAnother(t *testing.T, s *raftstore.Store, id string) {
	t.Helper()
	target := &controlv1.RaftTarget{ClusterId: "c", TargetServerId: id, ProtocolVersion: 3}
	_, vote := s.RaftService().RequestVote(t.Context(), &controlv1.RequestVoteRequest{Target: target, Term: 1000})
	_, prevote := s.RaftService().RequestPreVote(t.Context(), &controlv1.RequestPreVoteRequest{Target: target, Term: 1000})
	_, now := s.RaftService().TimeoutNow(t.Context(), &controlv1.TimeoutNowRequest{Target: target})
	for call, err := range map[string]error{"vote": vote, "prevote": prevote, "timeout": now} {
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s for server %s at server %s: %v", call, id, s.ServerID(), err)
		}
	}
}

func TestRaftService_RefusesCallsOfAnotherCluster(t *testing.T) {
	s := open(t, t.TempDir(), &journal{})
	refusesCallsForAnother(t, s, s.ServerID()) // of the cluster "c"
	refusesCallsForAnother(t, s, "1-other")
}

// Every heartbeat opens a stream and cancels it; a server that kept some of them would take no more after a while.
func TestRaftService_CancelledStreamsAreGivenBack(t *testing.T) {
	s := open(t, t.TempDir(), &journal{})
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	controlv1.RegisterRaftServiceServer(srv, s.RaftService())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() { srv.Stop(); <-served })
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	// beat sends an entry-less request of an old term, as a heartbeat of one who led before, and cancels the stream after the answer.
	beat := func() error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := controlv1.NewRaftServiceClient(conn).AppendEntries(ctx)
		if err != nil {
			return err
		}
		target := &controlv1.RaftTarget{ClusterId: s.ClusterID(), TargetServerId: s.ServerID(), ProtocolVersion: 3}
		if err := stream.Send(&controlv1.AppendEntriesRequest{Target: target}); err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	for n := range 300 {
		// A cancelled stream is given back soon, and not at once.
		for deadline := time.Now().Add(10 * time.Second); ; {
			err := beat()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("after %d heartbeats: %v", n, err)
			}
		}
	}
}
