package rpc_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/internal/rpc"
)

// attacker speaks HTTP/2 frame by frame.
type attacker struct {
	*http2.Framer
	conn    net.Conn
	headers []byte
}

func attack(t *testing.T, addr string) *attacker {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/test.Service/Stream"}, {":authority", "a"}, {"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	a := &attacker{Framer: http2.NewFramer(conn, conn), conn: conn, headers: block.Bytes()}
	if err := a.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	// What the server says is read, or it would wait for that.
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	return a
}

func TestServer_AbuseOfOneConnectionHarmsNoOther(t *testing.T) {
	s := start(t, &handlers{stream: func(s grpc.ServerStream) error {
		if err := s.SendMsg(&message{}); err != nil {
			return err
		}
		<-s.Context().Done()
		return nil
	}}, rpc.ServerConfig{}, time.Minute)
	for name, abuse := range map[string]func(a *attacker) error{
		"streams that are opened and reset at once": func(a *attacker) error {
			for id := uint32(1); id < 40000; id += 2 {
				if err := a.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: a.headers, EndHeaders: true}); err != nil {
					return err
				}
				if err := a.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
					return err
				}
			}
			return nil
		},
		"ten thousand streams that stay": func(a *attacker) error {
			for id := uint32(1); id < 20000; id += 2 {
				if err := a.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: a.headers, EndHeaders: true}); err != nil {
					return err
				}
			}
			return nil
		},
		"pings without end": func(a *attacker) error {
			for range 100000 {
				if err := a.WritePing(false, [8]byte{1}); err != nil {
					return err
				}
			}
			return nil
		},
		"headers without end": func(a *attacker) error {
			if err := a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.headers}); err != nil {
				return err
			}
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			for range 4000 {
				block.Reset()
				if err := enc.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("v", 4000), Sensitive: true}); err != nil {
					return err
				}
				if err := a.WriteContinuation(1, false, block.Bytes()); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := attack(t, s.addr)
			done := make(chan struct{})
			go func() { defer close(done); _ = abuse(a) }() // the server may end the connection, which is its right
			conn := dial(t, s.addr, rpc.DialConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for range 20 {
				one, end := context.WithCancel(ctx)
				if err := open(one, t, conn).RecvMsg(new(message)); err != nil {
					t.Fatalf("another connection was not served meanwhile: %v", err)
				}
				end()
			}
			<-done
			if n := runtime.NumGoroutine(); n > 2*rpc.MaxConcurrentStreams+200 {
				t.Errorf("one connection keeps %d goroutines busy", n)
			}
			a.conn.Close()
		})
	}
}
