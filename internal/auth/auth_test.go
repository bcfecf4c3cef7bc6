package auth_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/auth"
	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table lets admins check; nobody may watch, for which there is no rule.
var table = auth.Table{healthpb.Health_Check_FullMethodName: {certs.RoleAdmin}, healthpb.Health_List_FullMethodName: nil}

// service answers with who called.
type service struct {
	healthpb.UnimplementedHealthServer
	caller, via string
}

func (s *service) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s.caller, s.via = auth.Name(ctx), ""
	if via, ok := auth.ForwardedBy(ctx); ok {
		s.via = via.String()
	}
	return &healthpb.HealthCheckResponse{}, nil
}

func (s *service) Watch(*healthpb.HealthCheckRequest, grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	return nil
}

type world struct {
	t    *testing.T
	ca   *certs.Authority
	dir  string
	addr string
	*service
}

func start(t *testing.T, withTLS bool) *world {
	t.Helper()
	ca, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: ca, dir: t.TempDir(), service: &service{}}
	cfg := rpc.ServerConfig{Unary: []grpc.UnaryServerInterceptor{table.Unary}, Stream: []grpc.StreamServerInterceptor{table.Stream}}
	if withTLS {
		cfg.TLS = w.store(certs.RoleRouter, "1").ServerCredentials()
	}
	srv := grpc.NewServer(rpc.ServerOptions(cfg)...)
	healthpb.RegisterHealthServer(srv, w.service)
	var lc net.ListenConfig
	lis, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = lis.Addr().String()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() { srv.Stop(); <-served })
	return w
}

func (w *world) store(role certs.Role, name string) *certs.Store {
	w.t.Helper()
	files, err := w.ca.Issue(certs.Identity{Role: role, Name: name}, []string{"127.0.0.1"}, time.Hour, filepath.Join(w.dir, string(role)+name))
	if err != nil {
		w.t.Fatal(err)
	}
	store, err := certs.Load(files, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return store
}

func (w *world) client(cfg rpc.DialConfig) healthpb.HealthClient {
	w.t.Helper()
	conn, err := rpc.Dial(w.addr, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return healthpb.NewHealthClient(conn)
}

func (w *world) as(role certs.Role, name string) healthpb.HealthClient {
	return w.client(rpc.DialConfig{TLS: w.store(role, name).ClientCredentials(certs.RoleRouter)})
}

func (w *world) refused(what string, err error, code codes.Code, says string) {
	w.t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), says) {
		w.t.Errorf("%s: %v, want %v with %q", what, err, code, says)
	}
}

func TestTable_OnlyTheRolesOfARuleMayCall(t *testing.T) {
	w := start(t, true)
	if _, err := w.as(certs.RoleAdmin, "alice").Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || w.caller != "admin/alice" {
		t.Errorf("an admin: %v, taken for %s", err, w.caller)
	}
	_, err := w.as(certs.RoleSidecar, "s").Check(t.Context(), &healthpb.HealthCheckRequest{})
	w.refused("a sidecar", err, codes.PermissionDenied, "sidecar/s may not call /grpc.health.v1.Health/Check: that is for the role admin")
}

func TestTable_NobodyMayCallAMethodWithoutARule(t *testing.T) {
	for _, withTLS := range []bool{true, false} {
		w := start(t, withTLS)
		c := w.client(rpc.DialConfig{})
		if withTLS {
			c = w.as(certs.RoleAdmin, "alice")
		}
		stream, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		w.refused("a method without a rule", err, codes.PermissionDenied, "nobody may call")
	}
}

func TestTable_OnlyARouterCallsForSomebodyElse(t *testing.T) {
	w := start(t, true)
	passed := func(id string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "conveyor-caller", id)
	}
	router := w.as(certs.RoleRouter, "2")
	if _, err := router.Check(passed("admin/bob"), &healthpb.HealthCheckRequest{}); err != nil || w.caller != "admin/bob" {
		t.Errorf("passed on by a router: %v, taken for %s", err, w.caller)
	}
	_, err := router.Check(passed("sidecar/s"), &healthpb.HealthCheckRequest{})
	w.refused("passed on for a sidecar", err, codes.PermissionDenied, "sidecar/s may not call")
	_, err = router.Check(passed("root/x"), &healthpb.HealthCheckRequest{})
	w.refused("passed on for nobody", err, codes.Unauthenticated, `role "root" is not one of`)
	_, err = w.as(certs.RoleSidecar, "s").Check(passed("admin/bob"), &healthpb.HealthCheckRequest{})
	w.refused("a sidecar that says it is an admin", err, codes.PermissionDenied, "sidecar/s may not call for somebody else")
	// Without certificates everybody is local, and nobody is more.
	local := start(t, false)
	if _, err := local.client(rpc.DialConfig{}).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || local.caller != "local" {
		t.Errorf("a local caller: %v, taken for %s", err, local.caller)
	}
	_, err = local.client(rpc.DialConfig{}).Check(passed("admin/bob"), &healthpb.HealthCheckRequest{})
	local.refused("a local caller that says it is an admin", err, codes.PermissionDenied, "local may not call for somebody else")
}

func TestTable_AConnectionThatProvesNothingIsRefused(t *testing.T) {
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	chain := func(c *x509.Certificate) credentials.TLSInfo {
		return credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}}
	}
	unverified := chain(&x509.Certificate{URIs: []*url.URL{{Scheme: "conveyor", Host: "admin", Path: "/alice"}}})
	unverified.State.VerifiedChains = nil
	w := &world{t: t}
	for what, from := range map[string]*peer.Peer{
		"plaintext from elsewhere":            {Addr: tcp("192.0.2.1")},
		"plaintext from an unknown network":   {},
		"security of another kind":            {Addr: tcp("127.0.0.1"), AuthInfo: otherSecurity{}},
		"a certificate without an identity":   {Addr: tcp("127.0.0.1"), AuthInfo: chain(&x509.Certificate{})},
		"a certificate that was not verified": {Addr: tcp("127.0.0.1"), AuthInfo: unverified},
		"nothing known of the connection":     nil,
	} {
		ctx := t.Context()
		if from != nil {
			ctx = peer.NewContext(ctx, from)
		}
		_, err := table.Unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: healthpb.Health_Check_FullMethodName}, func(ctx context.Context, _ any) (any, error) {
			t.Errorf("%s: let in as %s", what, auth.Name(ctx))
			return nil, nil
		})
		w.refused(what, err, codes.Unauthenticated, "")
	}
}

// otherSecurity is not TLS.
type otherSecurity struct{}

func (otherSecurity) AuthType() string { return "other" }

func TestCaller_IsNobodyWhereNoTableLooked(t *testing.T) {
	if got := auth.Caller(t.Context()); got == auth.Local || got.Validate() == nil {
		t.Errorf("Caller = %v, who may do something", got)
	}
	if via, ok := auth.ForwardedBy(t.Context()); ok {
		t.Errorf("ForwardedBy = %v", via)
	}
}

func TestForward_TakesTheCallerToTheNextRouter(t *testing.T) {
	leader := start(t, true)
	hop := func(ctx context.Context, _ any) (any, error) {
		resp, err := leader.as(certs.RoleRouter, "2").Check(auth.Forward(ctx), &healthpb.HealthCheckRequest{})
		return resp, err
	}
	for _, tc := range []struct {
		role certs.Role
		code codes.Code
	}{{certs.RoleAdmin, codes.OK}, {certs.RoleSidecar, codes.PermissionDenied}} {
		leaf, err := x509.ParseCertificate(leader.store(tc.role, "x").ClientConfig("").Certificates[0].Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		from := &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}}}
		everybody := auth.Table{healthpb.Health_Check_FullMethodName: {certs.RoleAdmin, certs.RoleSidecar}}
		_, err = everybody.Unary(peer.NewContext(t.Context(), from), nil, &grpc.UnaryServerInfo{FullMethod: healthpb.Health_Check_FullMethodName}, hop)
		if status.Code(err) != tc.code {
			t.Errorf("%s by way of a router: %v", tc.role, err)
		}
	}
	if leader.caller != "admin/x" || leader.via != "router/2" {
		t.Errorf("taken for %s, by way of %s", leader.caller, leader.via)
	}
}

func TestTable_CheckNamesWhatIsMissing(t *testing.T) {
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, &service{})
	err := auth.Table{healthpb.Health_Check_FullMethodName: nil, "/x.Y/Z": nil}.Check(srv)
	for _, want := range []string{"/grpc.health.v1.Health/Watch has no rule", "/x.Y/Z has a rule and is no method"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func TestIsRouter_BelievesACertificateOfARouterOnly(t *testing.T) {
	w := start(t, true)
	for role, want := range map[certs.Role]bool{certs.RoleRouter: true, certs.RoleSidecar: false, certs.RoleAdmin: false} {
		config := w.store(role, "1").ClientConfig("")
		leaf, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
		if auth.IsRouter(credentials.TLSInfo{State: state}) {
			t.Errorf("the certificate of a %s is believed though nobody has checked it", role)
		}
		state.VerifiedChains = [][]*x509.Certificate{{leaf}}
		if got := auth.IsRouter(credentials.TLSInfo{State: state}); got != want {
			t.Errorf("a %s is taken for a router: %t", role, got)
		}
	}
	if auth.IsRouter(nil) {
		t.Error("a connection without security is taken for a router's")
	}
}
