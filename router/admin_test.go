package router_test

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/env"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router"
)

func TestApply_ReportsEveryFaultAndAppliesNothing(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	_, err := n.tryApply(
		source("fine", "file"),
		`{"apiVersion":"conveyor.etl/v1","kind":"Source","metadata":{"name":"Not A Name"},"spec":{"conector":{"type":"x"}}}`,
		filter("broken", "value.a >"),
		`{"apiVersion":"conveyor.etl/v1","kind":"ConveyorCluster","metadata":{"name":"c"},"spec":{"replicas":3}}`,
		source("fine", "file"),
		`not json`,
	)
	mustRefuse(t, err, "INVALID_MANIFEST")
	fields := ""
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range b.GetFieldViolations() {
				fields += v.GetField() + " " + v.GetReason() + "\n"
			}
		}
	}
	for _, want := range []string{"manifests[1].metadata.name", "manifests[3].kind", "manifests[4].metadata.name", "manifests[5]"} {
		if !strings.Contains(fields, want) {
			t.Errorf("no fault of %s in\n%s", want, fields)
		}
	}
	_, err = n.tryApply(filter("broken", "value.a >"), source("other", "file"))
	mustRefuse(t, err, "INVALID_MANIFEST")
	list, err := n.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
	if err != nil || len(list.GetResources()) != 0 {
		t.Errorf("applied %v, %v", list, err)
	}
}

func TestApply_OwnersDryRunsAndCommands(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	in := [][]byte{[]byte(source("in", "file"))}
	dry, err := n.admin.Apply(t.Context(), &controlv1.ApplyRequest{Manifests: in, DryRun: true})
	if err != nil || dry.GetResults()[0].GetAction() != controlv1.ApplyAction_APPLY_ACTION_CREATED {
		t.Errorf("dry run: %v, %v", dry, err)
	}
	_, err = n.admin.GetResource(t.Context(), &controlv1.GetResourceRequest{Ref: &controlv1.ResourceRef{Kind: "Source", Name: "in"}})
	mustRefuse(t, err, "NOT_FOUND")
	if _, err := n.admin.Apply(t.Context(), &controlv1.ApplyRequest{Manifests: in, Owner: "kubernetes"}); err != nil {
		t.Fatal(err)
	}
	_, err = n.tryApply(source("in", "kafka"))
	mustRefuse(t, err, "OWNED_BY_OTHER")
	if _, err := n.admin.Apply(t.Context(), &controlv1.ApplyRequest{Manifests: in, TakeOver: true}); err != nil {
		t.Fatal(err)
	}
	got, err := n.admin.GetResource(t.Context(), &controlv1.GetResourceRequest{Ref: &controlv1.ResourceRef{Kind: "Source", Name: "in"}})
	if err != nil || got.GetResource().GetOwner() != "cli" || got.GetResource().GetGeneration() != 1 || got.GetResource().GetUid() == "" {
		t.Errorf("taken over: %v, %v", got, err)
	}
	_, err = n.admin.Apply(t.Context(), &controlv1.ApplyRequest{Manifests: in, Command: &controlv1.Command{ClientSession: 1, Sequence: 1}})
	mustRefuse(t, err, "CLIENT_SESSION_ENDED")
	_, err = controlv1.NewServiceRegistryClient(n.conn).RegisterService(t.Context(), &controlv1.RegisterServiceRequest{})
	mustRefuse(t, err, "NOT_AVAILABLE")
	_, err = n.admin.GetResource(t.Context(), &controlv1.GetResourceRequest{Ref: &controlv1.ResourceRef{Kind: "Sorce", Name: "in"}})
	mustRefuse(t, err, "INVALID_REQUEST")
	var large []string
	for i := range 3 {
		large = append(large, fmt.Sprintf(`{"apiVersion":"conveyor.etl/v1","kind":"Source","metadata":{"name":"s%d","annotations":{"a":%q}},"spec":{"connector":{"type":"file"}}}`, i, strings.Repeat("x", 200<<10)))
	}
	_, err = n.tryApply(large...)
	mustRefuse(t, err, "LIMIT_EXCEEDED")
}

func TestWatchResources_TellsEveryChangeInOrderAfterARevision(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(source("before", "file"))
	list, err := n.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{Kind: "Source"})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := n.admin.WatchResources(t.Context(), &controlv1.WatchResourcesRequest{Kind: "Source", AfterRevision: list.GetRevision()})
	if err != nil {
		t.Fatal(err)
	}
	n.apply(source("a", "file"), sink("ignored", "localhost:1"))
	n.apply(source("a", "kafka"))
	if _, err := n.admin.DeleteResource(t.Context(), &controlv1.DeleteResourceRequest{Ref: &controlv1.ResourceRef{Kind: "Source", Name: "a"}}); err != nil {
		t.Fatal(err)
	}
	got, last := "", list.GetRevision()
	for range 3 {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetRevision() <= last {
			t.Errorf("revision %d after %d", m.GetRevision(), last)
		}
		last = m.GetRevision()
		got += fmt.Sprintf("%s %s %v\n", m.GetResource().GetName(), spec(m.GetResource().GetManifest()), m.GetDeleted())
		if m, err = stream.Recv(); err != nil || m.GetResource() != nil || m.GetRevision() != last {
			t.Fatalf("after the last change of revision %d came %v, error %v", last, m, err)
		}
	}
	want := "a {\"connector\":{\"type\":\"file\"}} false\na {\"connector\":{\"type\":\"kafka\"}} false\na {\"connector\":{\"type\":\"kafka\"}} true\n"
	if got != want {
		t.Errorf("got\n%s", got)
	}
	stream, err = n.admin.WatchResources(t.Context(), &controlv1.WatchResourcesRequest{AfterRevision: 1 << 40})
	if err == nil {
		_, err = stream.Recv()
	}
	mustRefuse(t, err, "REVISION_COMPACTED")
}

func TestWatchResources_SaysWhenARevisionIsComplete(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	list, err := n.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	n.apply(source("a", "file"), sink("x", "localhost:1"), source("b", "file"), source("c", "file"), sink("y", "localhost:1"))
	n.apply(sink("z", "localhost:1"))
	n.apply(source("d", "file"))
	stream, err := n.admin.WatchResources(t.Context(), &controlv1.WatchResourcesRequest{Kind: "Source", AfterRevision: list.GetRevision()})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	var revisions []uint64
	for range 6 {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, m.GetRevision())
		got += cmp.Or(m.GetResource().GetName(), "|")
	}
	if got != "abc|d|" {
		t.Errorf("got %s", got)
	}
	if len(slices.Compact(slices.Clone(revisions))) != 2 || !slices.IsSorted(revisions) {
		t.Errorf("two changes were told of as of the revisions %d", revisions)
	}
}

func TestRegister_RefusesWhatItCannotKeep(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	for name, req := range map[string]*controlv1.RegisterRequest{
		"no id":        {Address: "127.0.0.1:1"},
		"strange id":   {SidecarId: "a b", Address: "127.0.0.1:1"},
		"no address":   {SidecarId: "a"},
		"host address": {SidecarId: "a", Address: "127.0.0.1:1", HostAddresses: []string{"nowhere"}},
	} {
		_, err := n.coord.Register(t.Context(), req)
		if got := reason(err); got != "INVALID_REQUEST" {
			t.Errorf("%s: %s", name, got)
		}
	}
	n.register("a", both...)
	list, err := n.admin.ListSidecars(t.Context(), &controlv1.ListSidecarsRequest{})
	if err != nil || len(list.GetSidecars()) != 1 || len(list.GetSidecars()[0].GetEndpoints()) != 2 {
		t.Errorf("sidecars %v, %v", list, err)
	}
}

func TestOps_TellsHealthReadinessAndMetrics(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	web := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{"/healthz": "", "/readyz": `"status":"ok"`, "/metrics": "conveyor_router_leader 1"} {
		resp, err := web.Get("http://" + n.router.OpsAddr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %v\n%s", path, resp.StatusCode, err, body)
		}
	}
}

func TestConfig_ReportsEveryFault(t *testing.T) {
	cfg := router.Config{GRPCPort: 70000, NodeID: 0, Peers: env.Peers{{ID: "x", Address: env.HostPort{Host: "192.0.2.1", Port: 1}}}, ListenHost: "0.0.0.0", AdvertiseAddress: "x", LogLevel: "loud", OpsPort: -1}
	err := cfg.Validate()
	for _, want := range []string{"GRPC_PORT", "OPS_PORT", "RAFT_NODE_ID", `RAFT_PEERS: "x" is not a number`, "RAFT_PEERS: refused to connect to 192.0.2.1:1 without certificates", "RAFT_PEERS: does not list this router", "DATA_DIR", "LISTEN_HOST", "ADVERTISE_ADDRESS", "LOG_LEVEL"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no fault %s in\n%v", want, err)
		}
	}
	cfg = router.DefaultConfig()
	if err := cfg.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}
