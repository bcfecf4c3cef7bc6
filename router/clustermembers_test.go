package router_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

func TestCluster_MembersComeAndGo(t *testing.T) {
	c := startCluster(t, 3)
	f := c.follower()
	f.apply(simple...)
	four := c.join("4")
	four.cfg.Peers = c.peers
	four.start()
	// It waits, and says for what.
	await(t, func() string {
		_, err := four.admin.GetCluster(t.Context(), &controlv1.GetClusterRequest{})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "conveyor cluster add") {
			return fmt.Sprint(err)
		}
		return ""
	})
	added, err := f.admin.AddRouter(t.Context(), &controlv1.AddRouterRequest{Address: four.conn.Target()})
	if err != nil {
		t.Fatal(err)
	}
	id := added.GetServer().GetId()
	if again, err := f.admin.AddRouter(t.Context(), &controlv1.AddRouterRequest{Address: four.conn.Target()}); err != nil || again.GetServer().GetId() != id {
		t.Errorf("added again: %v %v", again, err)
	}
	await(t, func() string {
		if _, err := f.admin.PromoteRouter(t.Context(), &controlv1.PromoteRouterRequest{Id: id}); err != nil {
			return err.Error()
		}
		return ""
	})
	four.awaitReady()
	if list, err := four.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{}); err != nil || len(list.GetResources()) != len(simple) {
		t.Errorf("the new router: %v %v", list, err)
	}
	// A leader that is removed hands over first; who asks is told to ask again.
	leaderID := c.leader().info().GetLeaderId()
	await(t, func() string {
		if _, err := four.admin.RemoveRouter(t.Context(), &controlv1.RemoveRouterRequest{Id: leaderID}); err != nil && reason(err) != "NOT_FOUND" {
			return err.Error()
		}
		return ""
	})
	info := four.info()
	if len(info.GetServers()) != 3 || info.GetLeaderId() == leaderID {
		t.Errorf("after the removal of %s: %v", leaderID, info)
	}
	_, err = four.admin.RemoveRouter(t.Context(), &controlv1.RemoveRouterRequest{Id: leaderID})
	mustRefuse(t, err, "NOT_FOUND")
	// The one that left had a copy of the letters, which the new one gets.
	await(t, func() string { return four.info().GetLetterCopiesProblem() })
}

func TestCluster_ARouterThatWasFoundedAloneIsGivenOthers(t *testing.T) {
	c := &cluster{t: t, nodes: map[string]*member{}}
	one := c.join("1")
	// What others could not dial.
	one.cfg.AdvertiseAddress = "nowhere.example:1"
	one.start()
	one.awaitReady()
	one.apply(simple...)
	one.stop()
	one.cfg.AdvertiseAddress = ""
	for _, id := range []string{"2", "3"} {
		c.join(id)
	}
	for _, m := range c.nodes {
		m.cfg.Peers = c.peers
		m.start()
	}
	one.awaitReady()
	for _, id := range []string{"2", "3"} {
		await(t, func() string {
			added, err := one.admin.AddRouter(t.Context(), &controlv1.AddRouterRequest{Address: c.nodes[id].conn.Target()})
			if err == nil {
				_, err = one.admin.PromoteRouter(t.Context(), &controlv1.PromoteRouterRequest{Id: added.GetServer().GetId()})
			}
			if err != nil {
				return err.Error()
			}
			return ""
		})
		c.nodes[id].awaitReady()
	}
	await(t, func() string {
		list, err := c.nodes["3"].admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
		if err != nil || len(list.GetResources()) != len(simple) {
			return fmt.Sprintf("what the first router had: %v %v", list, err)
		}
		return ""
	})
	await(t, func() string { return one.info().GetLetterCopiesProblem() })
}

func TestCluster_SaysWhileCopiesOfTheLettersAreMissing(t *testing.T) {
	c := startCluster(t, 3)
	await(t, func() string { return c.leader().info().GetLetterCopiesProblem() })
	gone := c.follower()
	gone.stop()
	await(t, func() string {
		if c.leader().info().GetLetterCopiesProblem() == "" {
			return "nothing is said of the copy at the router that is gone"
		}
		return ""
	})
}

func TestCluster_AWipedDiskComesBackAsANewRouterWithoutAVote(t *testing.T) {
	c := startCluster(t, 3)
	f := c.follower()
	f.apply(simple...)
	f.stop()
	f.cfg.DataDir = t.TempDir()
	f.start()
	_, err := f.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
	mustRefuse(t, err, "NO_QUORUM")
	l := c.leader()
	var old string
	await(t, func() string {
		for _, s := range l.info().GetServers() {
			if strings.HasPrefix(s.GetId(), f.id+"-") && strings.Contains(s.GetProblem(), "remove this member and add that one") {
				old = s.GetId()
				return ""
			}
		}
		return fmt.Sprint("the cluster does not notice: ", l.info().GetServers())
	})
	_, err = l.admin.AddRouter(t.Context(), &controlv1.AddRouterRequest{Address: f.conn.Target()})
	mustRefuse(t, err, "CONFLICT")
	if _, err := l.admin.RemoveRouter(t.Context(), &controlv1.RemoveRouterRequest{Id: old}); err != nil {
		t.Fatal(err)
	}
	await(t, func() string { // the servers of letters forget the old one first
		_, err := l.admin.AddRouter(t.Context(), &controlv1.AddRouterRequest{Address: f.conn.Target()})
		if err != nil && !strings.Contains(err.Error(), "have not yet forgotten router "+old) {
			t.Fatal(err)
		}
		return differs(err, nil)
	})
	f.awaitReady()
}

func TestCluster_RefusesToLoseItsMajority(t *testing.T) {
	c := startCluster(t, 3)
	gone := c.follower()
	gone.stop()
	l := c.leader()
	for _, s := range l.info().GetServers() {
		if strings.HasPrefix(s.GetId(), gone.id+"-") || s.GetId() == l.info().GetLeaderId() {
			continue
		}
		_, err := l.admin.RemoveRouter(t.Context(), &controlv1.RemoveRouterRequest{Id: s.GetId()})
		mustRefuse(t, err, "CONFLICT")
		if !strings.Contains(err.Error(), "no majority") {
			t.Errorf("it says %v", err)
		}
	}
}

func TestCluster_ANumberBelongsToOneRouter(t *testing.T) {
	c := startCluster(t, 3)
	l := c.leader()
	peers := slices.Clone(c.peers)
	again := c.join("2")
	peers[1] = c.peers[len(c.peers)-1]
	again.cfg.Peers = peers
	again.start()
	await(t, func() string {
		_, err := l.admin.AddRouter(t.Context(), &controlv1.AddRouterRequest{Address: again.conn.Target()})
		if reason(err) != "CONFLICT" || !strings.Contains(err.Error(), "another RAFT_NODE_ID") {
			return fmt.Sprint("added: ", err)
		}
		return ""
	})
	if n := len(l.info().GetServers()); n != 3 {
		t.Errorf("the cluster has %d routers", n)
	}
}

func TestCluster_LeadershipIsNotHandedToARouterThatCannotTakeIt(t *testing.T) {
	c := startCluster(t, 3)
	l, f := c.leader(), c.follower()
	down, leads := f.serverID(), l.info().GetLeaderId()
	four := c.join("4")
	four.cfg.Peers = c.peers
	four.start()
	var learner string
	await(t, func() string {
		added, err := l.admin.AddRouter(t.Context(), &controlv1.AddRouterRequest{Address: four.conn.Target()})
		learner = added.GetServer().GetId()
		return differs(err, nil)
	})
	_, err := l.admin.TransferLeadership(t.Context(), &controlv1.TransferLeadershipRequest{To: learner})
	mustRefuse(t, err, "CONFLICT")
	if !strings.Contains(err.Error(), "does not vote") {
		t.Errorf("a learner: %v", err)
	}
	f.stop()
	_, err = l.admin.TransferLeadership(t.Context(), &controlv1.TransferLeadershipRequest{To: down})
	mustRefuse(t, err, "ROUTER_UNREACHABLE")
	if want := fmt.Sprintf("router %s at %s does not answer", down, f.conn.Target()); !strings.Contains(err.Error(), want) {
		t.Errorf("a router that is down: %v, want %s", err, want)
	}
	if got := l.info().GetLeaderId(); got != leads {
		t.Errorf("router %s leads now, and %s did", got, leads)
	}
}
