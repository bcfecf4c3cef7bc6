package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

const (
	// maxStreams bounds what peers can make this node hold: each stream holds one message, of at most what the gRPC server takes.
	maxStreams = 64
	// maxEntries is more than raft puts into one request.
	maxEntries = 1024
)

// service is the receiving half of the transport.
type service struct {
	controlv1.UnimplementedRaftServiceServer
	t         *transport
	streams   chan struct{}
	snapshots chan struct{}
	heard     heard
	applied   func() uint64 // set before the service is used
}

func newService(t *transport) *service {
	return &service{t: t, streams: make(chan struct{}, maxStreams), snapshots: make(chan struct{}, 1)}
}

// admit refuses what is not meant for this server. It comes before anything that raft could vote on or store.
func (s *service) admit(target *controlv1.RaftTarget) error {
	if err := s.t.self.admit(target.GetClusterId(), target.GetTargetServerId()); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return nil
}

func enter(places chan struct{}, what string) error {
	select {
	case places <- struct{}{}:
		return nil
	default:
		return status.Errorf(codes.ResourceExhausted, "this server has %d %s under way: try again later", cap(places), what)
	}
}

// ask hands a call to raft, and waits for the answer.
func (s *service) ask(ctx context.Context, command any, data io.Reader) (any, error) {
	answer := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: command, Reader: data, RespChan: answer}
	if r, ok := command.(*raft.AppendEntriesRequest); ok && isHeartbeat(r) {
		s.t.mu.Lock()
		handle := s.t.heartbeat
		s.t.mu.Unlock()
		if handle != nil {
			handle(rpc)
			return s.wait(ctx, answer)
		}
	}
	select {
	case s.t.calls <- rpc:
		return s.wait(ctx, answer)
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-s.t.inbound.Done():
		return nil, errStopping
	}
}

var errStopping = status.Error(codes.Unavailable, "this server is stopping")

func (s *service) wait(ctx context.Context, answer <-chan raft.RPCResponse) (any, error) {
	select {
	case r := <-answer:
		if r.Error != nil {
			return nil, status.Error(codes.Aborted, r.Error.Error())
		}
		return r.Response, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-s.t.inbound.Done():
		return nil, errStopping
	}
}

// AppendEntries implements controlv1.RaftServiceServer.
func (s *service) AppendEntries(stream grpc.BidiStreamingServer[controlv1.AppendEntriesRequest, controlv1.AppendEntriesResponse]) error {
	if err := enter(s.streams, "streams of entries"); err != nil {
		return err
	}
	defer func() { <-s.streams }()
	received := make(chan received)
	// Ends with the stream, which ends with this call.
	go receiveAll(stream, received)
	for {
		select {
		case <-s.t.inbound.Done():
			return errStopping
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case r := <-received:
			if errors.Is(r.err, io.EOF) {
				return nil
			}
			if r.err != nil {
				return r.err
			}
			if err := s.appendOne(stream, r.m); err != nil {
				return err
			}
		}
	}
}

type received struct {
	m   *controlv1.AppendEntriesRequest
	err error
}

func receiveAll(stream grpc.BidiStreamingServer[controlv1.AppendEntriesRequest, controlv1.AppendEntriesResponse], to chan<- received) {
	for {
		m, err := stream.Recv()
		select {
		case to <- received{m, err}:
		case <-stream.Context().Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (s *service) appendOne(stream grpc.BidiStreamingServer[controlv1.AppendEntriesRequest, controlv1.AppendEntriesResponse],
	m *controlv1.AppendEntriesRequest,
) error {
	if err := s.admit(m.GetTarget()); err != nil {
		return err
	}
	if n := len(m.GetEntries()); n > maxEntries {
		return status.Errorf(codes.InvalidArgument, "%d entries in one message, at most %d", n, maxEntries)
	}
	req := appendRequest(m)
	for _, e := range req.Entries {
		if err := checkEntry(e); err != nil {
			return status.Errorf(codes.InvalidArgument, "entry %d of server %.100q cannot be taken: %v", e.Index, req.ID, err)
		}
	}
	got, err := s.ask(stream.Context(), req, nil)
	if err != nil {
		return err
	}
	r := got.(*raft.AppendEntriesResponse)
	// Heartbeats do not say how far the leader has committed.
	if r.Success && m.GetPreviousEntry() > 0 {
		s.heard.take(max(m.GetCommitted(), m.GetLeaderCommitIndex()), s.applied(), time.Now())
	}
	return stream.Send(&controlv1.AppendEntriesResponse{
		Target: s.t.self.target("", r.RPCHeader), Term: r.Term, LastLog: r.LastLog, Success: r.Success, NoRetryBackoff: r.NoRetryBackoff,
	})
}

// RequestVote implements controlv1.RaftServiceServer.
func (s *service) RequestVote(ctx context.Context, m *controlv1.RequestVoteRequest) (*controlv1.RequestVoteResponse, error) {
	if err := s.admit(m.GetTarget()); err != nil {
		return nil, err
	}
	got, err := s.ask(ctx, &raft.RequestVoteRequest{
		RPCHeader: header(m.GetTarget()), Term: m.GetTerm(), LastLogIndex: m.GetLastLogIndex(),
		LastLogTerm: m.GetLastLogTerm(), LeadershipTransfer: m.GetLeadershipTransfer(),
	}, nil)
	if err != nil {
		return nil, err
	}
	r := got.(*raft.RequestVoteResponse)
	return &controlv1.RequestVoteResponse{Target: s.t.self.target("", r.RPCHeader), Term: r.Term, Granted: r.Granted}, nil
}

// RequestPreVote implements controlv1.RaftServiceServer.
func (s *service) RequestPreVote(ctx context.Context, m *controlv1.RequestPreVoteRequest) (*controlv1.RequestPreVoteResponse, error) {
	if err := s.admit(m.GetTarget()); err != nil {
		return nil, err
	}
	got, err := s.ask(ctx, &raft.RequestPreVoteRequest{
		RPCHeader: header(m.GetTarget()), Term: m.GetTerm(), LastLogIndex: m.GetLastLogIndex(), LastLogTerm: m.GetLastLogTerm(),
	}, nil)
	if err != nil {
		return nil, err
	}
	r := got.(*raft.RequestPreVoteResponse)
	return &controlv1.RequestPreVoteResponse{Target: s.t.self.target("", r.RPCHeader), Term: r.Term, Granted: r.Granted}, nil
}

// TimeoutNow implements controlv1.RaftServiceServer.
func (s *service) TimeoutNow(ctx context.Context, m *controlv1.TimeoutNowRequest) (*controlv1.TimeoutNowResponse, error) {
	if err := s.admit(m.GetTarget()); err != nil {
		return nil, err
	}
	got, err := s.ask(ctx, &raft.TimeoutNowRequest{RPCHeader: header(m.GetTarget())}, nil)
	if err != nil {
		return nil, err
	}
	return &controlv1.TimeoutNowResponse{Target: s.t.self.target("", got.(*raft.TimeoutNowResponse).RPCHeader)}, nil
}

// InstallSnapshot implements controlv1.RaftServiceServer. Raft takes the chunks as it writes them.
func (s *service) InstallSnapshot(stream grpc.ClientStreamingServer[controlv1.InstallSnapshotRequest, controlv1.InstallSnapshotResponse]) error {
	if err := enter(s.snapshots, "snapshots"); err != nil {
		return err
	}
	defer func() { <-s.snapshots }()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := s.admit(first.GetHead().GetTarget()); err != nil {
		return err
	}
	if err := checkHead(first.GetHead()); err != nil {
		return status.Errorf(codes.InvalidArgument, "a snapshot of server %.100q cannot be taken: %v", first.GetHead().GetTarget().GetSenderId(), err)
	}
	data := io.LimitReader(&chunks{stream: stream, rest: first.GetChunk()}, first.GetHead().GetSize())
	got, err := s.ask(stream.Context(), snapshotRequest(first.GetHead()), data)
	if err != nil {
		return err
	}
	r := got.(*raft.InstallSnapshotResponse)
	return stream.SendAndClose(&controlv1.InstallSnapshotResponse{Target: s.t.self.target("", r.RPCHeader), Term: r.Term, Success: r.Success})
}

// checkHead refuses what raft would not survive.
func checkHead(h *controlv1.SnapshotHead) error {
	if v := h.GetSnapshotVersion(); v != uint32(raft.SnapshotVersionMax) {
		return fmt.Errorf("its version %d is not known", v)
	}
	if h.GetSize() < 0 {
		return fmt.Errorf("it has %d bytes", h.GetSize())
	}
	return checkConfiguration(h.GetConfiguration())
}

// chunks reads a snapshot off its stream.
type chunks struct {
	stream grpc.ClientStreamingServer[controlv1.InstallSnapshotRequest, controlv1.InstallSnapshotResponse]
	rest   []byte
}

func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, fmt.Errorf("receive snapshot: %w", err)
		}
		c.rest = m.GetChunk()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Probe implements controlv1.RaftServiceServer.
func (s *service) Probe(context.Context, *controlv1.ProbeRequest) (*controlv1.ProbeResponse, error) {
	id := s.t.self.get()
	return &controlv1.ProbeResponse{ServerId: id.ServerID, ClusterId: id.ClusterID}, nil
}
