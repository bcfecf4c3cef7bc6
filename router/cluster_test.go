package router_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router"
)

// quick makes elections short, so that tests are.
var quick = raftstore.Timeouts{Heartbeat: 250 * time.Millisecond, Election: 250 * time.Millisecond, Lease: 125 * time.Millisecond}

// cluster is several routers in this process, numbered from 1.
type cluster struct {
	t     *testing.T
	peers env.Peers
	nodes map[string]*member
	// authority of the certificates; nil for a cluster without.
	authority *authority
	// prepare alters a member before its first start; nil leaves it.
	prepare func(*member)
}

// member is a router that can be stopped and started again at its address.
type member struct {
	*node
	id     string
	cfg    router.Config
	cancel context.CancelFunc
	ended  chan error
	log    *slog.Logger // nil for one that shows nothing
}

// startCluster runs n routers until the test ends, and returns when all of them answer.
func startCluster(t *testing.T, n int) *cluster {
	t.Helper()
	return runCluster(&cluster{t: t, nodes: map[string]*member{}}, n)
}

func runCluster(c *cluster, n int) *cluster {
	c.t.Helper()
	var members []*member
	for i := range n {
		members = append(members, c.join(strconv.Itoa(i+1)))
	}
	for _, m := range members {
		m.cfg.Peers = c.peers
		m.start()
	}
	for _, m := range members {
		m.awaitReady()
	}
	return c
}

// join prepares one more router, which is not started.
func (c *cluster) join(id string) *member {
	c.t.Helper()
	m := &member{id: id, cfg: testConfig(c.t.TempDir())}
	n, err := strconv.Atoi(id)
	if err != nil {
		c.t.Fatal(err)
	}
	m.cfg.NodeID, m.cfg.RaftTimeouts = n, quick
	m.cfg.Listener = listenAnywhere(c.t)
	addr := m.cfg.Listener.Addr().(*net.TCPAddr)
	m.cfg.DLQPort = freePort(c.t)
	c.peers = append(c.peers, env.Peer{ID: id, Address: env.HostPort{Host: addr.IP.String(), Port: addr.Port}})
	dial := rpc.DialConfig{}
	if c.authority != nil {
		m.cfg.TLS = c.authority.issue(certs.RoleRouter, id)
		dial.TLS = c.authority.credentials(certs.RoleAdmin, "alice")
	}
	m.node = connectWith(c.t, addr.String(), dial)
	c.t.Cleanup(func() { m.stop(); m.conn.Close() })
	c.nodes[id] = m
	if c.prepare != nil {
		c.prepare(m)
	}
	return m
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	var lis net.Listener
	await(t, func() (amiss string) {
		var err error
		var lc net.ListenConfig
		if lis, err = lc.Listen(t.Context(), "tcp", address); err != nil {
			return err.Error()
		}
		return ""
	})
	return lis
}

// givenPorts are those that a test of this process got: no other may have one of them while its router is away.
var givenPorts sync.Map

// listenAnywhere opens a port that is none of those that systems give to connections: one of these may be taken while a router is away.
func listenAnywhere(t *testing.T) net.Listener {
	t.Helper()
	const first, last = 22000, 25000
	for range 1000 {
		port := first + rand.IntN(last-first)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		var lc net.ListenConfig
		if lis, err := lc.Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return lis
		}
	}
	t.Fatal("no free port")
	return nil
}

// freePort is one that nothing listens on.
func freePort(t *testing.T) env.Port {
	t.Helper()
	lis := listenAnywhere(t)
	defer lis.Close()
	return env.Port(lis.Addr().(*net.TCPAddr).Port)
}

func (m *member) start() {
	m.t.Helper()
	if m.cfg.Listener == nil {
		m.cfg.Listener = listen(m.t, m.conn.Target())
	}
	r, err := router.New(m.cfg, m.logger())
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.router, m.cancel, m.ended = r, cancel, make(chan error, 1)
	go func() { m.ended <- r.Run(ctx) }()
}

// logger shows what the routers say when a test is run with -v.
func (m *member) logger() *slog.Logger {
	if m.log != nil {
		return m.log
	}
	if !testing.Verbose() {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("router", m.id)
}

func (m *member) awaitReady() {
	m.t.Helper()
	select {
	case <-m.router.Ready():
	case err := <-m.ended:
		m.t.Fatalf("router %s ended: %v", m.id, err)
	case <-time.After(patience):
		m.t.Fatalf("router %s never ready", m.id)
	}
}

// stop ends the router in order. It may be called again.
func (m *member) stop() {
	m.t.Helper()
	if m.cancel == nil {
		return
	}
	m.cancel()
	m.cancel = nil
	select {
	case err := <-m.ended:
		if err != nil {
			m.t.Errorf("router %s: %v", m.id, err)
		}
	case <-time.After(patience):
		m.t.Errorf("router %s did not stop", m.id)
	}
	m.cfg.Listener = nil
}

// info is what the cluster says of itself, asked at any router.
func (m *member) info() *controlv1.GetClusterResponse {
	m.t.Helper()
	resp, err := m.admin.GetCluster(m.t.Context(), &controlv1.GetClusterRequest{})
	if err != nil {
		m.t.Fatal(err)
	}
	return resp
}

// leader is the router that leads, and follower one that does not.
func (c *cluster) leader() *member {
	c.t.Helper()
	var found *member
	await(c.t, func() string {
		for _, m := range c.nodes {
			if m.cancel == nil {
				continue
			}
			resp, err := m.admin.GetCluster(c.t.Context(), &controlv1.GetClusterRequest{})
			if err != nil {
				return err.Error()
			}
			id, _, _ := strings.Cut(resp.GetLeaderId(), "-")
			if found = c.nodes[id]; found != nil && found.cancel != nil {
				return ""
			}
		}
		return "no router leads"
	})
	return found
}

func (c *cluster) follower() *member {
	c.t.Helper()
	leader := c.leader()
	for _, m := range c.nodes {
		if m != leader && m.cancel != nil {
			return m
		}
	}
	c.t.Fatal("there is no follower")
	return nil
}

func TestCluster_EveryRouterAnswersForTheLeader(t *testing.T) {
	c := startCluster(t, 3)
	f := c.follower()
	f.apply(simple...)
	a := f.register("a", both...)
	a.awaitStages("in keep out")
	a.open()
	f.awaitPhase("p", controlv1.Phase_PHASE_RUNNING)
	for _, m := range c.nodes {
		list, err := m.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
		if err != nil || len(list.GetResources()) != len(simple) {
			t.Errorf("router %s knows %d resources, %v", m.id, len(list.GetResources()), err)
		}
	}
	info := f.info()
	for _, s := range info.GetServers() {
		if s.GetProblem() != "" || !s.GetVoter() || s.GetVersion() == "" {
			t.Errorf("member %v", s)
		}
	}
	if len(info.GetServers()) != 3 || info.GetClusterId() == "" {
		t.Errorf("the cluster is %v", info)
	}
	if got := a.checkpoint(a.stage("in"), 7, "seven", false); got != controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED {
		t.Errorf("checkpoint: %v", got)
	}
	if got := a.position("in"); got != "seven" {
		t.Errorf("position %q", got)
	}
}

func TestCluster_ALostLeaderCostsNoSessionAndNoStage(t *testing.T) {
	c := startCluster(t, 3)
	lost := c.leader()
	f := c.follower()
	f.apply(simple...)
	a := f.register("a", both...)
	a.awaitStages("in keep out")
	before := a.stage("in").GetEpoch().GetIndex()
	lost.stop()
	await(t, func() string {
		_, err := f.tryApply(source("after", "file"))
		if err != nil {
			return err.Error()
		}
		return ""
	})
	if _, err := f.coord.Heartbeat(t.Context(), &controlv1.HeartbeatRequest{Session: a.session}); err != nil {
		t.Errorf("the session did not survive: %v", err)
	}
	again := &sidecar{node: f.node, id: "a", session: a.session}
	watch, err := f.coord.WatchAssignments(t.Context(), &controlv1.WatchAssignmentsRequest{Session: a.session})
	if err != nil {
		t.Fatal(err)
	}
	m, err := watch.Recv()
	if err != nil {
		t.Fatal(err)
	}
	again.state = m.GetAssignments()
	if got := again.stage("in").GetEpoch().GetIndex(); got != before {
		t.Errorf("stage in has epoch %d, had %d: it was moved without need", got, before)
	}
	// The lost one comes back and catches up.
	lost.start()
	lost.awaitReady()
	await(t, func() string {
		resp, err := lost.admin.GetResource(t.Context(), &controlv1.GetResourceRequest{Ref: &controlv1.ResourceRef{Kind: "Source", Name: "after"}, Stale: true})
		if err != nil {
			return err.Error()
		}
		return differs(resp.GetResource().GetName(), "after")
	})
}

func TestCluster_FiveRoutersSurviveTheLossOfTwo(t *testing.T) {
	c := startCluster(t, 5)
	f := c.follower()
	f.apply(simple...)
	a := f.register("a", both...)
	a.awaitStages("in keep out")
	a.awaitStored(f.node, "before")
	var lost []*member
	for i := range 2 {
		leader := c.leader()
		leader.stop()
		lost = append(lost, leader)
		await(t, func() string {
			f := c.follower()
			if _, err := f.tryApply(source(fmt.Sprintf("after-%d", i), "file")); err != nil {
				return err.Error()
			}
			if _, err := f.coord.Heartbeat(t.Context(), &controlv1.HeartbeatRequest{Session: a.session}); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	// Both may have been among the three that have copies of the letters, which are there when one of them is back.
	lost[0].start()
	lost[0].awaitReady()
	left := c.follower()
	a.awaitStored(left.node, "after")
	if n := len(left.list(&controlv1.LetterFilter{Namespace: "default"})); n != 2 {
		t.Errorf("%d letters", n)
	}
	if got := len(left.info().GetServers()); got != 5 {
		t.Errorf("%d members", got)
	}
}

func TestCluster_WithoutAMajorityItSaysSoAndAnswersStaleReads(t *testing.T) {
	c := startCluster(t, 3)
	f := c.follower()
	f.apply(simple...)
	// The majority that took it need not have been this one.
	await(t, func() string {
		resp, err := f.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{Stale: true})
		if err != nil {
			return err.Error()
		}
		return differs(len(resp.GetResources()), len(simple))
	})
	for _, m := range c.nodes {
		if m != f {
			m.stop()
		}
	}
	await(t, func() string {
		_, err := f.tryApply(source("late", "file"))
		if status.Code(err) != codes.Unavailable {
			t.Fatalf("a change without a majority: %v", err)
		}
		// At first the leader is only not there any more.
		if reason(err) != "NO_QUORUM" || !strings.Contains(err.Error(), "a majority of the routers must run") {
			return err.Error()
		}
		return ""
	})
	resp, err := f.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{Stale: true})
	if err != nil || len(resp.GetResources()) != len(simple) {
		t.Fatalf("a stale read: %d resources, %v", len(resp.GetResources()), err)
	}
	if s := resp.GetStaleness(); !s.GetKnown() || s.GetAgeMillis() == 0 || s.GetServerId() == "" || s.GetAppliedIndex() == 0 {
		t.Errorf("it does not say how old it is: %v", s)
	}
}

func TestCluster_AWatchGoesOnAtAnotherRouterWithoutAGap(t *testing.T) {
	c := startCluster(t, 3)
	list, err := c.follower().admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	revision := list.GetRevision()
	var seen []string
	read := func(m *member, until string) {
		watch, err := m.admin.WatchResources(t.Context(), &controlv1.WatchResourcesRequest{Kind: "Source", AfterRevision: revision})
		for err == nil {
			var e *controlv1.WatchResourcesResponse
			if e, err = watch.Recv(); err == nil {
				if e.GetRevision() <= revision {
					t.Errorf("revision %d came after %d", e.GetRevision(), revision)
				}
				if e.GetResource() != nil {
					seen = append(seen, e.GetResource().GetName())
					continue
				}
				revision = e.GetRevision() // which is complete
				if seen[len(seen)-1] == until {
					return
				}
			}
		}
		t.Fatal(err)
	}
	var want []string
	for i := range 3 {
		name := fmt.Sprintf("s%d", i)
		want = append(want, name, name+"b")
		f := c.follower()
		f.apply(source(name, "file"))
		f.apply(source(name+"b", "file"))
		read(f, name)
		if i < 2 {
			l := c.leader()
			if _, err := l.admin.TransferLeadership(t.Context(), &controlv1.TransferLeadershipRequest{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	read(c.leader(), "s2b")
	if got := fmt.Sprint(seen); got != fmt.Sprint(want) {
		t.Errorf("seen %s, want %s", got, want)
	}
}

func TestCluster_AStreamEndsWithTheLeadershipOfItsRouter(t *testing.T) {
	c := startCluster(t, 3)
	l := c.leader()
	watch, err := l.admin.WatchResources(t.Context(), &controlv1.WatchResourcesRequest{AfterRevision: l.info().GetAppliedIndex()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.admin.TransferLeadership(t.Context(), &controlv1.TransferLeadershipRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); reason(err) != "NOT_LEADER" {
		t.Errorf("the stream ended with %v", err)
	}
}
