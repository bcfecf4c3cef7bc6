// Package routertest is a router's side of the sidecar protocol, for tests: a gRPC server that remembers what it was told.
package routertest

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// patience is how long Until waits before it fails the test.
const patience = 30 * time.Second

// Router is a router of which a test sees everything. Start makes it.
type Router struct {
	controlv1.UnimplementedSidecarCoordinatorServer
	controlv1.UnimplementedDeadLetterServiceServer

	address string
	server  *grpc.Server
	served  sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{}
	state   State
}

// State is what a Router remembers. A test reads and changes it inside of Until and Change only.
type State struct {
	// Sessions by sidecar id; Epoch is the last one given out.
	Sessions map[string]uint64
	Epoch    uint64
	// Requests as they came.
	Registers    []*controlv1.RegisterRequest
	Heartbeats   []*controlv1.HeartbeatRequest
	Acks         []*controlv1.AcknowledgeAssignmentsRequest
	Endpoints    []*controlv1.Endpoint
	Reports      int
	Deregistered []string
	// Desired is what sidecars are told to run.
	Desired *controlv1.WatchAssignmentsResponse
	// Watches counts the watches that were opened.
	Watches int
	// Letters to hand out for replay, and what came back.
	Replay   []*controlv1.Letter
	Outcomes []*controlv1.ReplayOutcome
	Stored   []*controlv1.Letter
	// Checkpoints as reported.
	Checkpoints []*controlv1.Checkpoint
	// Heartbeat and TTL are told to sidecars.
	Heartbeat, TTL time.Duration
	// CheckpointMillis is told to sidecars that send a heartbeat.
	CheckpointMillis uint32
	// AssignmentKey is told to sidecars.
	AssignmentKey []byte
	// Refuse, if set, is the answer to every registration; Refused counts them, and RefusedAt is when the last one was. RegisteredAt is when the last one succeeded.
	Refuse                  error
	Refused                 int
	RefusedAt, RegisteredAt time.Time
}

// Start serves a router on a free port of loopback until the test ends.
func Start(t testing.TB) *Router {
	t.Helper()
	r := &Router{
		changed: make(chan struct{}),
		state:   State{Sessions: map[string]uint64{}, Heartbeat: 20 * time.Millisecond, TTL: 10 * time.Second, Desired: &controlv1.WatchAssignmentsResponse{Revision: 1}},
	}
	r.Serve(t, "127.0.0.1:0")
	t.Cleanup(r.Stop)
	return r
}

// Serve starts the router again after Stop, at Address or another one.
func (r *Router) Serve(t testing.TB, address string) {
	t.Helper()
	var lc net.ListenConfig
	lis, err := lc.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	r.address = lis.Addr().String()
	r.server = grpc.NewServer()
	controlv1.RegisterSidecarCoordinatorServer(r.server, r)
	controlv1.RegisterDeadLetterServiceServer(r.server, r)
	server := r.server
	r.served.Go(func() { _ = server.Serve(lis) })
}

// Address of the router.
func (r *Router) Address() string { return r.address }

// Stop breaks all connections off, as a crash does.
func (r *Router) Stop() {
	r.server.Stop()
	r.served.Wait()
}

// Change changes the state.
func (r *Router) Change(do func(*State)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do(&r.state)
	close(r.changed)
	r.changed = make(chan struct{})
}

// Until waits until the state is as asked for, and fails the test when that takes too long.
func (r *Router) Until(t testing.TB, what string, is func(*State) bool) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		r.mu.Lock()
		ok, changed := is(&r.state), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			t.Fatalf("waited in vain for this: %s", what)
		}
	}
}

// under checks a session and lets do change the state.
func (r *Router) under(session *controlv1.Session, do func(*State)) error {
	r.mu.Lock()
	known := r.state.Sessions[session.GetSidecarId()]
	r.mu.Unlock()
	if known == 0 || known != session.GetEpoch() {
		return Refusal(codes.NotFound, client.ReasonSessionEnded)
	}
	r.Change(do)
	return nil
}

// Refusal is an error with a reason.
func Refusal(code codes.Code, reason client.Reason, more ...protoadapt.MessageV1) error {
	st, err := status.New(code, string(reason)).WithDetails(append(more, &errdetails.ErrorInfo{Reason: string(reason), Domain: client.Domain})...)
	if err != nil {
		return err
	}
	return st.Err()
}

// Register implements SidecarCoordinator.
func (r *Router) Register(_ context.Context, req *controlv1.RegisterRequest) (*controlv1.RegisterResponse, error) {
	var resp *controlv1.RegisterResponse
	var err error
	r.Change(func(s *State) {
		if err = s.Refuse; err != nil {
			s.Refused++
			s.RefusedAt = time.Now()
			return
		}
		s.RegisteredAt = time.Now()
		s.Epoch++
		s.Sessions[req.GetSidecarId()] = s.Epoch
		s.Registers = append(s.Registers, req)
		s.Endpoints = req.GetEndpoints()
		resp = &controlv1.RegisterResponse{
			Session:   &controlv1.Session{SidecarId: req.GetSidecarId(), Epoch: s.Epoch},
			ClusterId: "test", TtlMillis: uint32(s.TTL.Milliseconds()), HeartbeatMillis: uint32(s.Heartbeat.Milliseconds()),
			AssignmentKey: s.AssignmentKey,
		}
	})
	return resp, err
}

// Heartbeat implements SidecarCoordinator.
func (r *Router) Heartbeat(_ context.Context, req *controlv1.HeartbeatRequest) (*controlv1.HeartbeatResponse, error) {
	resp := &controlv1.HeartbeatResponse{}
	err := r.under(req.GetSession(), func(s *State) {
		s.Heartbeats = append(s.Heartbeats, req)
		resp.CheckpointMillis = s.CheckpointMillis
	})
	return resp, err
}

// ReportEndpoints implements SidecarCoordinator.
func (r *Router) ReportEndpoints(_ context.Context, req *controlv1.ReportEndpointsRequest) (*controlv1.ReportEndpointsResponse, error) {
	return &controlv1.ReportEndpointsResponse{}, r.under(req.GetSession(), func(s *State) { s.Endpoints, s.Reports = req.GetEndpoints(), s.Reports+1 })
}

// WatchAssignments implements SidecarCoordinator.
func (r *Router) WatchAssignments(req *controlv1.WatchAssignmentsRequest, stream grpc.ServerStreamingServer[controlv1.WatchAssignmentsResponse]) error {
	if err := r.under(req.GetSession(), func(s *State) { s.Watches++ }); err != nil {
		return err
	}
	var sent *controlv1.WatchAssignmentsResponse
	for {
		r.mu.Lock()
		desired, changed := r.state.Desired, r.changed
		known := r.state.Sessions[req.GetSession().GetSidecarId()]
		r.mu.Unlock()
		if known != req.GetSession().GetEpoch() {
			return Refusal(codes.NotFound, client.ReasonSessionEnded)
		}
		if desired != sent {
			if err := stream.Send(desired); err != nil {
				return err
			}
			sent = desired
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// AcknowledgeAssignments implements SidecarCoordinator.
func (r *Router) AcknowledgeAssignments(_ context.Context, req *controlv1.AcknowledgeAssignmentsRequest) (*controlv1.AcknowledgeAssignmentsResponse, error) {
	return &controlv1.AcknowledgeAssignmentsResponse{}, r.under(req.GetSession(), func(s *State) { s.Acks = append(s.Acks, req) })
}

// ReadCheckpoints implements SidecarCoordinator.
func (r *Router) ReadCheckpoints(_ context.Context, req *controlv1.ReadCheckpointsRequest) (*controlv1.ReadCheckpointsResponse, error) {
	resp := &controlv1.ReadCheckpointsResponse{}
	err := r.under(req.GetSession(), func(s *State) { resp.Checkpoints, resp.Listed = slices.Clone(s.Checkpoints), len(s.Checkpoints) > 0 })
	return resp, err
}

// ReportCheckpoints implements SidecarCoordinator.
func (r *Router) ReportCheckpoints(_ context.Context, req *controlv1.ReportCheckpointsRequest) (*controlv1.ReportCheckpointsResponse, error) {
	resp := &controlv1.ReportCheckpointsResponse{}
	err := r.under(req.GetSession(), func(s *State) {
		s.Checkpoints = append(s.Checkpoints, req.GetCheckpoints()...)
		for range req.GetCheckpoints() {
			resp.Results = append(resp.Results, controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED)
		}
	})
	return resp, err
}

// StoreDeadLetters implements SidecarCoordinator.
func (r *Router) StoreDeadLetters(_ context.Context, req *controlv1.StoreDeadLettersRequest) (*controlv1.StoreDeadLettersResponse, error) {
	resp := &controlv1.StoreDeadLettersResponse{}
	err := r.under(req.GetSession(), func(s *State) {
		for _, l := range req.GetLetters() {
			l.Id = uint64(len(s.Stored) + 1)
			s.Stored = append(s.Stored, l)
			resp.Results = append(resp.Results, &controlv1.StoredLetter{Id: l.GetId()})
		}
	})
	return resp, err
}

// ListLetters implements DeadLetterService.
func (r *Router) ListLetters(req *controlv1.ListLettersRequest, stream grpc.ServerStreamingServer[controlv1.ListLettersResponse]) error {
	r.mu.Lock()
	letters := slices.Clone(r.state.Stored)
	r.mu.Unlock()
	n := uint32(0)
	for _, l := range letters {
		if l.GetId() <= req.GetAfter() || l.GetPipeline() != req.GetFilter().GetPipeline() {
			continue
		}
		if n++; req.GetLimit() > 0 && n > req.GetLimit() {
			return nil
		}
		if err := stream.Send(&controlv1.ListLettersResponse{Letter: l}); err != nil {
			return err
		}
	}
	return nil
}

// Replays implements SidecarCoordinator. Letters without an outcome are handed out on every stream.
func (r *Router) Replays(stream grpc.BidiStreamingServer[controlv1.ReplaysRequest, controlv1.ReplaysResponse]) error {
	open, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := r.under(open.GetSession(), func(*State) {}); err != nil {
		return err
	}
	go func() { // ends with the stream
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			r.Change(func(s *State) { s.Outcomes = append(s.Outcomes, m.GetOutcome()) })
		}
	}()
	handed := map[uint64]bool{}
	for {
		r.mu.Lock()
		letters, changed := slices.Clone(r.state.Replay), r.changed
		for _, o := range r.state.Outcomes {
			handed[o.GetLetterId()] = true
		}
		r.mu.Unlock()
		for _, l := range letters {
			if handed[l.GetId()] {
				continue
			}
			handed[l.GetId()] = true
			if err := stream.Send(&controlv1.ReplaysResponse{Letter: l}); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// Deregister implements SidecarCoordinator.
func (r *Router) Deregister(_ context.Context, req *controlv1.DeregisterRequest) (*controlv1.DeregisterResponse, error) {
	return &controlv1.DeregisterResponse{}, r.under(req.GetSession(), func(s *State) {
		delete(s.Sessions, req.GetSession().GetSidecarId())
		s.Deregistered = append(s.Deregistered, req.GetSession().GetSidecarId())
	})
}

// EndSessions forgets all sessions, as when they expired.
func (r *Router) EndSessions() {
	r.Change(func(s *State) { maps.DeleteFunc(s.Sessions, func(string, uint64) bool { return true }) })
}
