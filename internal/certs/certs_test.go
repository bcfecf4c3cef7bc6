package certs_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{}
	_, a.cert, a.key = sign(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// write makes a certificate for localhost and puts the three files into dir.
func (a *authority) write(t *testing.T, dir string) certs.Files {
	t.Helper()
	return a.writeAs(t, dir, func(*x509.Certificate) {})
}

// writeAs is like write for a certificate that differs.
func (a *authority) writeAs(t *testing.T, dir string, change func(*x509.Certificate)) certs.Files {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "part"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(template)
	der, _, key := sign(t, a, template)
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := certs.Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	writePEM(t, f.Cert, "CERTIFICATE", der)
	writePEM(t, f.Key, "EC PRIVATE KEY", keyDER)
	writePEM(t, f.CA, "CERTIFICATE", a.cert.Raw)
	return f
}

func sign(t *testing.T, by *authority, c *x509.Certificate) ([]byte, *x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	// Wide enough for real and for simulated clocks.
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return der, cert, key
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, f certs.Files) *certs.Store {
	t.Helper()
	s, err := certs.Load(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve runs a gRPC server with the store's credentials and returns its address.
func serve(t *testing.T, s *certs.Store) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(s.ServerCredentials()))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String()
}

// check makes a call over a new connection.
func check(t *testing.T, addr string, creds credentials.TransportCredentials) error {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

func TestStore_BothSidesMustShowCertificatesOfTheAuthority(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	server := load(t, ours.write(t, t.TempDir()))
	stranger := load(t, theirs.write(t, t.TempDir()))
	addr := serve(t, server)

	if err := check(t, addr, load(t, ours.write(t, t.TempDir())).ClientCredentials()); err != nil {
		t.Errorf("a part of the same authority: %v", err)
	}
	withRoots := func(change func(*tls.Config)) credentials.TransportCredentials {
		c := server.ClientConfig("")
		change(c)
		return credentials.NewTLS(c)
	}
	for name, creds := range map[string]credentials.TransportCredentials{
		"no certificate": withRoots(func(c *tls.Config) { c.Certificates = nil }),
		"certificate of another": withRoots(func(c *tls.Config) {
			// Go's clients hold back a certificate that the server did not ask for; an attacker does not.
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &stranger.ClientConfig("").Certificates[0], nil
			}
		}),
		"server of another authority":  stranger.ClientCredentials(),
		"server under another name":    withRoots(func(c *tls.Config) { c.ServerName = "elsewhere" }),
		"a version of TLS before 1.3 ": withRoots(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }),
	} {
		if err := check(t, addr, creds); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestStore_WatchTakesOverWholeSetsOnly(t *testing.T) {
	ours := newAuthority(t, "ours")
	dir := t.TempDir()
	files := ours.write(t, dir)
	old, err := os.ReadFile(files.Key)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s, err := certs.Load(files, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Watch(ctx, 0) }()
		serial := func() *big.Int { return s.ClientConfig("").Certificates[0].Leaf.SerialNumber }
		begin := serial()

		ours.write(t, dir)
		renewed, err := os.ReadFile(files.Key)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files.Key, old, 0o600); err != nil { // the new key is not there yet
			t.Fatal(err)
		}
		time.Sleep(5 * certs.PollInterval)
		synctest.Wait()
		if serial().Cmp(begin) != 0 {
			t.Error("a certificate without its key was taken over")
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings, want 1:\n%s", n, log.String())
		}
		if err := os.WriteFile(files.Key, renewed, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * certs.PollInterval)
		synctest.Wait()
		if serial().Cmp(begin) == 0 {
			t.Error("the renewed certificate was not taken over")
		}
		if !strings.Contains(log.String(), "certificates renewed") {
			t.Errorf("log: %s", log.String())
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch = %v", err)
		}
	})
}

func TestLoad_NamesTheFault(t *testing.T) {
	good := newAuthority(t, "a").write(t, t.TempDir())
	other := newAuthority(t, "b").write(t, t.TempDir())
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name  string
		files certs.Files
		want  string
	}{
		{"two of three", certs.Files{Cert: good.Cert, CA: good.CA}, "TLS_KEY_FILE: not set"},
		{"one of three", certs.Files{Key: good.Key}, "TLS_CERT_FILE, TLS_CA_FILE: not set"},
		{"none", certs.Files{}, "no certificates are configured"},
		{"missing file", certs.Files{Cert: good.Cert, Key: good.Key + "x", CA: good.CA}, "TLS_KEY_FILE: open " + good.Key + "x"},
		{"key of another", certs.Files{Cert: good.Cert, Key: other.Key, CA: good.CA}, "TLS_KEY_FILE " + other.Key},
		{"no certificate", certs.Files{Cert: junk, Key: good.Key, CA: good.CA}, "TLS_CERT_FILE " + junk},
		{"no authority", certs.Files{Cert: good.Cert, Key: good.Key, CA: junk}, "TLS_CA_FILE " + junk},
	}
	for _, tc := range cases {
		if _, err := certs.Load(tc.files, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q in it", tc.name, err, tc.want)
		}
	}
	if err := (certs.Files{}).Validate(); err != nil {
		t.Errorf("none is valid: %v", err)
	}
	if _, err := certs.Load(certs.Files{Cert: "/nowhere/a", Key: "/nowhere/b", CA: good.CA}, nil); err == nil ||
		!strings.Contains(err.Error(), "/nowhere/a") || !strings.Contains(err.Error(), "/nowhere/b") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("two missing files: %v", err)
	}
}

func TestAuthority_FilesAreForTheirOwnerOnlyAndAreNotOverwritten(t *testing.T) {
	dir := t.TempDir()
	a, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	if err := a.Save(cert, key); err != nil {
		t.Fatal(err)
	}
	if err := a.Save(cert, key); !errors.Is(err, os.ErrExist) {
		t.Errorf("saved over an authority: %v", err)
	}
	again, err := certs.LoadAuthority(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	files, err := again.Issue(certs.Identity{Role: certs.RoleRouter, Name: "1"}, []string{"localhost", "::1"}, time.Hour, filepath.Join(dir, "router-1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{cert, key, files.Cert, files.Key, files.CA} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info, err)
		}
	}
	if _, err := certs.Load(files, nil); err != nil {
		t.Error(err)
	}
	if _, err := again.Issue(certs.Identity{Role: certs.RoleRouter, Name: "1"}, nil, 20*365*24*time.Hour, dir); err == nil {
		t.Error("a certificate outlives its authority")
	}
	if _, err := again.Issue(certs.Identity{Role: "king", Name: "1"}, nil, time.Hour, dir); err == nil {
		t.Error("a certificate of an unknown role")
	}
	other, err := certs.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Save(filepath.Join(dir, "other.crt"), filepath.Join(dir, "other.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.LoadAuthority(cert, filepath.Join(dir, "other.key")); err == nil || !strings.Contains(err.Error(), "is not the key of") {
		t.Errorf("a key of another authority: %v", err)
	}
}

func TestIdentity_IsReadOnlyWhereItIsPlain(t *testing.T) {
	for uris, ok := range map[string]bool{
		"conveyor://router/1":                      true,
		"conveyor://router/1 spiffe://x/y":         true,
		"conveyor://router/1 conveyor://admin/bob": false,
		"spiffe://x/y":                             false,
		"conveyor://king/1":                        false,
		"conveyor://router/":                       false,
		"conveyor://router/1/2":                    false,
		"conveyor://router/a?b=c":                  false,
		"conveyor://user@router/1":                 false,
	} {
		c := &x509.Certificate{}
		for u := range strings.FieldsSeq(uris) {
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, parsed)
		}
		id, err := certs.IdentityOf(c)
		if (err == nil) != ok {
			t.Errorf("%s: %v, %v", uris, id, err)
		}
	}
}
