package router_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// TestRouter_WhoeverComesAndGoesLeavesNothing connects, watches, registers, applies and deletes again and again.
func TestRouter_WhoeverComesAndGoesLeavesNothing(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	turn := func(i int) {
		n.apply(simple...)
		c := connect(t, n.conn.Target())
		defer c.conn.Close()
		watch, err := c.admin.WatchResources(t.Context(), &controlv1.WatchResourcesRequest{Kind: "Source"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		resp, err := c.coord.Register(t.Context(), &controlv1.RegisterRequest{SidecarId: fmt.Sprint("s", i), Address: "127.0.0.1:9091", Endpoints: both})
		if err != nil {
			t.Fatal(err)
		}
		assignments, err := c.coord.WatchAssignments(t.Context(), &controlv1.WatchAssignmentsRequest{Session: resp.GetSession()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := assignments.Recv(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.coord.Deregister(t.Context(), &controlv1.DeregisterRequest{Session: resp.GetSession()}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.admin.DeleteResource(t.Context(), &controlv1.DeleteResourceRequest{Ref: &controlv1.ResourceRef{Kind: "Pipeline", Name: "p"}}); err != nil {
			t.Fatal(err)
		}
		await(t, func() string { // a pipeline drains before it is gone
			resp, err := c.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{Kind: "Pipeline"})
			if err != nil {
				return err.Error()
			}
			if len(resp.GetResources()) > 0 {
				return "the pipeline is still there"
			}
			return ""
		})
	}
	// A turn leaves its commands in the log of events, which is bounded, and nothing else.
	const warm, turns, slack, perTurn = 10, 200, 5, 16 << 10
	for i := range warm {
		turn(i)
	}
	var goroutines, files int
	await(t, func() string { // what ended is still being tidied up
		was := goroutines
		goroutines, files = runtime.NumGoroutine(), openFiles(t)
		return differs(fmt.Sprint(was), fmt.Sprint(goroutines))
	})
	before := heap()
	for i := range turns {
		turn(warm + i)
	}
	await(t, func() string {
		if g, f := runtime.NumGoroutine(), openFiles(t); g > goroutines+slack || f > files+slack {
			return fmt.Sprintf("after %d turns there are %d goroutines and %d open files; before there were %d and %d", turns, g, f, goroutines, files)
		}
		return ""
	})
	await(t, func() string {
		grown := int64(heap()) - int64(before)
		t.Logf("after %d turns the heap has grown by %d bytes", turns, grown)
		if grown > turns*perTurn {
			return fmt.Sprintf("after %d turns the heap has grown by %d bytes", turns, grown)
		}
		return ""
	})
}

// heap is what is in use after everything that is not was collected.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools kept through the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// openFiles is how many this process has, or 0 where the system does not say.
func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(all)
}
