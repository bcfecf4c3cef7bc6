package sidecar_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/internal/lock"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sidecar"
	enginepkg "github.com/conveyor-etl/conveyor/sidecar/internal/engine"
	"github.com/conveyor-etl/conveyor/sidecar/internal/routertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine writes down what happens to it.
type engine struct {
	session enginepkg.Control
	drain   func(context.Context, enginepkg.Control) error
	changes chan struct{}

	mu  sync.Mutex
	did []string
}

func (e *engine) note(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.did); n == 0 || e.did[n-1] != what {
		e.did = append(e.did, what)
	}
}

func (e *engine) history() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.did)
}

func (e *engine) CutOff(bool)                                      {}
func (e *engine) PaceCheckpoints(time.Duration)                    {}
func (e *engine) Apply(ed25519.PublicKey, []*controlv1.Assignment) { e.note("apply") }
func (e *engine) Ended() []*controlv1.EndedAssignment              { return nil }
func (e *engine) Changes() <-chan struct{}                         { return e.changes }
func (e *engine) RegisterLink(grpc.ServiceRegistrar)               { e.note("register link") }

func (e *engine) Inject(context.Context, *controlv1.Letter) (linkv1.Outcome, uint64, error) {
	return 0, 0, errors.New("nothing runs here")
}

func (e *engine) Unreachable() []string { return nil }

func (e *engine) Reports() ([]*controlv1.StageReport, []*controlv1.LaneReport) {
	stage := &controlv1.StageStatus{Name: "in", Open: true, RecordsOut: 5, Fenced: 1, Edges: []*controlv1.EdgeStatus{{To: "out", Records: 5, Bytes: 50, BlockedMillis: 1500}}}
	lane := &controlv1.LaneStatus{
		SourceStage: "in", Partition: "p\xff", SettledThrough: 9, CheckpointedThrough: 4,
		Counts: &controlv1.Counts{Read: 10, Acknowledged: 6, Dead: 1, Filtered: 1, Unrouted: 0, Shed: 0, InFlight: 2},
	}
	// Two generations of one stage.
	return []*controlv1.StageReport{{Pipeline: "default/p", Generation: 1, Status: stage}, {Pipeline: "default/p", Generation: 2, Status: stage}},
		[]*controlv1.LaneReport{{Pipeline: "default/p", Status: lane}}
}

func (e *engine) Drain(ctx context.Context) error {
	e.note("drain")
	if e.drain == nil {
		return nil
	}
	return e.drain(ctx, e.session)
}

func (e *engine) Close() error {
	e.note("close")
	return nil
}

func config(t *testing.T, r *routertest.Router) sidecar.Config {
	t.Helper()
	cfg := sidecar.DefaultConfig()
	router, err := env.ParseHostPort(r.Address())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Routers, cfg.GRPCPort, cfg.OpsPort, cfg.DiscoveryPorts = env.HostPorts{router}, 0, 0, nil
	cfg.DataDir, cfg.DiscoveryInterval = t.TempDir(), 20*time.Millisecond
	return cfg
}

// run starts a sidecar; stop asks it to end and returns what Run did.
func run(t *testing.T, cfg sidecar.Config, e *engine) (s *sidecar.Sidecar, stop func() error) {
	t.Helper()
	s, err := sidecar.New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	e.changes = make(chan struct{}, 1)
	s.UseEngine(func(session enginepkg.Control) sidecar.DataPlane {
		e.session = session
		return e
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	return s, stop
}

func awaitReady(t *testing.T, s *sidecar.Sidecar) {
	t.Helper()
	select {
	case <-s.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("never ready")
	}
}

func get(t *testing.T, s *sidecar.Sidecar, path string) (int, string) {
	t.Helper()
	var transport http.Transport
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://%s%s", s.OpsAddr(), path), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestRun_StopsInTheMirrorOfItsStart(t *testing.T) {
	r := routertest.Start(t)
	e := &engine{drain: func(ctx context.Context, s enginepkg.Control) error {
		// While records settle, the session still takes checkpoints.
		_, err := s.ReportCheckpoints(ctx, []*controlv1.Checkpoint{{Pipeline: "default/p", Sequence: 9}})
		return err
	}}
	s, stop := run(t, config(t, r), e)
	awaitReady(t, s)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got, want := e.history(), []string{"register link", "apply", "drain", "close"}; !slices.Equal(got, want) {
		t.Errorf("the engine saw %v, want %v", got, want)
	}
	r.Change(func(s *routertest.State) {
		if len(s.Checkpoints) != 1 || len(s.Deregistered) != 1 {
			t.Errorf("%d checkpoints, %d farewells", len(s.Checkpoints), len(s.Deregistered))
		}
	})
}

func TestRun_StopsInTimeWhenNothingSettlesAndNoRouterAnswers(t *testing.T) {
	r := routertest.Start(t)
	e := &engine{drain: func(ctx context.Context, _ enginepkg.Control) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	cfg := config(t, r)
	cfg.DrainTimeout = 50 * time.Millisecond
	s, stop := run(t, cfg, e)
	awaitReady(t, s)
	r.Stop()
	if err := stop(); err != nil {
		t.Errorf("got %v", err)
	}
	if got := e.history(); got[len(got)-1] != "close" {
		t.Errorf("the engine saw %v", got)
	}
}

func TestRun_RegistersWithTheServicesThatAreThere(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	conveyorv1.RegisterSinkServiceServer(server, sink{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(lis) })
	t.Cleanup(func() { server.Stop(); wg.Wait() })

	r := routertest.Start(t)
	cfg := config(t, r)
	p := lis.Addr().(*net.TCPAddr).Port
	cfg.DiscoveryPorts = env.Ports{{First: p, Last: p}}
	s, _ := run(t, cfg, &engine{})
	awaitReady(t, s)
	r.Until(t, "a registration with the service", func(st *routertest.State) bool {
		return len(st.Registers[0].GetEndpoints()) == 1 && st.Registers[0].GetAddress() == s.Addr().String()
	})
	server.Stop()
	r.Until(t, "its end", func(st *routertest.State) bool { return len(st.Endpoints) == 0 })
}

type sink struct {
	conveyorv1.UnimplementedSinkServiceServer
}

func (sink) Describe(context.Context, *conveyorv1.SinkServiceDescribeRequest) (*conveyorv1.SinkServiceDescribeResponse, error) {
	return &conveyorv1.SinkServiceDescribeResponse{Abilities: []*conveyorv1.Ability{{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SINK}}}, nil
}

func TestRun_KeepsItsIDAndItsDirectory(t *testing.T) {
	r := routertest.Start(t)
	cfg := config(t, r)
	s, stop := run(t, cfg, &engine{})
	awaitReady(t, s)
	other, err := sidecar.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if held := (*lock.HeldError)(nil); !errors.As(other.Run(t.Context()), &held) {
		t.Error("two sidecars use one directory")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s, _ = run(t, cfg, &engine{})
	awaitReady(t, s)
	r.Until(t, "a second registration under the same id", func(st *routertest.State) bool {
		return len(st.Registers) == 2 && st.Registers[0].GetSidecarId() == st.Registers[1].GetSidecarId() && st.Registers[0].GetSidecarId() != ""
	})
}

func TestOpsPort_TellsWhetherItIsReadyAndWhatGoesOn(t *testing.T) {
	r := routertest.Start(t)
	address := r.Address()
	r.Stop()
	s, _ := run(t, config(t, r), &engine{})
	if code, _ := get(t, s, "/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d", code)
	}
	if code, body := get(t, s, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, `"registered"`) {
		t.Errorf("readyz: %d %s", code, body)
	}
	r.Serve(t, address)
	awaitReady(t, s)
	if code, body := get(t, s, "/readyz"); code != http.StatusOK {
		t.Errorf("readyz: %d %s", code, body)
	}
	code, body := get(t, s, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("metrics: %d %s", code, body)
	}
	for _, line := range []string{
		`conveyor_sidecar_registered 1`,
		`conveyor_sidecar_fenced_total{pipeline="default/p",stage="in"} 2`,
		`conveyor_sidecar_edge_records_total{pipeline="default/p",stage="in",to="out"} 10`,
		`conveyor_sidecar_edge_bytes_total{pipeline="default/p",stage="in",to="out"} 100`,
		`conveyor_sidecar_edge_blocked_seconds_total{pipeline="default/p",stage="in",to="out"} 3`,
		`conveyor_sidecar_lane_read_records_total{partition="p` + "\uFFFD" + `",pipeline="default/p",source="in"} 10`,
		`conveyor_sidecar_lane_settled_records_total{outcome="dead",partition="p` + "\uFFFD" + `",pipeline="default/p",source="in"} 1`,
		`conveyor_sidecar_lane_uncheckpointed_records{partition="p` + "\uFFFD" + `",pipeline="default/p",source="in"} 5`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
}

func TestNew_NamesThePortThatIsTaken(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	taken := env.Port(lis.Addr().(*net.TCPAddr).Port)
	for setting, change := range map[string]func(*sidecar.Config){
		"GRPC_PORT": func(c *sidecar.Config) { c.GRPCPort = taken },
		"OPS_PORT":  func(c *sidecar.Config) { c.OpsPort = taken },
	} {
		cfg := config(t, routertest.Start(t))
		change(&cfg)
		if _, err := sidecar.New(cfg, nil); err == nil || !strings.Contains(err.Error(), setting) {
			t.Errorf("%s: got %v", setting, err)
		}
	}
}

func TestRun_EndsWhenItCanNeverRegister(t *testing.T) {
	r := routertest.Start(t)
	r.Change(func(s *routertest.State) { s.AssignmentKey = []byte("key") }) // of a kind that this version does not know
	s, err := sidecar.New(config(t, r), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.UseEngine(func(enginepkg.Control) sidecar.DataPlane { return &engine{} })
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "upgrade the sidecar") {
		t.Errorf("got %v", err)
	}
}

func TestRun_PutsAssignmentsIntoEffectAndSaysSo(t *testing.T) {
	r := routertest.Start(t)
	cfg := config(t, r)
	cfg.ID = "s1"
	s, err := sidecar.New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	// The filter waits for a source that nobody runs: it is reported with what it waits for, and ended when it is withdrawn.
	r.Change(func(st *routertest.State) {
		st.Desired = &controlv1.WatchAssignmentsResponse{Revision: 5, Assignments: []*controlv1.Assignment{{
			Pipeline: "default/p", Generation: 1, Stage: "filter", Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: 4}, LastSlot: 255,
			Spec: &controlv1.StageSpec{
				Kind: conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM,
				Work: &controlv1.StageSpec_Cel{Cel: &controlv1.CelWork{Filter: "value.n > 1"}},
			},
			Upstream:   []*controlv1.Peer{{Stage: "in"}},
			Downstream: []*controlv1.Peer{{Stage: "out"}},
		}}}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	r.Until(t, "a report of the stage", func(st *routertest.State) bool {
		n := len(st.Heartbeats)
		return n > 0 && len(st.Heartbeats[n-1].GetStages()) == 1 && st.Heartbeats[n-1].GetStages()[0].GetStatus().GetWaitingFor() != ""
	})
	r.Change(func(st *routertest.State) { st.Desired = &controlv1.WatchAssignmentsResponse{Revision: 6} })
	r.Until(t, "no stage any more", func(st *routertest.State) bool {
		last := st.Heartbeats[len(st.Heartbeats)-1]
		return len(last.GetStages()) == 0 && st.Acks[len(st.Acks)-1].GetRevision() == 6
	})
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got %v", err)
	}
}
