package router_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// large is a sink whose manifest is almost as large as one may be.
func large(name string, n int) string {
	return fmt.Sprintf(`{"apiVersion":"conveyor.etl/v1","kind":"Sink","metadata":{"name":%q},"spec":{"grpc":{"endpoint":"localhost:50070"},"config":{"n":%d,"pad":%q}}}`,
		name, n, strings.Repeat("x", 239<<10))
}

// watching is a stream of changes.
type watching = grpc.ServerStreamingClient[controlv1.WatchResourcesResponse]

// watchAfter opens a stream.
func (n *node) watchAfter(ctx context.Context, revision uint64) watching {
	n.t.Helper()
	stream, err := n.admin.WatchResources(ctx, &controlv1.WatchResourcesRequest{AfterRevision: revision})
	if err != nil {
		n.t.Fatal(err)
	}
	return stream
}

// receive takes messages until one is content, and returns the last.
func receive(stream watching, content func(*controlv1.WatchResourcesResponse) bool) (*controlv1.WatchResourcesResponse, error) {
	for {
		m, err := stream.Recv()
		if err != nil || content(m) {
			return m, err
		}
	}
}

func TestWatchResources_WatchersThatDoNotReadHoldNoMemoryAndDelayNoOther(t *testing.T) {
	const (
		kept  = 64 << 20
		slack = 24 << 20
	)
	n := start(t, testConfig(t.TempDir()))
	n.apply(source("first", "file"))
	list, err := n.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// One that reads.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reads := n.watchAfter(ctx, list.GetRevision())
	var seen atomic.Uint64
	ended := make(chan error, 1)
	go func() {
		_, err := receive(reads, func(m *controlv1.WatchResourcesResponse) bool { seen.Store(m.GetRevision()); return false })
		ended <- err
	}()
	revisions := []uint64{list.GetRevision()}
	change := func(times int) { // of 478 KiB each
		t.Helper()
		for range times {
			i := len(revisions)
			revisions = append(revisions, n.apply(large("a", i), large("b", i)).GetResults()[0].GetResource().GetRevision())
		}
		await(t, func() string { return differs(seen.Load(), revisions[len(revisions)-1]) })
	}
	before := heap()
	bounded, end := context.WithCancel(t.Context())
	defer end()
	var stuck []watching
	for _, turn := range []struct{ behind, changes int }{{0, 145}, {120, 80}} { // more than is kept, and more than slack
		other := connect(t, n.router.Addr().String())
		t.Cleanup(func() { other.conn.Close() })
		stream := other.watchAfter(bounded, revisions[len(revisions)-1-turn.behind])
		if turn.behind > 0 {
			if _, err := stream.Recv(); err != nil { // and no more, so that the router has the others at hand for it
				t.Fatal(err)
			}
		}
		stuck = append(stuck, stream)
		change(turn.changes)
		if now := heap(); now > before+kept+slack {
			t.Errorf("with a watcher that does not read and began %d changes behind, %d MiB more are in use", turn.behind, (now-before)>>20)
		}
	}
	defer time.AfterFunc(patience, end).Stop()
	for _, stream := range stuck {
		_, err := receive(stream, func(*controlv1.WatchResourcesResponse) bool { return false })
		mustRefuse(t, err, "REVISION_COMPACTED")
	}
	// Who was told so lists again, and goes on from there.
	if list, err = n.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{}); err != nil {
		t.Fatal(err)
	}
	again := n.watchAfter(ctx, list.GetRevision())
	n.apply(source("last", "file"))
	if m, err := again.Recv(); err != nil || m.GetResource().GetName() != "last" {
		t.Errorf("after a list came %v, %v", m.GetResource().GetName(), err)
	}
	cancel()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("the one that reads ended with %v", err)
	}
}

func TestWatchResources_AThousandThatWaitCostLittleAndAreAllTold(t *testing.T) {
	const (
		watchers = 1000
		perConn  = 100
		each     = 64 << 10 // of both sides, in this process
	)
	n := start(t, testConfig(t.TempDir()))
	list, err := n.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	var all []watching
	for len(all) < watchers {
		at := connect(t, n.router.Addr().String())
		t.Cleanup(func() { at.conn.Close() })
		for range perConn {
			all = append(all, at.watchAfter(t.Context(), list.GetRevision()))
		}
	}
	told := func(name string) {
		t.Helper()
		n.apply(source(name, "file"))
		for i, stream := range all {
			m, err := receive(stream, func(m *controlv1.WatchResourcesResponse) bool { return m.GetResource() != nil })
			if err != nil || m.GetResource().GetName() != name {
				t.Fatalf("watcher %d was told of %v, %v", i, m.GetResource().GetName(), err)
			}
		}
	}
	told("a") // by then the router has taken all of them up
	if now := heap(); now > before+watchers*each {
		t.Errorf("%d watchers hold %d KiB", watchers, (now-before)>>10)
	}
	told("b")
}
