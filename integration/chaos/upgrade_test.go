package chaos_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	"github.com/conveyor-etl/conveyor/integration/overlay"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// upgradePause is what an operator waits between two routers.
const upgradePause = 500 * time.Millisecond

// Two builds that differ in one command: the newer one knows since its level what the older one has never heard of, and stops at.
const (
	levels  = "router/internal/state/levels.go"
	machine = "router/internal/state/machine.go"
)

func olderRouter(t *testing.T) string {
	t.Helper()
	return proc.Variant(t,
		overlay.Edit{File: levels, From: `"open_client_session": 1`, To: `"open_client_session": 2`},
		overlay.Edit{File: machine, From: "	case *statepb.Command_OpenClientSession:\n		return m.openClientSession(index, k.OpenClientSession)\n"},
	)
}

func newerRouter(t *testing.T) string {
	t.Helper()
	return proc.Variant(t,
		overlay.Edit{File: levels, From: `"open_client_session": 1`, To: `"open_client_session": 2`},
		overlay.Edit{File: levels, From: "FeatureLevel = 1\n", To: "FeatureLevel = 2\n"},
	)
}

// changing writes one value after the other until it is stopped, and returns the last that was acknowledged.
func (r *routers) changing() (stop func() string) {
	ctx, cancel := context.WithCancel(r.t.Context())
	c := r.dial()
	var wg sync.WaitGroup
	last := ""
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if v := fmt.Sprint(i); applied(ctx, c, v) {
				last = v
			}
		}
	})
	return func() string {
		cancel()
		wg.Wait()
		return last
	}
}

func applied(ctx context.Context, c *client.Client, v string) bool {
	_, err := chaos.Write(ctx, c, "upgrade", v)
	return err == nil
}

func number(t *testing.T, v string) int {
	t.Helper()
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (r *routers) openSession() error {
	conn, err := grpc.NewClient(strings.Split(r.cluster.Addr(), ",")[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = controlv1.NewAdminServiceClient(conn).OpenClientSession(r.t.Context(), &controlv1.OpenClientSessionRequest{}, grpc.WaitForReady(true))
	return err
}

func TestCluster_ARollingUpgradeStopsNothingAndNewCommandsWaitForTheLastRouter(t *testing.T) {
	older, newer := olderRouter(t), newerRouter(t)
	r := &routers{t: t, cluster: proc.NewCluster(t, 3)}
	for _, router := range r.cluster {
		router.Use(older)
	}
	s := startWith(t, r.cluster)
	r.client = r.dial()
	stop := r.changing()
	for i, router := range r.cluster {
		// Whoever leads comes when it is its turn.
		if err := r.openSession(); status.Code(err) != codes.Unimplemented {
			t.Errorf("with %d of 3 routers upgraded, the new command ended with: %v", i, err)
		}
		s.pass(upgradePause)
		router.Stop()
		router.Use(newer)
		router.Start()
		router.AwaitReady()
	}
	proc.Until(t, func() string {
		info, err := r.client.Cluster(t.Context())
		switch {
		case err != nil:
			return err.Error()
		case info.GetFeatureLevel() != 2:
			return fmt.Sprintf("the feature level is %d", info.GetFeatureLevel())
		}
		return ""
	})
	if err := r.openSession(); err != nil {
		t.Errorf("with all routers upgraded, the new command ended with: %v", err)
	}
	last := stop()
	got, err := chaos.Read(t.Context(), r.client, "upgrade")
	if err != nil || last == "" || number(t, got) < number(t, last) {
		t.Errorf("after the upgrade the value is %q (%v), and %q was acknowledged", got, err, last)
	}
	report := s.finish(chaos.Expect{MinRecords: oracleRate})
	judge(t, report)
	if report.Duplicates > 0 {
		t.Errorf("%d records were delivered again while only routers were replaced", report.Duplicates)
	}

	// There is no way back past a command that the older version does not know: it says so, and stops.
	back := r.cluster[0]
	back.Stop()
	back.Use(older)
	back.Start()
	if code := back.Wait(); code == 0 || !strings.Contains(back.Log(), "does not know") {
		t.Errorf("the older version ended with code %d and said:\n%s", code, back.Log())
	}
}
