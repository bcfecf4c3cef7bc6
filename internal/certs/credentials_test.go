package certs_test

import (
	"crypto/tls"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/internal/certs"
)

var loopback = []string{"localhost", "127.0.0.1", "::1"}

func newCA(t *testing.T) *certs.Authority {
	t.Helper()
	a, err := certs.NewAuthority(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes the files of a part and loads them.
func issue(t *testing.T, a *certs.Authority, role certs.Role, name string, hosts ...string) *certs.Store {
	t.Helper()
	return load(t, issueFiles(t, a, role, name, hosts...))
}

func issueFiles(t *testing.T, a *certs.Authority, role certs.Role, name string, hosts ...string) certs.Files {
	t.Helper()
	files, err := a.Issue(certs.Identity{Role: role, Name: name}, hosts, time.Hour, filepath.Join(t.TempDir(), "part"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func says(err error, what string) bool { return err != nil && strings.Contains(err.Error(), what) }

func TestClientCredentials_TheServerMustHaveTheRole(t *testing.T) {
	ca := newCA(t)
	client := issue(t, ca, certs.RoleSidecar, certs.AnyName)
	sidecar := serve(t, issue(t, ca, certs.RoleSidecar, "a", loopback...))
	if err := check(t, sidecar, client.ClientCredentials()); err != nil {
		t.Errorf("any role: %v", err)
	}
	if err := check(t, sidecar, client.ClientCredentials(certs.RoleRouter, certs.RoleSidecar)); err != nil {
		t.Errorf("one of two roles: %v", err)
	}
	if err := check(t, sidecar, client.ClientCredentials(certs.RoleRouter, certs.RoleOperator)); !says(err, "the other side is sidecar/a, and a router or operator was expected there") {
		t.Errorf("another role: %v", err)
	}
	// A certificate of the time before there were identities.
	old := newAuthority(t, "old")
	store := load(t, old.write(t, t.TempDir()))
	if err := check(t, serve(t, store), store.ClientCredentials(certs.RoleRouter)); !says(err, "names no identity") {
		t.Errorf("a server without an identity: %v", err)
	}
}

func TestClientCredentials_TheServerMustBeWhereItsCertificateSays(t *testing.T) {
	ca := newCA(t)
	client := issue(t, ca, certs.RoleAdmin, "alice")
	for _, host := range []string{"127.0.0.1", "localhost"} {
		for _, tc := range []struct {
			hosts []string
			ok    bool
		}{{[]string{host}, true}, {[]string{"elsewhere"}, false}, {[]string{"192.0.2.1"}, false}, {nil, false}} {
			_, port, _ := strings.Cut(serve(t, issue(t, ca, certs.RoleRouter, "1", tc.hosts...)), ":")
			for _, creds := range [][]certs.Role{{certs.RoleRouter}, nil} {
				if err := check(t, host+":"+port, client.ClientCredentials(creds...)); (err == nil) != tc.ok {
					t.Errorf("certificate of %v, dialled as %s: %v", tc.hosts, host, err)
				}
			}
		}
	}
}

func TestIdentityCredentials_KnowAServerByItsIdentity(t *testing.T) {
	ca := newCA(t)
	client := issue(t, ca, certs.RoleSidecar, "me")
	named := serve(t, issue(t, ca, certs.RoleSidecar, "a"))
	shared := serve(t, issue(t, ca, certs.RoleSidecar, certs.AnyName))
	if err := check(t, named, client.IdentityCredentials(certs.RoleSidecar, "a")); err != nil {
		t.Errorf("itself: %v", err)
	}
	if err := check(t, shared, client.IdentityCredentials(certs.RoleSidecar, "a")); err != nil {
		t.Errorf("a shared certificate: %v", err)
	}
	if err := check(t, named, client.IdentityCredentials(certs.RoleSidecar, "b")); !says(err, "the other side is sidecar/a, and sidecar/b was expected there") {
		t.Errorf("another sidecar: %v", err)
	}
	if err := check(t, named, client.IdentityCredentials(certs.RoleRouter, "a")); err == nil {
		t.Error("another role is trusted")
	}
	// The server of another authority that takes our certificates all the same.
	files, ours := issueFiles(t, newCA(t), certs.RoleSidecar, "a"), issueFiles(t, ca, certs.RoleSidecar, "a")
	files.CA = bundle(t, files.CA, ours.CA)
	foreign := serve(t, load(t, files))
	if err := check(t, foreign, client.IdentityCredentials(certs.RoleSidecar, "a")); err == nil {
		t.Error("the name is trusted without the authority")
	}
	sharedRouter := serve(t, issue(t, ca, certs.RoleRouter, certs.AnyName))
	if err := check(t, sharedRouter, client.IdentityCredentials(certs.RoleRouter, "1")); err == nil {
		t.Error("routers share a certificate")
	}
}

func TestHostCredentials_KnowAServerByItsIdentityAndByWhereItIs(t *testing.T) {
	ca := newCA(t)
	client := issue(t, ca, certs.RoleRouter, "1")
	if err := check(t, serve(t, issue(t, ca, certs.RoleRouter, "3", loopback...)), client.HostCredentials(certs.RoleRouter, "3")); err != nil {
		t.Errorf("itself: %v", err)
	}
	for name, tc := range map[string]struct {
		server *certs.Store
		says   string
	}{
		"another one on the same machine": {issue(t, ca, certs.RoleRouter, "2", loopback...), "the other side is router/2, and router/3 was expected there"},
		"another role":                    {issue(t, ca, certs.RoleSidecar, "3", loopback...), "the other side is sidecar/3, and router/3 was expected there"},
		"itself elsewhere":                {issue(t, ca, certs.RoleRouter, "3", "elsewhere"), "failed to verify certificate"},
		"one of all routers":              {issue(t, ca, certs.RoleRouter, certs.AnyName, loopback...), "router/3 was expected there"},
		"another authority":               {issue(t, newCA(t), certs.RoleRouter, "3", loopback...), "failed to verify certificate"},
	} {
		if err := check(t, serve(t, tc.server), client.HostCredentials(certs.RoleRouter, "3")); !says(err, tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHostCredentials_AskAtEachHandshake(t *testing.T) {
	ca := newCA(t)
	creds := issue(t, ca, certs.RoleRouter, "1").HostCredentials(certs.RoleRouter, "3")
	files := issueFiles(t, ca, certs.RoleRouter, "3", loopback...)
	anybody := func(certs.Identity) error { return nil }
	server, err := certs.LoadOwn(files, anybody, nil)
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, server)
	for _, step := range []struct{ name, says string }{{"3", ""}, {"2", "the other side is router/2, and router/3 was expected there"}, {"3", ""}} {
		replace(t, files, issueFiles(t, ca, certs.RoleRouter, step.name, loopback...))
		if _, err := server.Reload(); err != nil {
			t.Fatal(err)
		}
		if err := check(t, addr, creds); step.says == "" && err != nil || step.says != "" && !says(err, step.says) {
			t.Errorf("with a new certificate of router/%s: %v", step.name, err)
		}
	}
}

func TestPeerTLS_BothSidesMustHaveTheRole(t *testing.T) {
	ca := newCA(t)
	one, two := issue(t, ca, certs.RoleRouter, "1"), issue(t, ca, certs.RoleRouter, "2")
	sidecar := issue(t, ca, certs.RoleSidecar, "a")
	stranger := issue(t, newCA(t), certs.RoleRouter, "2")
	shake := func(server, client *tls.Config) error {
		lis, err := tls.Listen("tcp", "127.0.0.1:0", server)
		if err != nil {
			t.Fatal(err)
		}
		defer lis.Close()
		done := make(chan error, 1)
		go func() {
			conn, err := lis.Accept()
			if err == nil {
				_, err = conn.Write([]byte("x"))
				err = errors.Join(err, conn.Close())
			}
			done <- err
		}()
		d := tls.Dialer{Config: client}
		conn, err := d.DialContext(t.Context(), "tcp", lis.Addr().String())
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		return errors.Join(err, <-done)
	}
	if err := shake(one.PeerTLS(certs.RoleRouter), two.PeerTLS(certs.RoleRouter)); err != nil {
		t.Errorf("two routers: %v", err)
	}
	without := two.PeerTLS(certs.RoleRouter)
	without.GetClientCertificate = nil
	for name, pair := range map[string][2]*tls.Config{
		"a sidecar connects":  {one.PeerTLS(certs.RoleRouter), sidecar.PeerTLS(certs.RoleRouter)},
		"a sidecar listens":   {sidecar.PeerTLS(certs.RoleRouter), two.PeerTLS(certs.RoleRouter)},
		"a stranger connects": {one.PeerTLS(certs.RoleRouter), stranger.PeerTLS(certs.RoleRouter)},
		"a stranger listens":  {stranger.PeerTLS(certs.RoleRouter), two.PeerTLS(certs.RoleRouter)},
		"no certificate":      {one.PeerTLS(certs.RoleRouter), without},
	} {
		if err := shake(pair[0], pair[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
