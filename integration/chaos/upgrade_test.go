package chaos_test

import (
	"context"
	"fmt"
	"os"
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

// upgradePause is what an operator waits between two parts.
const upgradePause = 500 * time.Millisecond

// Two builds of the router that differ in one command: the newer one knows since its level what the older one has never heard of, and stops at.
const (
	levels  = "router/internal/state/levels.go"
	machine = "router/internal/state/machine.go"
)

// laterField is a statement that gives a message a field which nobody knows who does not come from the same build.
func laterField(message string) string {
	return message + `.ProtoReflect().SetUnknown([]byte{0xc2, 0x3e, 5, 'l', 'a', 't', 'e', 'r'})` // number 1000
}

func olderRouter(t *testing.T) string {
	t.Helper()
	return proc.Variant(t, "conveyor-router",
		overlay.Edit{File: levels, From: `"open_client_session": 1`, To: `"open_client_session": 2`},
		overlay.Edit{File: machine, From: "	case *statepb.Command_OpenClientSession:\n		return m.openClientSession(index, k.OpenClientSession)\n"},
	)
}

// newerRouter also tells sidecars what only later ones understand.
func newerRouter(t *testing.T) string {
	t.Helper()
	const assignment = "Drain: p.GetDraining(), Hold: p.GetHold(),\n\t}\n"
	return proc.Variant(t, "conveyor-router",
		overlay.Edit{File: levels, From: `"open_client_session": 1`, To: `"open_client_session": 2`},
		overlay.Edit{File: levels, From: "FeatureLevel = 1\n", To: "FeatureLevel = 2\n"},
		overlay.Edit{File: "router/internal/control/desired.go", From: assignment, To: assignment + "\t" + laterField("out") + "\n"},
	)
}

// newerSidecar tells routers and other sidecars what only later ones understand.
func newerSidecar(t *testing.T) string {
	t.Helper()
	const (
		link         = "sidecar/internal/engine/linkout.go"
		registration = "try, cancel := context.WithTimeout(ctx, registerTimeout)\n"
		opened       = "Ownership: l.s.owner,\n\t}}}\n"
	)
	return proc.Variant(t, "conveyor-sidecar",
		overlay.Edit{File: "sidecar/dial.go", From: "featureLevel = 1\n", To: "featureLevel = 2\n"},
		overlay.Edit{File: "sidecar/internal/control/run.go", From: registration, To: laterField("req") + "\n\t\t" + registration},
		overlay.Edit{File: link, From: "return &linkv1.LinkRequest{Request: &linkv1.LinkRequest_Open{", To: "req := &linkv1.LinkRequest{Request: &linkv1.LinkRequest_Open{"},
		overlay.Edit{File: link, From: opened, To: opened + "\t" + laterField("req.GetOpen()") + "\n\treturn req\n"},
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

// rolled is a part that is given other versions.
type rolled interface {
	Use(binary string)
	Start()
	Stop()
	AwaitReady()
}

// upgrade is a round of restarts while records flow and changes are made.
type upgrade struct {
	*system
	asked *routers
}

// roll gives a part another version, and returns when it, the records and the changes go on.
func (u *upgrade) roll(what string, p rolled, binary string) {
	u.t.Helper()
	u.pass(upgradePause)
	p.Stop()
	p.Use(binary)
	u.run.Faults[what]++
	p.Start()
	p.AwaitReady()
	const anew = 64 << 10 // bytes of the ledger: about a second of records
	before := u.arrived()
	proc.Until(u.t, func() string {
		if got := u.arrived() - before; got < anew {
			return fmt.Sprintf("%s: the sink has written %d bytes since", what, got)
		}
		return ""
	})
	if _, err := chaos.Write(u.t.Context(), u.asked.client, "step", strings.ReplaceAll(what, " ", "-")); err != nil {
		u.t.Errorf("%s: a change afterwards: %v", what, err)
	}
}

// arrived is how long the ledger of the sink is.
func (u *upgrade) arrived() int64 {
	info, err := os.Stat(u.sink)
	if err != nil {
		return 0 // nothing has arrived yet
	}
	return info.Size()
}

// lead lets a router lead: it decides what is proposed, by what the others have announced.
func (u *upgrade) lead(router *proc.Router) {
	u.t.Helper()
	proc.Until(u.t, func() string {
		info, err := u.asked.client.Cluster(u.t.Context())
		if err != nil {
			return err.Error()
		}
		for _, s := range info.GetServers() {
			switch {
			case s.GetAddress() != router.Addr():
			case s.GetId() == info.GetLeaderId():
				return ""
			default:
				_, err = u.asked.client.TransferLeadership(u.t.Context(), s.GetId())
			}
		}
		return fmt.Sprintf("the router at %s does not lead: %v", router.Addr(), err)
	})
}

// newCommandWaits checks that nothing is proposed at which an older router would stop.
func (u *upgrade) newCommandWaits(while string) {
	u.t.Helper()
	if err := u.asked.openSession(); status.Code(err) != codes.Unimplemented {
		u.t.Errorf("%s, the new command ended with: %v", while, err)
	}
	if info, err := u.asked.client.Cluster(u.t.Context()); err != nil || info.GetFeatureLevel() != 1 {
		u.t.Errorf("%s, the feature level is %d (%v)", while, info.GetFeatureLevel(), err)
	}
}

func TestCluster_ARollingUpgradeStopsNothingAndNewCommandsWaitForTheLastRouter(t *testing.T) {
	older, newer, newerBeside := olderRouter(t), newerRouter(t), newerSidecar(t)
	r := &routers{t: t, cluster: proc.NewCluster(t, 3)}
	for _, router := range r.cluster {
		router.Use(older)
	}
	u := &upgrade{system: startWith(t, r.cluster), asked: r}
	r.client = r.dial()
	var sidecars []*proc.Sidecar
	for _, p := range u.parts {
		if sidecar, is := p.(*proc.Sidecar); is {
			sidecars = append(sidecars, sidecar)
		}
	}
	stop := r.changing()

	// Routers come first, but a sidecar that comes before them works with them.
	u.newCommandWaits("with older routers")
	u.roll("sidecar upgraded", sidecars[0], newerBeside)
	u.newCommandWaits("with older routers and a newer sidecar")
	// Whoever leads comes when it is its turn.
	u.roll("router upgraded", r.cluster[0], newer)
	u.newCommandWaits("with one of 3 routers upgraded")
	u.roll("router upgraded", r.cluster[1], newer)
	u.newCommandWaits("with 2 of 3 routers upgraded")
	// There is a way back: what this one announced of itself before counts no longer.
	u.roll("router taken back", r.cluster[1], older)
	u.lead(r.cluster[0])
	u.newCommandWaits("with one of 2 upgraded routers taken back")
	u.roll("router upgraded", r.cluster[2], newer)
	u.lead(r.cluster[0])
	u.newCommandWaits("with one of 3 upgraded routers taken back")
	u.roll("router upgraded", r.cluster[1], newer)
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
	for _, sidecar := range sidecars[1:] {
		u.roll("sidecar upgraded", sidecar, newerBeside)
	}

	last := stop()
	got, err := chaos.Read(t.Context(), r.client, "upgrade")
	if err != nil || last == "" || number(t, got) < number(t, last) {
		t.Errorf("after the upgrade the value is %q (%v), and %q was acknowledged", got, err, last)
	}
	// A part that stops in order is no fault: nothing arrives twice.
	judge(t, u.finish(chaos.Expect{MinRecords: oracleRate}))

	// There is no way back past a command that the older version does not know: it says so, and stops.
	back := r.cluster[0]
	back.Stop()
	back.Use(older)
	back.Start()
	if code := back.Wait(); code == 0 || !strings.Contains(back.Log(), "does not know") {
		t.Errorf("the older version ended with code %d and said:\n%s", code, back.Log())
	}
}
