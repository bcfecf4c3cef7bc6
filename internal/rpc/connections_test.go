package rpc_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/logging/logtest"
	"github.com/conveyor-etl/conveyor/internal/rpc"
)

// from dials from an address of this machine.
func from(t *testing.T, local string) *net.Dialer {
	t.Helper()
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(local, "0"))
	if err != nil {
		t.Skipf("this machine is not at %s: %v", local, err)
	}
	lis.Close()
	return d
}

// knock opens a connection that says something before it speaks HTTP/2, and reports whether the server answers. It stays open until the test ends, or is closed.
func knock(t *testing.T, addr, local, first string) (conn net.Conn, in bool) {
	t.Helper()
	conn, err := from(t, local).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// Who is refused may see that as soon as it writes.
	_, _ = io.WriteString(conn, first+http2.ClientPreface)
	_ = http2.NewFramer(conn, nil).WriteSettings()
	_, err = conn.Read(make([]byte, 1))
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Fatal("it is neither let in nor refused")
	}
	return conn, err == nil
}

func mustAnswer(t *testing.T, addr, local string) {
	t.Helper()
	d := from(t, local)
	conn, err := rpc.Dial(addr, rpc.DialConfig{}, grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return d.DialContext(ctx, "tcp", a) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := call(ctx, conn, 10, grpc.WaitForReady(true)); err != nil {
		t.Errorf("a client at %s: %v", local, err)
	}
}

func TestServer_ManyConnectionsFromOneAddressKeepNobodyElseOut(t *testing.T) {
	var logged logtest.Buffer
	s := start(t, &handlers{call: echo}, rpc.ServerConfig{MaxConnections: 40, Logger: slog.New(slog.NewTextHandler(&logged, nil))}, time.Minute)
	many := func(local string, n int) (open []net.Conn) {
		t.Helper()
		for range n {
			if conn, in := knock(t, s.addr, local, ""); in {
				open = append(open, conn)
			}
		}
		return open
	}
	first := many("127.0.0.1", 60)
	if len(first) != 20 || s.Refused() != 40 {
		t.Errorf("of 60 connections from one address %d are let in and %d refused", len(first), s.Refused())
	}
	mustAnswer(t, s.addr, "127.0.0.2")
	if got := strings.Count(logged.String(), "connections are refused"); got != 1 {
		t.Errorf("that is logged %d times:\n%s", got, logged.String())
	}
	if open := many("127.0.0.2", 15); len(open) != 15 {
		t.Errorf("of 15 from another one %d are let in", len(open))
	}
	// The client's end may not have been noticed yet.
	if open := many("127.0.0.3", 15); len(open) < 4 || len(open) > 5 {
		t.Errorf("of 15 where 5 are left %d are let in", len(open))
	}
	for _, conn := range first {
		conn.Close()
	}
	// Their places are free again.
	mustAnswer(t, s.addr, "127.0.0.1")
}

// badge is a security in which callers say in one byte who they are, and are believed.
type badge struct {
	credentials.TransportCredentials
}

type wearer struct {
	credentials.CommonAuthInfo
	kind byte
}

func (wearer) AuthType() string { return "badge" }

func (badge) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	var b [1]byte
	_, err := io.ReadFull(conn, b[:])
	return conn, wearer{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, b[0]}, err
}

func TestServer_WhoDoesNotShowWhoItIsKeepsNobodyElseOutAndSpareOnesAreAlwaysLetIn(t *testing.T) {
	s := start(t, &handlers{}, rpc.ServerConfig{
		MaxConnections: 16, TLS: badge{}, Spare: func(who credentials.AuthInfo) bool { return who.(wearer).kind == 'r' },
	}, time.Minute)
	for range 10 {
		conn, err := from(t, "127.0.0.1").DialContext(t.Context(), "tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	// Two places of four for handshakes are one address's.
	for late := time.After(30 * time.Second); s.Refused() != 8; {
		select {
		case <-late:
			t.Fatalf("of 10 connections that say nothing %d are refused", s.Refused())
		case <-time.After(time.Millisecond):
		}
	}
	for _, tt := range []struct {
		from, who string
		n, in     int
	}{
		{"127.0.0.2", "s", 9, 8},
		{"127.0.0.3", "s", 9, 8},
		{"127.0.0.4", "s", 2, 0},
		{"127.0.0.2", "r", 3, 3},
		{"127.0.0.4", "r", 3, 3},
	} {
		in := 0
		for range tt.n {
			if _, ok := knock(t, s.addr, tt.from, tt.who); ok {
				in++
			}
		}
		if in != tt.in {
			t.Errorf("of %d %s from %s %d are let in, want %d", tt.n, tt.who, tt.from, in, tt.in)
		}
	}
}

func TestServer_ConnectionsThatDoNotGetOnAreClosed(t *testing.T) {
	t.Parallel()
	ca, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue(certs.Identity{Role: certs.RoleRouter, Name: "1"}, []string{"127.0.0.1"}, time.Hour, filepath.Join(t.TempDir(), "1"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := certs.Load(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := start(t, &handlers{}, rpc.ServerConfig{}, time.Minute)
	secure := start(t, &handlers{}, rpc.ServerConfig{TLS: store.ServerCredentials()}, time.Minute)
	closed := func(addr, says string) error {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(40 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, says); err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, conn)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			return errors.New("it stays open")
		}
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, tt := range map[string]struct{ addr, says string }{
		"nothing is said":           {plain.addr, ""},
		"half of a preface":         {plain.addr, http2.ClientPreface[:12]},
		"a preface and no settings": {plain.addr, http2.ClientPreface},
		"no TLS hello":              {secure.addr, ""},
		"half of a TLS hello":       {secure.addr, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
	} {
		wg.Go(func() {
			if err := closed(tt.addr, tt.says); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}
