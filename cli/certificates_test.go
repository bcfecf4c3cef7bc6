package cli_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/router"
)

func newAuthority(t *testing.T) *certs.Authority {
	t.Helper()
	ca, err := certs.NewAuthority(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// issued makes the files of a part, for loopback.
func issued(t *testing.T, ca *certs.Authority, role certs.Role, name string, validity time.Duration) certs.Files {
	t.Helper()
	files, err := ca.Issue(certs.Identity{Role: role, Name: name}, []string{"localhost", "127.0.0.1"}, validity, filepath.Join(t.TempDir(), "part"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// environment names files, as people do in their shell.
func environment(server string, files certs.Files) map[string]string {
	return map[string]string{"CONVEYOR_SERVER": server, "TLS_CERT_FILE": files.Cert, "TLS_KEY_FILE": files.Key, "TLS_CA_FILE": files.CA}
}

func TestCertificates_ThatNobodyWouldBelieveAreRefusedBeforeAnythingIsDialled(t *testing.T) {
	ca := newAuthority(t)
	good := issued(t, ca, certs.RoleAdmin, "any", time.Hour)
	foreign := good
	foreign.CA = issued(t, newAuthority(t), certs.RoleAdmin, "any", time.Hour).CA
	for want, files := range map[string]certs.Files{
		"the certificate of admin/any ended on":                   issued(t, ca, certs.RoleAdmin, "any", -time.Minute),
		"vouches for the certificate of admin/any":                foreign,
		"TLS_KEY_FILE: open " + good.Key + "x: no such file or d": {Cert: good.Cert, Key: good.Key + "x", CA: good.CA},
	} {
		r := conveyor(t, nil, "get", "sources", "--server", "127.0.0.1:1", "--tls-cert-file", files.Cert, "--tls-key-file", files.Key, "--tls-ca-file", files.CA)
		if r.code != 2 || !strings.Contains(r.stderr, "error[CERTIFICATES]: TLS_") || !strings.Contains(r.stderr, want) {
			t.Errorf("exit code %d, want %q in:\n%s", r.code, want, r.stderr)
		}
		if again := conveyor(t, environment("127.0.0.1:1", files), "get", "sources"); again.code != 2 || again.stderr != r.stderr {
			t.Errorf("from the environment: exit code %d, %s", again.code, again.stderr)
		}
	}
}

func TestCertificates_ThatEndSoonAreWarnedOf(t *testing.T) {
	files := issued(t, newAuthority(t), certs.RoleAdmin, "any", time.Minute) // of a life that began some minutes ago
	r := conveyor(t, environment("127.0.0.1:1", files), "get", "sources")
	if !strings.Contains(r.stderr, "warning: "+files.Cert+" ends on ") || r.stdout != "" {
		t.Errorf("%s", r.stderr)
	}
}

// running is the address of a router with these certificates, or without any.
func running(t *testing.T, files certs.Files) string {
	t.Helper()
	cfg := router.DefaultConfig()
	cfg.GRPCPort, cfg.OpsPort, cfg.DataDir, cfg.ListenHost, cfg.TLS = 0, 0, t.TempDir(), "127.0.0.1", files
	r, err := router.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r.Addr().String()
}

func TestCertificates_HintsSayWhoseCertificateIsNotTaken(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	server := running(t, issued(t, ours, certs.RoleRouter, "1", time.Hour))
	elsewhere, err := ours.Issue(certs.Identity{Role: certs.RoleRouter, Name: "1"}, []string{"elsewhere.example"}, time.Hour, filepath.Join(t.TempDir(), "part"))
	if err != nil {
		t.Fatal(err)
	}
	admin, stranger := issued(t, ours, certs.RoleAdmin, "any", time.Hour), issued(t, theirs, certs.RoleAdmin, "any", time.Hour)
	// One who has the authority of the server, but no certificate of it.
	both := stranger
	both.CA = filepath.Join(t.TempDir(), "ca.crt")
	var text []byte
	for _, f := range []string{stranger.CA, admin.CA} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, b...)
	}
	if err := os.WriteFile(both.CA, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, server string
		files        certs.Files
		want         string
	}{
		{"a server of another authority", server, stranger, "the server's certificate is of another authority than those in " + stranger.CA},
		{"a client of another authority", server, both, "the server does not take the certificate in " + both.Cert},
		{"a server under another name", running(t, elsewhere), admin, "the server's certificate is for other names"},
		{"a server without certificates", running(t, certs.Files{}), admin, "the server has no certificates"},
		{"nobody there", "127.0.0.1:1", admin, "start a server with `conveyor dev`"},
	} {
		for _, command := range []string{"get sources", "delete source x"} {
			t.Run(tc.name+", "+command, func(t *testing.T) {
				t.Parallel() // each tries for some seconds
				r := conveyor(t, environment(tc.server, tc.files), strings.Fields(command)...)
				if r.code != 3 || !strings.Contains(r.stderr, "help: "+tc.want) {
					t.Errorf("ends with %d:\n%s", r.code, r.stderr)
				}
			})
		}
	}
}
