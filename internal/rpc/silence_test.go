package rpc_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/rpc"
)

// relay passes on what comes for a target, until silence: then it swallows everything, as the network does in front of a machine that has vanished.
func relay(t *testing.T, target string) (addr string, silence func()) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		silent atomic.Bool
		wg     sync.WaitGroup
		mu     sync.Mutex
		ends   []net.Conn // guarded by mu
	)
	pass := func(to, from net.Conn) {
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			if n > 0 && !silent.Load() {
				if _, err := to.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			in, err := lis.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			ends = append(ends, in, out)
			mu.Unlock()
			wg.Go(func() { pass(out, in) })
			wg.Go(func() { pass(in, out) })
		}
	})
	t.Cleanup(func() {
		lis.Close()
		mu.Lock()
		for _, c := range ends {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return lis.Addr().String(), func() { silent.Store(true) }
}

// Both sides of a connection give up the other within 15 seconds, which a busy machine may take twice.
func TestServer_APeerThatFallsSilentIsNoticedByBothSides(t *testing.T) {
	const within, allowed = 15 * time.Second, 30 * time.Second
	ended := make(chan error, 1)
	srv := start(t, &handlers{stream: func(s grpc.ServerStream) error {
		if err := s.SendMsg(&message{}); err != nil {
			return err
		}
		err := s.RecvMsg(new(message))
		ended <- err
		return err
	}}, rpc.ServerConfig{}, time.Second)
	addr, silence := relay(t, srv.addr)
	s := open(t.Context(), t, dial(t, addr, rpc.DialConfig{}))
	if err := s.RecvMsg(new(message)); err != nil {
		t.Fatal(err)
	}
	silence()
	began := time.Now()
	told := make(chan error, 1)
	go func() { told <- s.RecvMsg(new(message)) }()
	for range 2 {
		side, err := "client", error(nil)
		select {
		case err = <-told:
			if status.Code(err) != codes.Unavailable {
				t.Errorf("the client is told %v", err)
			}
		case err = <-ended:
			side = "server"
		case <-time.After(allowed):
			t.Fatalf("a side still believes in the other after %v", allowed)
		}
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the %s ends with %v", side, err)
		}
		t.Logf("the %s noticed it after %v of %v", side, time.Since(began).Round(time.Millisecond), within)
	}
}
