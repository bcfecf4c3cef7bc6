package certs_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/logging/logtest"
)

// bundle writes the certificates of several files into one.
func bundle(t *testing.T, files ...string) string {
	t.Helper()
	var all []byte
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text...)
	}
	out := filepath.Join(t.TempDir(), "ca.crt")
	put(t, out, all)
	return out
}

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace puts files in place of others.
func replace(t *testing.T, to, from certs.Files) {
	t.Helper()
	for dst, src := range map[string]string{to.Cert: from.Cert, to.Key: from.Key, to.CA: from.CA} {
		text, err := os.ReadFile(src)
		if err != nil {
			t.Fatal(err)
		}
		put(t, dst, text)
	}
}

func as(identity string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, err := url.Parse("conveyor://" + identity)
		if err != nil {
			panic(err)
		}
		c.URIs = []*url.URL{u}
	}
}

func expired(c *x509.Certificate) {
	as("router/1")(c)
	c.NotAfter = time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)
}

func future(c *x509.Certificate) {
	as("router/1")(c)
	c.NotBefore = time.Date(2080, 1, 1, 0, 0, 0, 0, time.UTC)
}

// isRouter1 is how a router finds out whether a certificate is its own.
func isRouter1(got certs.Identity) error {
	if got.String() != "router/1" {
		return fmt.Errorf("it is the certificate of %s, and this is router/1", got)
	}
	return nil
}

func serial(s *certs.Store) *big.Int { return s.ClientConfig("").Certificates[0].Leaf.SerialNumber }

// unusable are files that a part neither starts with nor changes to.
func unusable(t *testing.T, ours *authority) map[string]struct {
	files certs.Files
	want  string
} {
	theirs := newAuthority(t, "theirs")
	strange := theirs.writeAs(t, t.TempDir(), as("router/1"))
	mixed := strange
	mixed.CA = ours.writeAs(t, t.TempDir(), as("router/1")).CA
	clientOnly := ours.writeAs(t, t.TempDir(), func(c *x509.Certificate) {
		as("router/1")(c)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	return map[string]struct {
		files certs.Files
		want  string
	}{
		"expired":              {ours.writeAs(t, t.TempDir(), expired), "the certificate of router/1 ended on 1999-12-31 00:00:00 UTC"},
		"not valid yet":        {ours.writeAs(t, t.TempDir(), future), "the certificate of router/1 is not valid before 2080-01-01"},
		"of another router":    {ours.writeAs(t, t.TempDir(), as("router/2")), "it is the certificate of router/2, and this is router/1"},
		"of a sidecar":         {ours.writeAs(t, t.TempDir(), as("sidecar/any")), "it is the certificate of sidecar/any"},
		"of nobody":            {ours.write(t, t.TempDir()), "names no identity"},
		"of another authority": {mixed, "no authority in TLS_CA_FILE " + mixed.CA + " vouches for the certificate of router/1"},
		"for clients only":     {clientOnly, "incompatible key usage"},
	}
}

func TestLoad_RefusesWhatOthersWouldNotBelieve(t *testing.T) {
	for name, tc := range unusable(t, newAuthority(t, "ours")) {
		_, err := certs.LoadOwn(tc.files, isRouter1, nil)
		if fault := (*certs.Error)(nil); !errors.As(err, &fault) || !says(err, tc.want) || !says(err, tc.files.Cert) {
			t.Errorf("%s: %v, want %q in it", name, err, tc.want)
		}
	}
}

func TestReload_KeepsTheOldFilesWhenTheNewOnesAreOfNoUse(t *testing.T) {
	ours := newAuthority(t, "ours")
	files := ours.writeAs(t, t.TempDir(), as("router/1"))
	s, err := certs.LoadOwn(files, isRouter1, nil)
	if err != nil {
		t.Fatal(err)
	}
	begin := serial(s)
	cases := unusable(t, ours)
	cases["of another cluster"] = struct {
		files certs.Files
		want  string
	}{newAuthority(t, "ours").writeAs(t, t.TempDir(), as("router/1")), "these are the files of another cluster"}
	for name, tc := range cases {
		replace(t, files, tc.files)
		want := strings.ReplaceAll(tc.want, tc.files.CA, files.CA)
		if changed, err := s.Reload(); changed || !says(err, want) {
			t.Errorf("%s: Reload = %v, %v, want %q", name, changed, err, want)
		}
		if serial(s).Cmp(begin) != 0 {
			t.Fatalf("%s: taken over", name)
		}
	}
	replace(t, files, ours.writeAs(t, t.TempDir(), as("router/1")))
	if changed, err := s.Reload(); !changed || err != nil {
		t.Errorf("one's own: Reload = %v, %v", changed, err)
	}
}

func TestReload_ThePartStaysWhoItIs(t *testing.T) {
	ours := newAuthority(t, "ours")
	files := ours.writeAs(t, t.TempDir(), as("admin/alice"))
	s := load(t, files)
	replace(t, files, ours.writeAs(t, t.TempDir(), as("admin/bob")))
	if _, err := s.Reload(); !says(err, "it is the certificate of admin/bob, and this is admin/alice") {
		t.Error(err)
	}
}

// Parts change one after the other, and talk to each other all the time.
func TestRenewal_OfTheAuthorityNeedsNoRestart(t *testing.T) {
	before, after := newAuthority(t, "before"), newAuthority(t, "after")
	old, fresh := before.write(t, t.TempDir()), after.write(t, t.TempDir())
	both := bundle(t, old.CA, fresh.CA)
	serverFiles, clientFiles := before.write(t, t.TempDir()), before.write(t, t.TempDir())
	server, client := load(t, serverFiles), load(t, clientFiles)
	addr, creds := serve(t, server), client.ClientCredentials()
	talk := func(when string) {
		t.Helper()
		if err := check(t, addr, creds); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	talk("before")
	if changed, err := server.Reload(); changed || err != nil {
		t.Errorf("Reload of the same files = %v, %v", changed, err)
	}
	for _, step := range []struct {
		name string
		to   certs.Files
	}{
		{"both authorities", certs.Files{Cert: old.Cert, Key: old.Key, CA: both}},
		{"new certificates", certs.Files{Cert: fresh.Cert, Key: fresh.Key, CA: both}},
		{"the new authority only", fresh},
	} {
		for who, part := range map[string]struct {
			store *certs.Store
			files certs.Files
		}{"server": {server, serverFiles}, "client": {client, clientFiles}} {
			replace(t, part.files, step.to)
			if changed, err := part.store.Reload(); !changed || err != nil {
				t.Errorf("%s at the %s: Reload = %v, %v", step.name, who, changed, err)
			}
			talk(step.name + " at the " + who)
		}
	}
	if err := check(t, addr, load(t, old).ClientCredentials()); err == nil {
		t.Error("the old authority is still trusted")
	}
}

// watch runs Watch and returns the lines that it has logged so far.
func watch(t *testing.T, files certs.Files, interval time.Duration) func() string {
	t.Helper()
	var log logtest.Buffer
	s, err := certs.LoadOwn(files, isRouter1, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, interval) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch = %v", err)
		}
	})
	return func() string {
		synctest.Wait()
		return log.Take()
	}
}

func TestWatch_SaysOnceForEachChangeWhatIsWrongWithIt(t *testing.T) {
	ours := newAuthority(t, "ours")
	files := ours.writeAs(t, t.TempDir(), as("router/1"))
	faulty := unusable(t, ours)
	synctest.Test(t, func(t *testing.T) {
		logged := watch(t, files, 0)
		for _, name := range []string{"expired", "of another authority", "of another router", "of another router"} {
			next := faulty[name]
			if name == "of another router" { // a new one each time, with the same fault
				next.files = ours.writeAs(t, t.TempDir(), as("router/2"))
			}
			replace(t, files, next.files)
			time.Sleep(10 * certs.PollInterval)
			lines := logged()
			want := strings.ReplaceAll(next.want, next.files.CA, files.CA)
			if strings.Count(lines, "level=") != 1 || !strings.Contains(lines, "level=WARN") || !strings.Contains(lines, want) ||
				!strings.Contains(lines, `in use until"=2090-01-01`) {
				t.Errorf("%s: want one line with %q and when the present one ends:\n%s", name, want, lines)
			}
		}
		if err := os.Remove(files.Key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * certs.PollInterval)
		if lines := logged(); strings.Count(lines, "level=") != 1 || !strings.Contains(lines, "TLS_KEY_FILE: open "+files.Key) {
			t.Errorf("a file is missing:\n%s", lines)
		}
	})
}

func TestWatch_AnnouncesTheEndEachDay(t *testing.T) {
	ours := newAuthority(t, "ours")
	for name, tc := range map[string]struct {
		life, quiet time.Duration
	}{
		"14 days of a long life":    {365 * 24 * time.Hour, 351*24*time.Hour - time.Hour},
		"a tenth of a shorter life": {20 * 24 * time.Hour, 18*24*time.Hour - time.Hour},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			now := time.Now()
			files := ours.writeAs(t, dir, func(c *x509.Certificate) {
				as("router/1")(c)
				c.NotBefore, c.NotAfter = now, now.Add(tc.life)
			})
			logged := watch(t, files, time.Hour)
			time.Sleep(tc.quiet)
			if lines := logged(); lines != "" {
				t.Errorf("%s: announced too early:\n%s", name, lines)
			}
			time.Sleep(2 * time.Hour)
			if lines := logged(); strings.Count(lines, "level=WARN") != 1 || !strings.Contains(lines, "ends soon") ||
				!strings.Contains(lines, "file="+files.Cert+" until="+now.Add(tc.life).Format(time.DateOnly)) {
				t.Errorf("%s: the end is near:\n%s", name, lines)
			}
			time.Sleep(24 * time.Hour)
			if lines := logged(); strings.Count(lines, "level=WARN") != 1 {
				t.Errorf("%s: a day later:\n%s", name, lines)
			}
			time.Sleep(time.Until(now.Add(tc.life + time.Hour)))
			if lines := logged(); strings.Count(lines, "level=ERROR") != 1 || !strings.Contains(lines, "has ended") {
				t.Errorf("%s: it has ended:\n%s", name, lines)
			}
		})
	}
}

func TestLoad_WarnsOnceOfAKeyThatOthersCanRead(t *testing.T) {
	files := newAuthority(t, "ours").write(t, t.TempDir())
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o604: true} {
		if err := os.Chmod(files.Key, mode); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s, err := certs.Load(files, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		lines := log.String()
		if got := strings.Count(lines, "level=WARN") == 1 && strings.Contains(lines, "chmod 600 "+files.Key); got != warned || !warned && lines != "" {
			t.Errorf("%04o: %s", mode, lines)
		}
		if got := strings.Join(s.Warnings(), ""); strings.Contains(got, "chmod 600 "+files.Key) != warned {
			t.Errorf("%04o: %s", mode, got)
		}
	}
}

func TestEnd_IsThatOfTheAuthorityWhenItEndsFirst(t *testing.T) {
	a := &authority{}
	ends := time.Date(2070, 1, 1, 0, 0, 0, 0, time.UTC)
	_, a.cert, a.key = sign(t, nil, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: ends})
	if got := load(t, a.write(t, t.TempDir())).End(); !got.Equal(ends) {
		t.Errorf("ends %v, want %v", got, ends)
	}
}
