package embed_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/conveyor-etl/conveyor/dlq/dlqtest"
	"github.com/conveyor-etl/conveyor/dlq/embed"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// verifying is the configuration of servers that are known by what they are, and not by where: the chain is checked in both directions all the same.
func verifying(cfg *tls.Config) *tls.Config {
	out := cfg.Clone()
	out.InsecureSkipVerify, out.ClientAuth = true, tls.RequireAnyClientCert
	out.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: cfg.RootCAs, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err
	}
	return out
}

func TestLog_OnlyStrangersWithCertificatesAreErrors(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	for _, c := range []struct {
		name  string
		probe func(net.Conn) error
		level string
	}{
		{"looks whether the port is open", net.Conn.Close, "level=DEBUG"},
		{"speaks another protocol", speakHTTP, "level=DEBUG"},
		{"shows a certificate of another authority", func(conn net.Conn) error {
			cfg := theirs.config(t, "router")
			cfg.InsecureSkipVerify = true
			_ = tls.Client(conn, cfg).HandshakeContext(t.Context()) // it may learn here already that it is refused
			return nil
		}, "level=ERROR"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var log lines
			routes := dlqtest.FreeAddresses(t, 3)
			open(t, embed.Config{
				Dir: t.TempDir(), ServerName: "1-a", MaxStoreBytes: 1 << 30, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
				Cluster: &embed.Cluster{Name: "c", Listen: routes[0], Routes: routes, TLS: verifying(ours.config(t, "router"))},
			})
			conn, err := net.Dial("tcp", routes[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := c.probe(conn); err != nil {
				t.Fatal(err)
			}
			var found string
			await(t, func() error {
				for line := range strings.Lines(log.String()) {
					if strings.Contains(line, "handshake error") {
						found = line
						return nil
					}
				}
				return fmt.Errorf("nothing is said of it:\n%s", log.String())
			})
			if !strings.Contains(found, c.level) {
				t.Errorf("want %s: %s", c.level, found)
			}
			for line := range strings.Lines(log.String()) {
				if strings.Contains(line, "DO NOT USE IN PRODUCTION") && !strings.Contains(line, "level=DEBUG") {
					t.Errorf("the servers are verified, and the log says: %s", line)
				}
			}
			if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		})
	}
}

// speakHTTP is what a probe of a balancer says.
func speakHTTP(conn net.Conn) error {
	_, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	return err
}
