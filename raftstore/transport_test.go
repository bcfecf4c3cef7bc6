package raftstore_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/raftstore/raftstoretest"
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

// peer returns a client of a server's RaftService, as another server has it.
func peer(t *testing.T, s *raftstore.Store) controlv1.RaftServiceClient {
	t.Helper()
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
	return controlv1.NewRaftServiceClient(conn)
}

func TestRaftService_RefusesEntriesAndSnapshotsThatItCannotRead(t *testing.T) {
	s := open(t, t.TempDir(), &journal{})
	client := peer(t, s)
	target := &controlv1.RaftTarget{ClusterId: s.ClusterID(), TargetServerId: s.ServerID(), ProtocolVersion: 3}
	for name, entry := range map[string]*controlv1.LogEntry{
		"of a later version":    {Index: 9, Term: 9, Type: 77},
		"members":               {Index: 9, Term: 9, Type: uint32(raft.LogConfiguration), Data: []byte("no list")},
		"command":               {Index: 9, Term: 9, Type: uint32(raft.LogCommand), Data: []byte("no checksum")},
		"marker that says more": {Index: 9, Term: 9, Type: uint32(raft.LogNoop), Data: []byte("x")},
	} {
		stream, err := client.AppendEntries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&controlv1.AppendEntriesRequest{Target: target, Term: 9, Entries: []*controlv1.LogEntry{entry}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, head := range map[string]*controlv1.SnapshotHead{
		"of a later version": {SnapshotVersion: 7},
		"members":            {SnapshotVersion: 1, Configuration: []byte("no list")},
		"size":               {SnapshotVersion: 1, Size: -1},
	} {
		head.Target, head.Term = target, 9
		stream, err := client.InstallSnapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&controlv1.InstallSnapshotRequest{Head: head}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Propose(t.Context(), []byte("a")); err != nil {
		t.Errorf("the server goes on: %v", err)
	}
}

// Credentials are for a name: at an address anybody may answer.
func TestCluster_WhoeverIsDialledIsNamed(t *testing.T) {
	var mu sync.Mutex
	dialled := map[raftstore.Peer]bool{}
	c := raftstoretest.New(t, raftstoretest.Config{
		Servers: 3, Machine: func(int) raftstore.StateMachine { return &journal{} },
		Change: func(_ int, cfg *raftstore.Config) {
			dial := cfg.DialOptions
			cfg.DialOptions = func(to raftstore.Peer) ([]grpc.DialOption, error) {
				mu.Lock()
				defer mu.Unlock()
				dialled[to] = true
				return dial(to)
			}
		},
	})
	leader := c.Leader()
	propose(t, c.Store(leader), "a")
	c.Start(4)
	if _, err := c.Store(leader).AddLearner(t.Context(), c.Store(4).ServerID(), raftstoretest.Address(4), 0); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the learner has caught up", func() bool { return c.Store(4).AppliedIndex() >= c.Store(leader).AppliedIndex() })
	mu.Lock()
	defer mu.Unlock()
	want := raftstore.Peer{ServerName: "4", Address: raftstoretest.Address(4)}
	if !dialled[want] {
		t.Errorf("%v is not among %v", want, dialled)
	}
	for to := range dialled {
		if to.Address != "server-"+to.ServerName+":9000" {
			t.Errorf("dialled as server %q: %s", to.ServerName, to.Address)
		}
	}
}

// Every heartbeat opens a stream and cancels it; a server that kept some of them would take no more after a while.
func TestRaftService_CancelledStreamsAreGivenBack(t *testing.T) {
	s := open(t, t.TempDir(), &journal{})
	client := peer(t, s)
	// beat sends an entry-less request of an old term, as a heartbeat of one who led before, and cancels the stream after the answer.
	beat := func() error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := client.AppendEntries(ctx)
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
