package router_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/internal/logging/logtest"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

func (m *member) readyz() (code int, body string) {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, fmt.Sprintf("http://%s/readyz", m.router.OpsAddr()), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// serverID is the id of a member with its incarnation, by what the cluster says.
func (m *member) serverID() string {
	m.t.Helper()
	for _, s := range m.info().GetServers() {
		if s.GetAddress() == m.conn.Target() {
			return s.GetId()
		}
	}
	m.t.Fatalf("router %s is no member", m.id)
	return ""
}

// awaitRemoved waits until a router refuses every call for having been removed, and checks that it does so at once, is not ready, and has said so once.
func (m *member) awaitRemoved(log *logtest.Buffer) {
	m.t.Helper()
	const said = "level=ERROR msg=\"removed from the cluster: stop it and empty its directory before it is added again\""
	await(m.t, func() string {
		_, err := m.admin.ListResources(m.t.Context(), &controlv1.ListResourcesRequest{})
		return differs(reason(err), "REMOVED")
	})
	began := time.Now()
	for range 10 {
		_, err := m.admin.ListResources(m.t.Context(), &controlv1.ListResourcesRequest{})
		mustRefuse(m.t, err, "REMOVED")
	}
	if took := time.Since(began); took > 2*time.Second {
		m.t.Errorf("ten refusals took %v: who asks this router first waits", took)
	}
	_, err := m.admin.ListResources(m.t.Context(), &controlv1.ListResourcesRequest{Stale: true})
	mustRefuse(m.t, err, "REMOVED")
	watch, err := m.admin.WatchResources(m.t.Context(), &controlv1.WatchResourcesRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	mustRefuse(m.t, err, "REMOVED")
	if code, body := m.readyz(); code != http.StatusServiceUnavailable || !strings.Contains(body, "removed from the cluster") {
		m.t.Errorf("/readyz is %d: %s", code, body)
	}
	if n := strings.Count(log.String(), said); n != 1 {
		m.t.Errorf("it was said %d times", n)
	}
}

func TestCluster_ARemovedRouterSaysSoAndSendsItsCallersAway(t *testing.T) {
	c := startCluster(t, 3)
	f, log := c.follower(), &logtest.Buffer{}
	f.stop()
	f.log = slog.New(slog.NewTextHandler(log, nil))
	f.start()
	f.awaitReady()
	// A call that it has passed on ends too: its caller would go on by a router that hears of no change any more.
	f.apply(simple...)
	watch, err := f.admin.WatchResources(t.Context(), &controlv1.WatchResourcesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.leader().admin.RemoveRouter(t.Context(), &controlv1.RemoveRouterRequest{Id: f.serverID()}); err != nil {
		t.Fatal(err)
	}
	f.awaitRemoved(log)
	for err == nil { // until it ends
		_, err = watch.Recv()
	}
}

func TestCluster_ARouterThatWasRemovedWhileItWasAwayLearnsOfIt(t *testing.T) {
	c := startCluster(t, 3)
	f, log := c.follower(), &logtest.Buffer{}
	id := f.serverID()
	f.stop()
	if _, err := c.leader().admin.RemoveRouter(t.Context(), &controlv1.RemoveRouterRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
	f.log = slog.New(slog.NewTextHandler(log, nil))
	f.start()
	f.awaitRemoved(log)
	select {
	case <-f.router.Ready():
		t.Error("it says that it is ready")
	default:
	}
	// One that waits to be added was never removed, and neither was a member that is cut off.
	four := c.join("4")
	four.log, four.cfg.Peers = f.log, c.peers
	four.start()
	await(t, func() string {
		_, err := four.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
		return differs(reason(err), "NO_QUORUM")
	})
}
