package embed_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/conveyor-etl/conveyor/dlq/dlqtest"
	"github.com/conveyor-etl/conveyor/dlq/embed"
)

// patience bounds every wait: elections of the servers take some seconds.
const patience = 40 * time.Second

// await tries until it works.
func await(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func members(t *testing.T, s *embed.Server) ([]embed.Member, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	return s.Members(ctx)
}

// current waits until the server sees these members, and all of them current.
func current(t *testing.T, s *embed.Server, names ...string) {
	t.Helper()
	await(t, func() error {
		members, err := members(t, s)
		if err != nil {
			return err
		}
		found, leaders := map[string]bool{}, 0
		for _, m := range members {
			found[m.Name] = m.Current
			if m.Leader {
				leaders++
			}
		}
		for _, name := range names {
			if !found[name] || len(found) != len(names) || leaders != 1 {
				return fmt.Errorf("members %+v, want %v", members, names)
			}
		}
		return nil
	})
}

func TestCluster_ListensAtItsRoutePortOnly(t *testing.T) {
	routes := dlqtest.FreeAddresses(t, 3)
	before := listening(t)
	open(t, embed.Config{Dir: t.TempDir(), ServerName: "1-a", Cluster: &embed.Cluster{Name: "c", Listen: routes[0], Routes: routes}})
	opened := 0
	for inode := range listening(t) {
		if !before[inode] {
			opened++
		}
	}
	if opened != 1 {
		t.Errorf("%d ports were opened, want that of the routes", opened)
	}
	conn, err := net.Dial("tcp", routes[0])
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestCluster_RefusesAnAddressOfTheNetworkWithoutCertificates(t *testing.T) {
	for name, c := range map[string]embed.Cluster{
		"listens everywhere":     {Name: "c", Listen: ":6222", Routes: []string{"127.0.0.1:6222", "127.0.0.1:6223"}},
		"dials the network":      {Name: "c", Listen: "127.0.0.1:6222", Routes: []string{"127.0.0.1:6222", "router-2.example:6222"}},
		"a role and no way":      {Name: "c", Listen: "127.0.0.1:6222", Routes: []string{"127.0.0.1:6222", "127.0.0.1:6223"}, VerifyPeer: roleOf("router")},
		"nobody else":            {Name: "c", Listen: "127.0.0.1:6222", Routes: []string{"127.0.0.1:6222"}},
		"no name":                {Listen: "127.0.0.1:6222", Routes: []string{"127.0.0.1:6222", "127.0.0.1:6223"}},
		"believes who dials":     {Name: "c", Listen: ":6222", Routes: []string{"a:6222", "b:6222"}, TLS: &tls.Config{Certificates: make([]tls.Certificate, 1)}},
		"believes whom it dials": {Name: "c", Listen: ":6222", Routes: []string{"a:6222", "b:6222"}, TLS: &tls.Config{Certificates: make([]tls.Certificate, 1), ClientAuth: tls.RequireAndVerifyClientCert, InsecureSkipVerify: true}},
		"shows nothing":          {Name: "c", Listen: ":6222", Routes: []string{"a:6222", "b:6222"}, TLS: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			if s, err := embed.Open(embed.Config{Dir: dir, ServerName: "1-a", Cluster: &c}); err == nil {
				t.Fatal("opened", s.Close())
			} else {
				t.Log(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "jetstream")); err == nil {
				t.Error("files were made")
			}
		})
	}
}

func TestDirectory_BelongsToOneKindOfServerForEver(t *testing.T) {
	routes := dlqtest.FreeAddresses(t, 3)
	cluster := func(name string) *embed.Cluster { return &embed.Cluster{Name: name, Listen: routes[0], Routes: routes} }
	alone, shared := t.TempDir(), t.TempDir()
	for _, cfg := range []embed.Config{{Dir: alone}, {Dir: shared, ServerName: "1-a", Cluster: cluster("c")}} {
		if err := open(t, cfg).Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, says string
		cfg        embed.Config
	}{
		{"a lone one's in a cluster", "dlq.Migrate", embed.Config{Dir: alone, ServerName: "1-a", Cluster: cluster("c")}},
		{"a cluster's alone", "start it in its cluster", embed.Config{Dir: shared}},
		{"another cluster's", "that of server 1-a of cluster c, not of server 1-a of cluster d", embed.Config{Dir: shared, ServerName: "1-a", Cluster: cluster("d")}},
		{"another server's", "remove the directory", embed.Config{Dir: shared, ServerName: "1-b", Cluster: cluster("c")}},
	} {
		refused := func() {
			t.Helper()
			s, err := embed.Open(c.cfg)
			if err == nil {
				t.Fatal(c.name, "opened", s.Close())
			}
			if !errors.Is(err, embed.ErrOtherMode) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.cfg.Dir) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		refused()
		// A directory from before there were such files says it by what is in it, except for the names.
		if err := os.Remove(filepath.Join(c.cfg.Dir, "conveyor.json")); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(c.name, "another") {
			refused()
		}
		own := embed.Config{Dir: c.cfg.Dir}
		if c.cfg.Dir == shared {
			own.ServerName, own.Cluster = "1-a", cluster("c")
		}
		if err := open(t, own).Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(alone, "conveyor.json"), []byte(`{"mode":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := embed.Open(embed.Config{Dir: alone}); err == nil {
		t.Error("opened with a damaged marker", s.Close())
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key}
}

// config is that of a server with a certificate for this machine and role.
func (a *authority) config(t *testing.T, role string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: role}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

func roleOf(role string) func(*x509.Certificate) error {
	return func(c *x509.Certificate) error {
		if c.Subject.CommonName != role {
			return fmt.Errorf("it is not a %s's", role)
		}
		return nil
	}
}

// renewing is the same configuration in the form of parts that follow renewals: made anew for each server that dials.
func renewing(cfg *tls.Config) *tls.Config {
	return &tls.Config{
		Certificates: cfg.Certificates, RootCAs: cfg.RootCAs,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return cfg, nil },
	}
}

func TestCluster_MeetsServersWithCertificatesOfItsAuthorityAndRoleOnly(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	routes := dlqtest.FreeAddresses(t, 4)
	start := func(i int, name string, cfg *tls.Config, verify func(*x509.Certificate) error) *embed.Server {
		c := &embed.Cluster{Name: "c", Listen: routes[i], Routes: routes[:3], TLS: cfg, VerifyPeer: verify}
		return open(t, embed.Config{Dir: t.TempDir(), ServerName: name, MaxStoreBytes: 1 << 30, Cluster: c})
	}
	first := start(0, "1-a", ours.config(t, "router"), roleOf("router"))
	start(1, "2-a", renewing(ours.config(t, "router")), roleOf("router"))
	// Each of them would make the cluster complete, believes everybody, and both dials and is dialled.
	wrong := []*embed.Server{start(2, "3-other-ca", bothAuthorities(theirs.config(t, "router"), ours), nil)}
	wrong = append(wrong, start(3, "3-other-role", ours.config(t, "sidecar"), nil))
	// As long as a cluster takes that may begin.
	deadline := time.Now().Add(6 * time.Second)
	for time.Now().Before(deadline) {
		for _, s := range append(wrong, first) {
			if members, err := members(t, s); err != nil || len(members) > 0 {
				t.Fatalf("a cluster began: %+v, %v", members, err)
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	if err := wrong[0].Close(); err != nil {
		t.Fatal(err)
	}
	start(2, "3-a", ours.config(t, "router"), roleOf("router"))
	current(t, first, "1-a", "2-a", "3-a")
}

// bothAuthorities also believes those of another authority.
func bothAuthorities(cfg *tls.Config, other *authority) *tls.Config {
	cfg.RootCAs.AddCert(other.cert)
	return cfg
}

func TestCluster_ServersThatLostTheirDisksDoNotBeginWithoutTheOthers(t *testing.T) {
	t.Parallel()
	routes := dlqtest.FreeAddresses(t, 3)
	start := func(i int, name, dir string) *embed.Server {
		return open(t, embed.Config{Dir: dir, ServerName: name, MaxStoreBytes: 1 << 30, Cluster: &embed.Cluster{Name: "c", Listen: routes[i], Routes: routes}})
	}
	kept := t.TempDir() // of the third
	servers := []*embed.Server{start(0, "1-a", t.TempDir()), start(1, "2-a", t.TempDir()), start(2, "3-a", kept)}
	var js jetstream.JetStream
	await(t, func() (err error) {
		if js, err = servers[2].JetStream(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: 3})
		return err
	})
	await(t, func() error {
		_, err := js.Publish(t.Context(), "s", []byte("kept"))
		return err
	})
	await(t, func() error {
		info, err := js.Stream(t.Context(), "S")
		if err != nil {
			return err
		}
		for _, r := range info.CachedInfo().Cluster.Replicas {
			if !r.Current {
				return fmt.Errorf("copy at %s is not current", r.Name)
			}
		}
		return nil
	})
	for _, s := range servers {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	lostDir := t.TempDir()
	lost := []*embed.Server{start(0, "1-b", t.TempDir()), start(1, "2-b", lostDir)}
	never := func() {
		t.Helper()
		deadline := time.Now().Add(6 * time.Second)
		for time.Now().Before(deadline) {
			for _, s := range lost {
				if members, err := members(t, s); err != nil || len(members) > 0 {
					t.Fatalf("a cluster began anew: %+v, %v", members, err)
				}
			}
			<-time.After(50 * time.Millisecond)
		}
	}
	never()
	third := start(2, "3-a", kept)
	never()
	if !third.Founded() || lost[0].Founded() {
		t.Errorf("founded, says the one that has its disk: %t, and one that lost it: %t", third.Founded(), lost[0].Founded())
	}
	// Nor with other routes, by which only those that never agreed on anything count again.
	for _, s := range append(lost, third) {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	third = open(t, embed.Config{Dir: kept, ServerName: "3-a", MaxStoreBytes: 1 << 30, Cluster: &embed.Cluster{Name: "c", Listen: routes[2], Routes: routes[1:]}})
	lost = []*embed.Server{start(1, "2-b", lostDir), third}
	never()
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
	blocks, err := filepath.Glob(filepath.Join(kept, "jetstream", "$G", "streams", "S", "msgs", "*.blk"))
	if err != nil || len(blocks) == 0 {
		t.Errorf("the stream's files are gone: %v, %v", blocks, err)
	}
}
