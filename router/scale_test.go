package router_test

import (
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// TestScale_AThousandSidecarsRegisterAtOnceAndAreKept is about bounds that must hold on any machine; how long it took is logged.
func TestScale_AThousandSidecarsRegisterAtOnceAndAreKept(t *testing.T) {
	const sidecars, perConnection, lanes = 1000, 50, 20
	cfg := testConfig(t.TempDir())
	cfg.SessionTTL, cfg.Heartbeat = time.Minute, 3*time.Second // a slow machine takes long for the rounds below
	n := start(t, cfg)
	n.apply(simple...)
	var conns []*node
	for range sidecars / perConnection {
		c := connect(t, n.router.Addr().String())
		t.Cleanup(func() { c.conn.Close() })
		conns = append(conns, c)
	}
	sessions := make([]*controlv1.Session, sidecars)
	took := make([]time.Duration, sidecars)
	began := time.Now()
	each := func(do func(i int, c *node) error) {
		t.Helper()
		var wg sync.WaitGroup
		for i := range sidecars {
			wg.Go(func() {
				for {
					err := do(i, conns[i/perConnection])
					if again := retryAfter(err); again > 0 {
						<-time.After(again) // as sidecars do
						continue
					}
					if err != nil {
						t.Error(err)
					}
					return
				}
			})
		}
		wg.Wait()
	}
	each(func(i int, c *node) error {
		resp, err := c.coord.Register(t.Context(), &controlv1.RegisterRequest{
			SidecarId: fmt.Sprintf("s%04d", i), Address: "127.0.0.1:9091", HostName: "h", Version: "test", Endpoints: both,
		})
		sessions[i], took[i] = resp.GetSession(), time.Since(began)
		return err
	})
	if t.Failed() {
		t.FailNow()
	}
	slices.Sort(took)
	t.Logf("%d sidecars registered at once: median %v, p99 %v", sidecars, took[sidecars/2].Round(time.Millisecond), took[sidecars*99/100].Round(time.Millisecond))
	var report []*controlv1.LaneReport
	for i := range lanes {
		report = append(report, &controlv1.LaneReport{Pipeline: "default/p", Generation: 1, Status: &controlv1.LaneStatus{
			SourceStage: "in", Source: "default/in", Partition: fmt.Sprint(i), Counts: &controlv1.Counts{Read: 1000, Acknowledged: 990},
		}})
	}
	var points []*controlv1.Checkpoint
	for i := range lanes {
		points = append(points, &controlv1.Checkpoint{
			Pipeline: "default/p", SourceStage: "in", Partition: fmt.Sprint(i), Generation: 1, Sequence: 1, Position: []byte("0123456789abcdef"),
			Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: 1},
		})
	}
	const rounds = 5
	round := func(do func(i int, c *node) error) time.Duration {
		before := cpu(t)
		for range rounds {
			each(do)
		}
		return ((cpu(t) - before) / rounds).Round(time.Millisecond)
	}
	pause := make([]time.Duration, sidecars)
	beats := round(func(i int, c *node) error {
		resp, err := c.coord.Heartbeat(t.Context(), &controlv1.HeartbeatRequest{Session: sessions[i], Lanes: report})
		pause[i] = time.Duration(resp.GetCheckpointMillis()) * time.Millisecond
		return err
	})
	if pause[0] != 2*time.Second {
		t.Errorf("each of %d sidecars is to collect checkpoints for %v", sidecars, pause[0])
	}
	reports := round(func(i int, c *node) error {
		_, err := c.coord.ReportCheckpoints(t.Context(), &controlv1.ReportCheckpointsRequest{Session: sessions[i], Checkpoints: points})
		return err
	})
	// Both ends are in this process, so the router's share is less than half.
	t.Logf("with %d lanes each, CPU of both ends together: a round of heartbeats, every 3 s, %v; a round of checkpoints, every %v, %v", lanes, beats, pause[0], reports)
	list, err := n.admin.ListSidecars(t.Context(), &controlv1.ListSidecarsRequest{})
	if err != nil || len(list.GetSidecars()) != sidecars {
		t.Errorf("%d sidecars are known, %v", len(list.GetSidecars()), err)
	}
}

// retryAfter is when to come again, in an answer of routers that are busy.
func retryAfter(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// cpu is what this process has used.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
