package client_test

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// quiet is a listener whose connections hear and say nothing any more once it has fallen silent, as those of a machine that has vanished.
type quiet struct {
	net.Listener
	silent atomic.Bool
}

func (q *quiet) Accept() (net.Conn, error) {
	c, err := q.Listener.Accept()
	return &quietConn{c, q}, err
}

type quietConn struct {
	net.Conn
	q *quiet
}

func (c *quietConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.q.silent.Load() {
			return n, err
		}
	}
}

func (c *quietConn) Write(b []byte) (int, error) {
	if c.q.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func TestWatch_ARouterThatFallsSilentIsLeftWithin15Seconds(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	q := &quiet{Listener: lis}
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	first := &router{watch: func(_ int64, _ *controlv1.WatchResourcesRequest, send func(*controlv1.WatchResourcesResponse) error) error {
		if err := send(changed(1, "a")); err != nil {
			return err
		}
		<-ended
		return status.Error(codes.Unavailable, "the test has ended")
	}}
	second, _ := watch(2, changed(1, "a"), changed(2, "b"))
	c := dial(t, []string{first.serveOn(t, q), second.serve(t, "127.0.0.1:0")})
	var silentSince time.Time
	for e, err := range c.Watch(t.Context(), "Source", "", 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Resource.GetName() == "b" {
			break
		}
		q.silent.Store(true)
		silentSince = time.Now()
	}
	// Ten seconds until it asks whether the router is there, and five for the answer; a busy machine may take twice that.
	took := time.Since(silentSince)
	t.Logf("the watch went on at the next router after %v", took.Round(time.Millisecond))
	if took > 30*time.Second {
		t.Errorf("the watch believed in a silent router for %v", took)
	}
}
