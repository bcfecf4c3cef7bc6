package raftstore_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
