package router_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/rpc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/router"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("ROUTER_TEST_CHILD"); dir != "" {
		os.Exit(child(dir))
	}
	// Raft does not answer what lies in its queues when it stops: who waits for that stays, see raftstore.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*deferError).Error"))
}

// patience bounds every wait: it only keeps a broken test from hanging.
const patience = 60 * time.Second

// node is a running router and a client of it.
type node struct {
	t       *testing.T
	router  *router.Router
	conn    *grpc.ClientConn
	admin   controlv1.AdminServiceClient
	coord   controlv1.SidecarCoordinatorClient
	letters controlv1.DeadLetterServiceClient
	stop    func()
}

func testConfig(dir string) router.Config {
	cfg := router.DefaultConfig()
	cfg.GRPCPort, cfg.OpsPort, cfg.DataDir = 0, 0, dir
	return cfg
}

func start(t *testing.T, cfg router.Config) *node {
	t.Helper()
	r, err := router.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	select {
	case <-r.Ready():
	case err := <-ended:
		cancel()
		t.Fatalf("router ended: %v", err)
	case <-time.After(patience):
		cancel()
		t.Fatal("router never ready")
	}
	n := connect(t, r.Addr().String())
	n.router = r
	n.stop = sync.OnceFunc(func() {
		n.conn.Close()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("router: %v", err)
			}
		case <-time.After(patience):
			t.Error("router did not stop")
		}
	})
	t.Cleanup(n.stop)
	return n
}

func connect(t *testing.T, addr string) *node {
	t.Helper()
	return connectWith(t, addr, rpc.DialConfig{})
}

func connectWith(t *testing.T, addr string, cfg rpc.DialConfig) *node {
	t.Helper()
	conn, err := rpc.Dial(addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &node{
		t: t, conn: conn, admin: controlv1.NewAdminServiceClient(conn), coord: controlv1.NewSidecarCoordinatorClient(conn),
		letters: controlv1.NewDeadLetterServiceClient(conn),
	}
}

func source(name, typ string) string {
	return fmt.Sprintf(`{"apiVersion":"conveyor.etl/v1","kind":"Source","metadata":{"name":%q},"spec":{"connector":{"type":%q}}}`, name, typ)
}

func sink(name, endpoint string) string {
	return fmt.Sprintf(`{"apiVersion":"conveyor.etl/v1","kind":"Sink","metadata":{"name":%q},"spec":{"grpc":{"endpoint":%q}}}`, name, endpoint)
}

func filter(name, expr string) string {
	return fmt.Sprintf(`{"apiVersion":"conveyor.etl/v1","kind":"Transform","metadata":{"name":%q},"spec":{"cel":{"filter":%q}}}`, name, expr)
}

// pipeline has the given spec, as JSON.
func pipeline(name, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"conveyor.etl/v1","kind":"Pipeline","metadata":{"name":%q},"spec":%s}`, name, spec)
}

// simple is the pipeline p: in -> keep -> out, and its services.
var simple = []string{pipeline("p", `{"source":"in","steps":["keep"],"sink":"out"}`), source("in", "file"), filter("keep", "value.a > 1"), sink("out", "localhost:50070")}

func (n *node) apply(manifests ...string) *controlv1.ApplyResponse {
	n.t.Helper()
	resp, err := n.tryApply(manifests...)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp
}

func (n *node) tryApply(manifests ...string) (*controlv1.ApplyResponse, error) {
	req := &controlv1.ApplyRequest{}
	for _, m := range manifests {
		req.Manifests = append(req.Manifests, []byte(m))
	}
	return n.admin.Apply(n.t.Context(), req)
}

func (n *node) status(name string) *controlv1.PipelineStatus {
	n.t.Helper()
	resp, err := n.admin.GetPipelineStatus(n.t.Context(), &controlv1.GetPipelineStatusRequest{Namespace: "default", Name: name})
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.GetStatus()
}

func (n *node) awaitPhase(name string, want controlv1.Phase) *controlv1.PipelineStatus {
	n.t.Helper()
	var s *controlv1.PipelineStatus
	await(n.t, func() string {
		s = n.status(name)
		return differs(s.GetPhase(), want)
	})
	return s
}

func differs(got, want any) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("got %v, want %v", got, want)
}

// await repeats a check, which returns what is still amiss, until it is content.
func await(t *testing.T, check func() string) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		amiss := check()
		if amiss == "" {
			return
		}
		select {
		case <-deadline:
			t.Fatal(amiss)
		case <-tick.C:
		}
	}
}

// sidecar speaks the protocol of one.
type sidecar struct {
	*node
	id      string
	key     []byte // that signs assignments
	session *controlv1.Session
	cancel  context.CancelFunc
	done    chan struct{}

	mu      sync.Mutex
	state   []*controlv1.Assignment
	sets    int
	watched error
}

func endpoint(port uint32, abilities ...*conveyorv1.Ability) *controlv1.Endpoint {
	return &controlv1.Endpoint{Address: fmt.Sprintf("127.0.0.1:%d", port), Port: port, Abilities: abilities}
}

var (
	fileSource = &conveyorv1.Ability{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, Type: "file"}
	anySink    = &conveyorv1.Ability{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SINK}
	both       = []*controlv1.Endpoint{endpoint(50060, fileSource), endpoint(50070, anySink)}
)

func (n *node) register(id string, endpoints ...*controlv1.Endpoint) *sidecar {
	n.t.Helper()
	return n.registerOn(id, id, endpoints...)
}

// registerOn registers a sidecar of some machine.
func (n *node) registerOn(host, id string, endpoints ...*controlv1.Endpoint) *sidecar {
	n.t.Helper()
	var resp *controlv1.RegisterResponse
	await(n.t, func() string { // sidecars come again when a leader is lost meanwhile
		var err error
		resp, err = n.coord.Register(n.t.Context(), &controlv1.RegisterRequest{
			SidecarId: id, Address: "127.0.0.1:9091", HostName: host, HostAddresses: []string{"192.0.2.1"}, Version: "test", Endpoints: endpoints,
		})
		if err != nil && status.Code(err) != codes.Unavailable {
			n.t.Fatal(err)
		}
		return differs(err, nil)
	})
	ctx, cancel := context.WithCancel(n.t.Context())
	s := &sidecar{node: n, id: id, session: resp.GetSession(), key: resp.GetAssignmentKey(), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		// A leader that is lost ends its streams, and sidecars open others.
		for again := true; again && ctx.Err() == nil; <-time.After(10 * time.Millisecond) {
			err := s.watch(ctx)
			s.mu.Lock()
			s.watched = err
			s.mu.Unlock()
			again = status.Code(err) == codes.Unavailable
		}
	}()
	n.t.Cleanup(func() { cancel(); <-s.done })
	return s
}

// watch takes assignments until the stream ends.
func (s *sidecar) watch(ctx context.Context) error {
	stream, err := s.node.coord.WatchAssignments(ctx, &controlv1.WatchAssignmentsRequest{Session: s.session}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.state = m.GetAssignments()
		s.sets++
		s.mu.Unlock()
	}
}

func (s *sidecar) assignments() []*controlv1.Assignment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *sidecar) stages() string {
	var out []string
	for _, a := range s.assignments() {
		name := a.GetStage()
		if a.GetDrain() {
			name += "(drain)"
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (s *sidecar) awaitStages(want string) {
	s.t.Helper()
	await(s.t, func() string { return differs(s.stages(), want) })
}

// stage waits for the assignment of a stage.
func (s *sidecar) stage(name string) *controlv1.Assignment {
	s.t.Helper()
	var found *controlv1.Assignment
	await(s.t, func() string {
		for _, a := range s.assignments() {
			if a.GetStage() == name {
				found = a
				return ""
			}
		}
		return fmt.Sprintf("stage %s is not assigned to %s", name, s.id)
	})
	return found
}

// end reports assignments as ended.
func (s *sidecar) end(completed bool, all ...*controlv1.Assignment) {
	s.t.Helper()
	req := &controlv1.AcknowledgeAssignmentsRequest{Session: s.session}
	for _, a := range all {
		req.Ended = append(req.Ended, &controlv1.EndedAssignment{
			Pipeline: a.GetPipeline(), Generation: a.GetGeneration(), Stage: a.GetStage(), Epoch: a.GetEpoch(), Completed: completed,
		})
	}
	if _, err := s.coord.AcknowledgeAssignments(s.t.Context(), req); err != nil {
		s.t.Fatal(err)
	}
}

// open reports all assigned stages as open.
func (s *sidecar) open(lanes ...*controlv1.LaneReport) {
	s.t.Helper()
	s.report(true, lanes...)
}

// report tells of all assigned stages that they are open, or are not.
func (s *sidecar) report(open bool, lanes ...*controlv1.LaneReport) {
	s.t.Helper()
	req := &controlv1.HeartbeatRequest{Session: s.session, Lanes: lanes}
	for _, a := range s.assignments() {
		req.Stages = append(req.Stages, &controlv1.StageReport{
			Pipeline: a.GetPipeline(), Generation: a.GetGeneration(), Status: &controlv1.StageStatus{Name: a.GetStage(), Open: open},
		})
	}
	if _, err := s.coord.Heartbeat(s.t.Context(), req); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sidecar) checkpoint(a *controlv1.Assignment, sequence uint64, position string, ended bool) controlv1.CheckpointResult {
	s.t.Helper()
	resp, err := s.coord.ReportCheckpoints(s.t.Context(), &controlv1.ReportCheckpointsRequest{Session: s.session, Checkpoints: []*controlv1.Checkpoint{{
		Pipeline: a.GetPipeline(), SourceStage: a.GetStage(), Partition: "0", Generation: a.GetGeneration(), Epoch: a.GetEpoch(),
		Sequence: sequence, Position: []byte(position), Ended: ended,
	}}})
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.GetResults()[0]
}

// position reads the checkpoint of the only lane, or "".
func (s *sidecar) position(stage string) string {
	s.t.Helper()
	resp, err := s.coord.ReadCheckpoints(s.t.Context(), &controlv1.ReadCheckpointsRequest{Session: s.session, Pipeline: "default/p", SourceStage: stage})
	if err != nil {
		s.t.Fatal(err)
	}
	if len(resp.GetCheckpoints()) == 0 {
		return ""
	}
	return string(resp.GetCheckpoints()[0].GetPosition())
}

// reason is the reason of an error on the wire.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return "none: " + fmt.Sprint(err)
}

func mustRefuse(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %s", want)
	}
	if got := reason(err); got != want {
		t.Fatalf("reason %s, want %s", got, want)
	}
}

func spec(manifest []byte) string {
	var m struct{ Spec json.RawMessage }
	if err := json.Unmarshal(manifest, &m); err != nil {
		return err.Error()
	}
	return string(m.Spec)
}
