package api

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router/internal/control"
	"github.com/conveyor-etl/conveyor/router/internal/session"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
	"github.com/conveyor-etl/conveyor/router/internal/status"
)

const (
	maxSessions      = 10_000
	maxEndpoints     = 256
	maxUnreachable   = 1024
	maxEndpointBytes = 384 << 10 // of all endpoints of a sidecar
	maxHostAddresses = 64
	maxTextBytes     = 256
	maxInstanceBytes = 64
)

var sidecarID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$`)

type coordinator struct {
	controlv1.UnimplementedSidecarCoordinatorServer
	Config
	takeovers     session.Takeovers
	instances     session.Instances
	registrations *admission
	reports       *admission // of checkpoints
}

func newCoordinator(cfg Config) *coordinator {
	return &coordinator{
		Config:        cfg,
		registrations: newAdmission("registrations", registering, registrationsWaiting, registrationPatience),
		reports:       newAdmission("reports of checkpoints", storing, checkpointsWaiting, checkpointPatience),
	}
}

// session checks that a call comes from a live session.
func (c *coordinator) session(s *controlv1.Session) error {
	_, err := c.Machine.Session(s.GetSidecarId(), s.GetEpoch())
	return toWire(err)
}

// Register implements controlv1.SidecarCoordinatorServer.
func (c *coordinator) Register(ctx context.Context, req *controlv1.RegisterRequest) (*controlv1.RegisterResponse, error) {
	endpoints, err := checkRegistration(req)
	if err != nil {
		return nil, err
	}
	leave, err := c.registrations.enter(ctx, proto.Size(req))
	if err != nil {
		return nil, err
	}
	defer leave()
	view := c.Machine.View()
	if view.Sessions[req.GetSidecarId()] == nil && len(view.Sessions) >= maxSessions {
		return nil, fail(codes.ResourceExhausted, reasonLimitExceeded, "%d sidecars are registered, which is the limit", maxSessions)
	}
	if err := c.checkTakeover(view, req); err != nil {
		return nil, err
	}
	c.Controller.Reports().End(req.GetSidecarId())
	r, err := c.Controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_OpenSession{OpenSession: &statepb.OpenSession{
		SidecarId: req.GetSidecarId(), Address: req.GetAddress(), HostName: req.GetHostName(), HostAddresses: req.GetHostAddresses(),
		Version: req.GetVersion(), FeatureLevel: req.GetFeatureLevel(), Endpoints: endpoints,
	}}})
	if err != nil {
		return nil, toWire(err)
	}
	c.Controller.Leases().Renew(req.GetSidecarId(), r.Index)
	view = c.Machine.View()
	c.instances.Opened(req.GetSidecarId(), r.Index, req.GetInstance(), func(sidecar string) bool { return view.Sessions[sidecar] != nil })
	c.Logger.Info("sidecar registered", "sidecar", req.GetSidecarId(), "address", req.GetAddress(), "services", len(endpoints))
	return &controlv1.RegisterResponse{
		Session: &controlv1.Session{SidecarId: req.GetSidecarId(), Epoch: r.Index}, ClusterId: view.ClusterID,
		TtlMillis: uint32(c.SessionTTL.Milliseconds()), HeartbeatMillis: uint32(c.HeartbeatEvery.Milliseconds()),
		AssignmentKey: c.signer(req.GetSidecarId()).public(),
	}, nil
}

// checkTakeover refuses a sidecar whose id another one has that was heard a moment ago, when this one had the id before and the other one took it, or when one has taken
// it from the other again and again: both were given the same id. A process that was started anew has not had the id yet, and so a restart is not refused.
func (c *coordinator) checkTakeover(view *state.View, req *controlv1.RegisterRequest) error {
	id := req.GetSidecarId()
	holder := view.Sessions[id]
	if holder == nil || !c.Controller.Leases().Heard(id, 2*c.HeartbeatEvery) {
		return nil
	}
	switch {
	case req.GetInstance() != "" && c.instances.Superseded(id, holder.GetEpoch(), req.GetInstance()):
		c.Logger.Warn("a sidecar comes back whose id another one took, which is alive: it is refused", "sidecar", id, "address", req.GetAddress(), "holder", holder.GetAddress())
	case holder.GetAddress() == req.GetAddress():
		return nil
	case c.takeovers.Allow(id):
		c.Logger.Warn("a sidecar takes over from another one with the same id", "sidecar", id, "address", req.GetAddress(), "from", holder.GetAddress())
		return nil
	}
	return fail(codes.AlreadyExists, reasonDuplicateID,
		"sidecar id %s belongs to the sidecar at %s on host %s, which is alive: give one of them another SIDECAR_ID, or an empty data directory if it is a copy",
		id, holder.GetAddress(), holder.GetHostName())
}

func checkRegistration(req *controlv1.RegisterRequest) ([][]byte, error) {
	if !sidecarID.MatchString(req.GetSidecarId()) {
		return nil, invalid("sidecar id %.140q is not 1 to 128 letters, digits and . _ : -", req.GetSidecarId())
	}
	if _, _, err := net.SplitHostPort(req.GetAddress()); err != nil || len(req.GetAddress()) > maxTextBytes {
		return nil, invalid("address %.260q of sidecar %s is not host:port", req.GetAddress(), req.GetSidecarId())
	}
	if len(req.GetHostName()) > maxTextBytes || len(req.GetVersion()) > maxTextBytes || len(req.GetHostAddresses()) > maxHostAddresses || len(req.GetInstance()) > maxInstanceBytes {
		return nil, invalid("host name, version, host addresses or instance of sidecar %s are too long", req.GetSidecarId())
	}
	for _, a := range req.GetHostAddresses() {
		if _, err := netip.ParseAddr(a); err != nil {
			return nil, invalid("host address %.60q of sidecar %s is not an IP address", a, req.GetSidecarId())
		}
	}
	return checkEndpoints(req.GetEndpoints())
}

func checkEndpoints(endpoints []*controlv1.Endpoint) ([][]byte, error) {
	if len(endpoints) > maxEndpoints {
		return nil, fail(codes.ResourceExhausted, reasonLimitExceeded, "%d services are reported, at most %d are kept", len(endpoints), maxEndpoints)
	}
	var out [][]byte
	size := 0
	for _, e := range endpoints {
		if e.GetAddress() == "" || e.GetPort() > 65535 {
			return nil, invalid("a service is reported without an address, or with port %d", e.GetPort())
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
		if err != nil {
			return nil, invalid("a reported service cannot be stored: %v", err)
		}
		size += len(b)
		out = append(out, b)
	}
	if size > maxEndpointBytes {
		return nil, fail(codes.ResourceExhausted, reasonLimitExceeded, "the reported services describe themselves in %d bytes, at most %d are kept", size, maxEndpointBytes)
	}
	return out, nil
}

// Heartbeat implements controlv1.SidecarCoordinatorServer.
func (c *coordinator) Heartbeat(_ context.Context, req *controlv1.HeartbeatRequest) (*controlv1.HeartbeatResponse, error) {
	if err := c.session(req.GetSession()); err != nil {
		return nil, err
	}
	s := status.Session{Sidecar: req.GetSession().GetSidecarId(), Epoch: req.GetSession().GetEpoch()}
	if n := len(req.GetUnreachable()); n > maxUnreachable {
		return nil, fail(codes.ResourceExhausted, reasonLimitExceeded, "sidecar %s does not reach %d others, at most %d can be told", s.Sidecar, n, maxUnreachable)
	}
	for _, id := range req.GetUnreachable() {
		if !sidecarID.MatchString(id) {
			return nil, invalid("sidecar %s does not reach %.140q, which is no id of a sidecar", s.Sidecar, id)
		}
	}
	c.Controller.Leases().Renew(s.Sidecar, s.Epoch, req.GetUnreachable()...)
	view := c.Machine.View()
	c.Controller.Reports().Take(s, req.GetStages(), req.GetLanes(), func(pipeline string, generation uint64) bool {
		return view.Pipelines[pipeline].GetGeneration() == generation
	})
	return &controlv1.HeartbeatResponse{CheckpointMillis: uint32(checkpointPause(len(view.Sessions)).Milliseconds())}, nil
}

const (
	minCheckpointPause = 250 * time.Millisecond
	maxCheckpointPause = 5 * time.Second
	// checkpointsPerSecond is how many reports of checkpoints all sidecars together should make: each is a command of the log.
	checkpointsPerSecond = 500
)

// checkpointPause is how long each of so many sidecars should collect checkpoints.
func checkpointPause(sidecars int) time.Duration {
	return min(max(time.Duration(sidecars)*time.Second/checkpointsPerSecond, minCheckpointPause), maxCheckpointPause)
}

// ReportEndpoints implements controlv1.SidecarCoordinatorServer.
func (c *coordinator) ReportEndpoints(ctx context.Context, req *controlv1.ReportEndpointsRequest) (*controlv1.ReportEndpointsResponse, error) {
	if err := c.session(req.GetSession()); err != nil {
		return nil, err
	}
	endpoints, err := checkEndpoints(req.GetEndpoints())
	if err != nil {
		return nil, err
	}
	id, epoch := req.GetSession().GetSidecarId(), req.GetSession().GetEpoch()
	if sameEndpoints(c.Machine.View().Sessions[id], endpoints) {
		return &controlv1.ReportEndpointsResponse{}, nil
	}
	_, err = c.Controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_SetEndpoints{
		SetEndpoints: &statepb.SetEndpoints{SidecarId: id, Epoch: epoch, Endpoints: endpoints},
	}})
	if err != nil {
		return nil, toWire(err)
	}
	return &controlv1.ReportEndpointsResponse{}, nil
}

func sameEndpoints(s *statepb.Session, endpoints [][]byte) bool {
	if len(s.GetEndpoints()) != len(endpoints) {
		return false
	}
	for i, e := range endpoints {
		if string(e) != string(s.GetEndpoints()[i]) {
			return false
		}
	}
	return true
}

// WatchAssignments implements controlv1.SidecarCoordinatorServer. Changes that follow each other faster than the sidecar takes them become one.
func (c *coordinator) WatchAssignments(req *controlv1.WatchAssignmentsRequest, stream grpc.ServerStreamingServer[controlv1.WatchAssignmentsResponse]) error {
	ctx, cancel := c.streamContext(stream.Context())
	defer cancel()
	id := req.GetSession().GetSidecarId()
	if err := c.Store.Read(ctx); err != nil {
		return toWire(err)
	}
	signer, desired := c.signer(id), control.NewDesired(id)
	var last *controlv1.WatchAssignmentsResponse
	for {
		changed := c.Machine.Changed()
		if err := c.session(req.GetSession()); err != nil {
			return err
		}
		view := c.Machine.View()
		if assignments, fresh := desired.In(view); fresh {
			next := &controlv1.WatchAssignmentsResponse{Assignments: assignments}
			signer.sign(next.GetAssignments())
			if last == nil || !proto.Equal(last, next) {
				last = next
				if err := stream.Send(&controlv1.WatchAssignmentsResponse{Revision: view.Index, Assignments: next.GetAssignments()}); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return c.stopped(ctx)
		case <-changed:
		}
	}
}

// AcknowledgeAssignments implements controlv1.SidecarCoordinatorServer.
func (c *coordinator) AcknowledgeAssignments(ctx context.Context, req *controlv1.AcknowledgeAssignmentsRequest) (*controlv1.AcknowledgeAssignmentsResponse, error) {
	if err := c.session(req.GetSession()); err != nil {
		return nil, err
	}
	if len(req.GetEnded()) == 0 {
		return &controlv1.AcknowledgeAssignmentsResponse{}, nil
	}
	cmd := &statepb.EndAssignments{SidecarId: req.GetSession().GetSidecarId(), SessionEpoch: req.GetSession().GetEpoch()}
	for _, e := range req.GetEnded() {
		ended := &statepb.EndedAssignment{
			Pipeline: e.GetPipeline(), Generation: e.GetGeneration(), Stage: e.GetStage(),
			Incarnation: e.GetEpoch().GetIncarnation(), Index: e.GetEpoch().GetIndex(), Completed: e.GetCompleted(),
		}
		if e.GetCompleted() {
			// A sidecar tells what it counted last before it says that a stage has ended.
			ended.Counts = c.Controller.StageCounts(e.GetPipeline(), e.GetGeneration(), e.GetStage())
		}
		cmd.Ended = append(cmd.Ended, ended)
	}
	if _, err := c.Controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_EndAssignments{EndAssignments: cmd}}); err != nil {
		return nil, toWire(err)
	}
	return &controlv1.AcknowledgeAssignmentsResponse{}, nil
}

// Deregister implements controlv1.SidecarCoordinatorServer.
func (c *coordinator) Deregister(ctx context.Context, req *controlv1.DeregisterRequest) (*controlv1.DeregisterResponse, error) {
	id, epoch := req.GetSession().GetSidecarId(), req.GetSession().GetEpoch()
	if err := c.session(req.GetSession()); err != nil {
		return nil, err
	}
	_, err := c.Controller.Propose(ctx, &statepb.Command{Kind: &statepb.Command_EndSession{EndSession: &statepb.EndSession{SidecarId: id, Epoch: epoch}}})
	if err != nil {
		return nil, toWire(err)
	}
	c.Controller.Reports().End(id)
	c.Logger.Info("sidecar deregistered", "sidecar", id)
	return &controlv1.DeregisterResponse{}, nil
}

// Replays implements controlv1.SidecarCoordinatorServer.
func (c *coordinator) Replays(stream grpc.BidiStreamingServer[controlv1.ReplaysRequest, controlv1.ReplaysResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := c.session(first.GetSession()); err != nil {
		return err
	}
	ctx, cancel := c.streamContext(stream.Context())
	defer cancel()
	send := func(l *controlv1.Letter) error {
		// The session may have ended while the stream stayed open.
		if err := c.session(first.GetSession()); err != nil {
			return err
		}
		return stream.Send(&controlv1.ReplaysResponse{Letter: l})
	}
	recv := func() (*controlv1.ReplayOutcome, error) {
		req, err := stream.Recv()
		return req.GetOutcome(), err
	}
	if err := c.Broker.Serve(ctx, first.GetSession().GetSidecarId(), send, recv); isStatus(err) {
		return err
	}
	return c.stopped(ctx)
}

// owns checks that a session runs a source stage now.
func (c *coordinator) owns(s *controlv1.Session, pipeline, stage string) error {
	a := c.Machine.View().Assignments[state.StageKey{Pipeline: pipeline, Stage: stage}]
	if a == nil || a.GetSidecarId() != s.GetSidecarId() || a.GetSessionEpoch() != s.GetEpoch() {
		return fail(codes.FailedPrecondition, reasonFenced, "stage %s of pipeline %s is not assigned to sidecar %s", stage, pipeline, s.GetSidecarId())
	}
	return nil
}

var errBadCheckpoints = errors.New("the state answered checkpoints with something else")
