package router_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/logging/logtest"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/protos/ownership"
	"github.com/conveyor-etl/conveyor/router"
)

// authority makes certificates for a test.
type authority struct {
	t   *testing.T
	dir string
	ca  *certs.Authority
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	ca, err := certs.NewAuthority(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, dir: t.TempDir(), ca: ca}
}

// issue makes a certificate anew.
func (a *authority) issue(role certs.Role, name string) certs.Files {
	a.t.Helper()
	files, err := a.ca.Issue(certs.Identity{Role: role, Name: name}, []string{"127.0.0.1"}, time.Hour, filepath.Join(a.dir, string(role)+"-"+name))
	if err != nil {
		a.t.Fatal(err)
	}
	return files
}

func (a *authority) credentials(role certs.Role, name string) credentials.TransportCredentials {
	a.t.Helper()
	store, err := certs.Load(a.issue(role, name), nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return store.ClientCredentials(certs.RoleRouter)
}

// as is a node that is asked by somebody else.
func (a *authority) as(m *member, role certs.Role, name string) *node {
	a.t.Helper()
	n := connectWith(a.t, m.conn.Target(), rpc.DialConfig{TLS: a.credentials(role, name)})
	a.t.Cleanup(func() { n.conn.Close() })
	return n
}

func TestTLS_RoutersAreAClusterAndEachRoleMayDoItsOwn(t *testing.T) {
	a := newAuthority(t)
	c := runCluster(&cluster{t: t, nodes: map[string]*member{}, authority: a}, 3)
	// Everything through a router that does not lead, which passes on who calls.
	f := c.follower()
	f.apply(simple...)
	sidecar := a.as(f, certs.RoleSidecar, "a").register("a", both...)
	sidecar.awaitStages("in keep out")
	sidecar.awaitStored(sidecar.node, "r1") // the letters' servers have met, over the same certificates

	denied := func(what string, err error, code codes.Code) {
		t.Helper()
		if status.Code(err) != code || reason(err) != "DENIED" {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := a.as(f, certs.RoleSidecar, "a").tryApply(source("x", "file"))
	denied("a sidecar that applies", err, codes.PermissionDenied)
	if !strings.Contains(err.Error(), "sidecar/a may not call") {
		t.Errorf("it says %v", err)
	}
	_, err = a.as(f, certs.RoleAdmin, "bob").coord.Heartbeat(t.Context(), &controlv1.HeartbeatRequest{Session: sidecar.session})
	denied("somebody else's heartbeat", err, codes.PermissionDenied)
	_, err = a.as(f, certs.RoleSidecar, "b").coord.Heartbeat(t.Context(), &controlv1.HeartbeatRequest{Session: sidecar.session})
	denied("another sidecar's heartbeat", err, codes.PermissionDenied)
	_, err = controlv1.NewRaftServiceClient(f.conn).RequestVote(t.Context(), &controlv1.RequestVoteRequest{})
	denied("a vote for an admin", err, codes.PermissionDenied)
	_, err = controlv1.NewRaftServiceClient(a.as(f, certs.RoleRouter, "9").conn).RequestVote(t.Context(), &controlv1.RequestVoteRequest{
		Target: &controlv1.RaftTarget{SenderId: []byte("1-abcd")},
	})
	denied("a router that speaks for another", err, codes.PermissionDenied)
	opened, err := f.admin.OpenClientSession(t.Context(), &controlv1.OpenClientSessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.as(c.leader(), certs.RoleAdmin, "mallory").admin.DeleteResource(t.Context(), &controlv1.DeleteResourceRequest{
		Ref: &controlv1.ResourceRef{Kind: "Source", Name: "in"}, Command: &controlv1.Command{ClientSession: opened.GetClientSession(), Sequence: 1},
	})
	denied("a change under the session of another", err, codes.PermissionDenied)
}

func TestTLS_AssignmentsAreSignedWithOneKeyWhoeverLeads(t *testing.T) {
	a := newAuthority(t)
	c := runCluster(&cluster{t: t, nodes: map[string]*member{}, authority: a}, 3)
	leader, f := c.leader(), c.follower()
	f.apply(simple...)
	verify := func(s *sidecar) {
		t.Helper()
		s.awaitStages("in keep out")
		for _, as := range s.assignments() {
			if err := ownership.Of(as, s.id).Verify(s.key, as.GetSignature()); err != nil {
				t.Error(err)
			}
		}
	}
	before := a.as(f, certs.RoleSidecar, "a").register("a", both...)
	verify(before)
	leader.stop()
	after := a.as(f, certs.RoleSidecar, "a").register("a", both...)
	verify(after)
	if !bytes.Equal(before.key, after.key) {
		t.Error("the next leader has another key: sidecars that hold on to theirs would believe nothing that it assigns")
	}
}

func TestWithoutCertificatesNothingIsSigned(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple...)
	s := n.register("a", both...)
	s.awaitStages("in keep out")
	if len(s.key) > 0 || len(s.stage("in").GetSignature()) > 0 {
		t.Errorf("key %x, signature %x", s.key, s.stage("in").GetSignature())
	}
}

func TestTLS_AStrangerIsTurnedAwayBeforeAnyCall(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	c := runCluster(&cluster{t: t, nodes: map[string]*member{}, authority: a}, 3)
	m := c.follower()
	for name, cfg := range map[string]rpc.DialConfig{
		"a certificate of another authority": {TLS: other.credentials(certs.RoleAdmin, "alice")},
		"no certificate at all":              {},
	} {
		n := connectWith(t, m.conn.Target(), cfg)
		_, err := n.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		n.conn.Close()
	}
	// A server with a certificate of another role is not taken for a router.
	store, err := certs.Load(a.issue(certs.RoleAdmin, "alice"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sidecar, err := certs.Load(a.issue(certs.RoleSidecar, "a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	srv := rpc.NewServer(rpc.ServerConfig{TLS: sidecar.ServerCredentials()})
	served := make(chan error, 1)
	go func() { served <- srv.Server.Serve(lis) }()
	defer func() { srv.Stop(); <-served }()
	n := connectWith(t, lis.Addr().String(), rpc.DialConfig{TLS: store.ClientCredentials(certs.RoleRouter)})
	defer n.conn.Close()
	if _, err := n.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{}); !strings.Contains(err.Error(), "the other side is sidecar/a, and a router was expected") {
		t.Errorf("a sidecar in the place of a router: %v", err)
	}
}

// TestTLS_ARouterAtTheAddressOfAnotherGetsNothing is why a router that dials asks who answers: the certificates of all routers of a machine fit its name.
func TestTLS_ARouterAtTheAddressOfAnotherGetsNothing(t *testing.T) {
	a := newAuthority(t)
	c := &cluster{t: t, nodes: map[string]*member{}, authority: a}
	logs := map[string]*logtest.Buffer{}
	c.prepare = func(m *member) {
		logs[m.id] = &logtest.Buffer{}
		m.log = slog.New(slog.NewTextHandler(logs[m.id], nil))
	}
	runCluster(c, 3)
	away := c.follower()
	away.stop()
	other := c.leader()
	asked := answerAs(t, away.conn.Target(), a.issue(certs.RoleRouter, other.id))
	want := fmt.Sprintf("the other side is router/%s, and router/%s was expected there", other.id, away.id)
	refused := func() {
		t.Helper()
		for _, log := range logs {
			log.Take()
		}
		await(t, func() string {
			for _, s := range other.info().GetServers() {
				if strings.HasPrefix(s.GetId(), away.id+"-") && !strings.Contains(s.GetProblem(), want) {
					return fmt.Sprintf("of router %s is said %q", away.id, s.GetProblem())
				}
			}
			for _, log := range logs { // the one of whoever leads
				if strings.Contains(log.String(), want) {
					return ""
				}
			}
			return "nobody has logged: " + want
		})
	}
	other.apply(simple...)
	refused()
	// With certificates that were renewed meanwhile it is the same.
	for _, m := range c.nodes {
		a.issue(certs.RoleRouter, m.id)
		if err := m.router.ReloadCertificates(); err != nil {
			t.Fatal(err)
		}
	}
	refused()
	if calls := asked(); len(calls) > 0 {
		t.Errorf("the wrong router was called: %v", calls)
	}
	away.start()
	away.awaitReady()
	await(t, func() string {
		list, err := away.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{Stale: true})
		if err != nil {
			return err.Error()
		}
		return differs(len(list.GetResources()), len(simple))
	})
}

// answerAs answers at an address with some certificate, and takes whatever is called. What it returns ends that, and says which methods were called.
func answerAs(t *testing.T, address string, files certs.Files) (end func() []string) {
	t.Helper()
	store, err := certs.Load(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var calls []string
	srv := grpc.NewServer(grpc.Creds(store.ServerCredentials()), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, method)
		return nil
	}))
	lis, served := listen(t, address), make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	end = sync.OnceValue(func() []string {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		return calls
	})
	t.Cleanup(func() { end() })
	return end
}

func TestTLS_RenewedCertificatesNeedNoRestart(t *testing.T) {
	a := newAuthority(t)
	c := runCluster(&cluster{t: t, nodes: map[string]*member{}, authority: a}, 3)
	c.follower().apply(simple...)
	for _, m := range c.nodes {
		a.issue(certs.RoleRouter, m.id) // over the old ones
	}
	for _, m := range c.nodes {
		if err := m.router.ReloadCertificates(); err != nil {
			t.Fatal(err)
		}
	}
	// New connections use the new ones, also those of routers among each other.
	c.leader().stop()
	fresh := a.as(c.follower(), certs.RoleAdmin, "bob")
	await(t, func() string {
		if _, err := fresh.tryApply(source("after", "file")); err != nil {
			return err.Error()
		}
		return ""
	})
}

func TestTLS_ARouterRefusesTheCertificateOfAnother(t *testing.T) {
	a := newAuthority(t)
	for _, other := range []certs.Files{a.issue(certs.RoleRouter, "2"), a.issue(certs.RoleSidecar, "any")} {
		cfg := testConfig(t.TempDir())
		cfg.ListenHost, cfg.TLS = "127.0.0.1", other
		_, err := router.New(cfg, nil)
		if fault := (*certs.Error)(nil); !errors.As(err, &fault) || !strings.Contains(err.Error(), "this is router/1 by its RAFT_NODE_ID") {
			t.Errorf("the certificate of %s: %v", other.Cert, err)
		}
	}
}

func TestTLS_ARouterThatRunsKeepsItsCertificateWhenThatOfAnotherComesInItsPlace(t *testing.T) {
	a := newAuthority(t)
	cfg := testConfig(t.TempDir())
	cfg.ListenHost, cfg.TLS = "127.0.0.1", a.issue(certs.RoleRouter, "1")
	r, err := router.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := a.ca.Issue(certs.Identity{Role: certs.RoleRouter, Name: "3"}, nil, time.Hour, filepath.Dir(cfg.TLS.Cert)); err != nil {
		t.Fatal(err)
	}
	if err := r.ReloadCertificates(); err == nil || !strings.Contains(err.Error(), "it is the certificate of router/3, and this is router/1 by its RAFT_NODE_ID") {
		t.Errorf("taken over: %v", err)
	}
}

func TestTLS_MetricsTellWhenTheCertificateEnds(t *testing.T) {
	a := newAuthority(t)
	c := runCluster(&cluster{t: t, nodes: map[string]*member{}, authority: a}, 1)
	m := c.leader()
	store, err := certs.Load(m.cfg.TLS, nil)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := web.Get("http://" + m.router.OpsAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	want := fmt.Sprintf("conveyor_router_certificate_end_timestamp_seconds %v\n", float64(store.End().Unix()))
	if err := errors.Join(err, resp.Body.Close()); err != nil || !strings.Contains(string(body), want) {
		t.Errorf("%v, want %q in:\n%s", err, want, body)
	}
}
