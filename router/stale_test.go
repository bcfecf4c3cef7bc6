package router_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// staleStatus is what a router says of a pipeline by itself.
func (n *node) staleStatus(name string) *controlv1.PipelineStatus {
	n.t.Helper()
	var resp *controlv1.GetPipelineStatusResponse
	await(n.t, func() string { // it may not have come as far yet
		var err error
		if resp, err = n.admin.GetPipelineStatus(n.t.Context(), &controlv1.GetPipelineStatusRequest{Namespace: "default", Name: name, Stale: true}); err != nil {
			return err.Error()
		}
		return ""
	})
	if resp.GetStaleness() == nil {
		n.t.Error("a stale answer does not say how old it is")
	}
	return resp.GetStatus()
}

// mustNotKnow fails when a status says of pipeline p what only the leader is told.
func mustNotKnow(t *testing.T, who string, s *controlv1.PipelineStatus) {
	t.Helper()
	if !s.GetReportsUnknown() || s.GetPhase() != controlv1.Phase_PHASE_UNSPECIFIED || s.GetCounts() != nil || len(s.GetLanes()) > 0 {
		t.Errorf("%s tells of reports that it does not have: %v", who, s)
	}
	if s.GetGeneration() != 1 || len(s.GetStages()) != 3 {
		t.Errorf("%s does not tell what all routers know: %v", who, s)
	}
	for _, st := range s.GetStages() {
		if st.GetSidecarId() != "a" || st.GetOpen() || st.GetRecordsIn() > 0 || st.GetWaitingFor() != "" {
			t.Errorf("%s says of stage %s: %v", who, st.GetName(), st)
		}
	}
	for _, c := range s.GetConditions() {
		if c.GetType() == "Running" || c.GetSince() != nil {
			t.Errorf("%s has the condition %v", who, c)
		}
	}
}

func TestStaleReads_OnlyTheRouterThatLeadsTellsWhatSidecarsReported(t *testing.T) {
	c := startCluster(t, 3)
	l, f := c.leader(), c.follower()
	l.apply(simple...)
	a := l.register("a", both...)
	a.awaitStages("in keep out")
	in := a.stage("in")
	a.open(&controlv1.LaneReport{Pipeline: in.GetPipeline(), Generation: in.GetGeneration(), Status: &controlv1.LaneStatus{
		Source: "default/in", SourceStage: "in", Counts: &controlv1.Counts{Read: 21_000, Acknowledged: 21_000},
	}})
	l.awaitPhase("p", controlv1.Phase_PHASE_RUNNING)
	if s := l.staleStatus("p"); s.GetReportsUnknown() || s.GetCounts().GetRead() != 21_000 || s.GetPhase() != controlv1.Phase_PHASE_RUNNING {
		t.Errorf("the leader says: %v", s)
	}
	await(t, func() string { return differs(len(f.staleStatus("p").GetStages()), 3) })
	await(t, func() string { return differs(f.staleStatus("p").GetStages()[2].GetSidecarId(), "a") })
	mustNotKnow(t, "a router that never led", f.staleStatus("p"))
	stale, err := f.admin.GetCluster(t.Context(), &controlv1.GetClusterRequest{Stale: true})
	if err != nil || !stale.GetDeadLettersUnknown() {
		t.Errorf("a router that does not lead says of the dead letters: %v, %v", stale, err)
	}
	if info := l.info(); info.GetDeadLettersUnknown() {
		t.Errorf("the leader does not know its letters: %v", info)
	}

	to := f.info()
	for _, s := range to.GetServers() {
		if s.GetAddress() != f.conn.Target() {
			continue
		}
		if _, err := l.admin.TransferLeadership(t.Context(), &controlv1.TransferLeadershipRequest{To: s.GetId()}); err != nil {
			t.Fatal(err)
		}
	}
	mustNotKnow(t, "a router that led before", l.staleStatus("p"))
}

func TestStaleReads_ARouterThatKnowsNothingYetSaysSo(t *testing.T) {
	c := startCluster(t, 3)
	f := c.follower()
	f.apply(simple...)
	for _, m := range c.nodes {
		m.stop()
	}
	// By itself it does not know how much of its log is committed, and so applies nothing of it.
	f.start()
	await(t, func() string {
		_, err := f.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{Stale: true})
		if status.Code(err) != codes.Unavailable {
			t.Fatalf("it answers what it does not know: %v", err)
		}
		return differs(reason(err), "NOTHING_KNOWN") // at first it does not listen yet
	})
	_, err := f.admin.GetPipelineStatus(t.Context(), &controlv1.GetPipelineStatusRequest{Namespace: "default", Name: "p", Stale: true})
	mustRefuse(t, err, "NOTHING_KNOWN")
	// Who the others are is in its log.
	info, err := f.admin.GetCluster(t.Context(), &controlv1.GetClusterRequest{Stale: true})
	if err != nil || len(info.GetServers()) != 3 || info.GetStaleness().GetKnown() {
		t.Errorf("of the cluster it says: %v, %v", info, err)
	}
}

func TestStaleReads_WhatIsNotFoundMayBeMissingOnlyThere(t *testing.T) {
	c := startCluster(t, 3)
	f := c.follower()
	f.apply(simple...)
	await(t, func() string {
		_, err := f.admin.GetPipelineStatus(t.Context(), &controlv1.GetPipelineStatusRequest{Namespace: "default", Name: "none", Stale: true})
		if reason(err) == "NOTHING_KNOWN" { // it was given what the leader has, and has not heard yet how far that is committed
			return err.Error()
		}
		mustRefuse(t, err, "NOT_FOUND")
		if !strings.Contains(err.Error(), "router "+f.id+"-") || !strings.Contains(err.Error(), "had all that was committed") {
			return err.Error()
		}
		return ""
	})
}

func TestCompleted_ThePipelineKeepsItsCountsWhoeverLeads(t *testing.T) {
	c := startCluster(t, 3)
	l, f := c.leader(), c.follower()
	l.apply(simple...)
	a := l.register("a", both...)
	a.awaitStages("in keep out")
	in := a.stage("in")
	a.checkpoint(in, 9, "nine", true)
	a.open(&controlv1.LaneReport{Pipeline: in.GetPipeline(), Generation: in.GetGeneration(), Status: &controlv1.LaneStatus{
		Source: "default/in", SourceStage: "in", Partition: "0", Counts: &controlv1.Counts{Read: 9, Acknowledged: 7, Dead: 1, Filtered: 1}, Ended: true,
	}})
	a.end(true, a.assignments()...)
	kept := func(who string, s *controlv1.PipelineStatus) string {
		n := s.GetCounts()
		if s.GetPhase() != controlv1.Phase_PHASE_COMPLETED || n.GetRead() != 9 || n.GetAcknowledged() != 7 || n.GetDead() != 1 || n.GetFiltered() != 1 {
			return who + " says: " + s.String()
		}
		return ""
	}
	if amiss := kept("the leader", l.awaitPhase("p", controlv1.Phase_PHASE_COMPLETED)); amiss != "" {
		t.Error(amiss)
	}
	await(t, func() string { return kept("a router by itself", f.staleStatus("p")) })
	if _, err := l.admin.TransferLeadership(t.Context(), &controlv1.TransferLeadershipRequest{To: f.serverID()}); err != nil {
		t.Fatal(err)
	}
	if amiss := kept("the next leader", f.status("p")); amiss != "" {
		t.Error(amiss)
	}
}
