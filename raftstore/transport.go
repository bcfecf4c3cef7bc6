package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

const (
	// chunkBytes is what a message of entries or of a snapshot holds at most, unless a single entry is larger.
	chunkBytes = 256 << 10
	logWait    = 10 * time.Second
	shortWait  = 500 * time.Millisecond
)

// lane is what a connection is for: a long transfer must not delay a heartbeat.
type lane int

const (
	controlLane lane = iota // heartbeats, votes, probes
	logLane
	snapshotLane
)

type connKey struct {
	to   Peer
	lane lane
}

// transport carries the calls of raft over gRPC. It implements raft.Transport and raft.WithPreVote.
type transport struct {
	self    *self
	address raft.ServerAddress
	dial    func(to Peer) ([]grpc.DialOption, error)
	short   time.Duration // bounds heartbeats, votes and probes
	heard   *contacts

	calls     chan raft.RPC
	ctx       context.Context //nolint:containedctx // of the transport: every call in either direction ends with it
	cancel    context.CancelFunc
	inbound   context.Context //nolint:containedctx // of the calls of peers, which may end before this server's own
	refuse    context.CancelFunc
	mu        sync.Mutex
	conns     map[connKey]*grpc.ClientConn
	heartbeat func(raft.RPC)
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
)

func newTransport(self *self, cfg *Config) *transport {
	t := &transport{
		self: self, address: raft.ServerAddress(cfg.Address), dial: cfg.DialOptions, short: max(2*cfg.Timeouts.Heartbeat, shortWait),
		heard: newContacts(), calls: make(chan raft.RPC), conns: map[connKey]*grpc.ClientConn{},
	}
	if t.dial == nil {
		t.dial = loopbackOnly
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.inbound, t.refuse = context.WithCancel(t.ctx)
	return t
}

// loopbackOnly is for a machine that talks to itself: nothing else is to be reached without credentials.
func loopbackOnly(to Peer) ([]grpc.DialOption, error) {
	host, _, err := net.SplitHostPort(to.Address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s is not on this machine, and there are no credentials for it", to.Address)
	}
	return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, nil
}

// peerOf is a member as it is dialled: whoever answers must be the server of that name. The id in each call says which of its incarnations is meant.
func peerOf(id raft.ServerID, address raft.ServerAddress) Peer {
	return Peer{ServerName: nameOf(string(id)), Address: string(address)}
}

func (t *transport) client(to Peer, lane lane) (controlv1.RaftServiceClient, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return nil, raft.ErrTransportShutdown
	}
	key := connKey{to, lane}
	conn := t.conns[key]
	if conn == nil {
		options, err := t.dial(to)
		if err != nil {
			return nil, fmt.Errorf("dial server %s at %s: %w", to.ServerName, to.Address, err)
		}
		// The name is looked up at each dialling, and not kept: addresses change under a name.
		if conn, err = grpc.NewClient("passthrough:///"+to.Address, options...); err != nil {
			return nil, fmt.Errorf("dial server %s at %s: %w", to.ServerName, to.Address, err)
		}
		t.conns[key] = conn
	}
	return controlv1.NewRaftServiceClient(conn), nil
}

// lost drops a connection over which a call failed, so that the next call dials anew. Raft itself waits between attempts.
func (t *transport) lost(to Peer, lane lane, err error) {
	if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded && code != codes.Canceled {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := connKey{to, lane}
	if conn := t.conns[key]; conn != nil {
		conn.Close()
		delete(t.conns, key)
	}
}

// stop ends all calls, in both directions. It may be called again.
func (t *transport) stop() error {
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	for key, conn := range t.conns {
		err = errors.Join(err, conn.Close())
		delete(t.conns, key)
	}
	return err
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.calls }

// LocalAddr implements raft.Transport.
func (t *transport) LocalAddr() raft.ServerAddress { return t.address }

// EncodePeer implements raft.Transport.
func (t *transport) EncodePeer(_ raft.ServerID, address raft.ServerAddress) []byte {
	return []byte(address)
}

// DecodePeer implements raft.Transport.
func (t *transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heartbeat = handle
}

// call makes one call within the given time.
func (t *transport) call(to Peer, lane lane, wait time.Duration, do func(context.Context, controlv1.RaftServiceClient) error) error {
	c, err := t.client(to, lane)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.ctx, wait)
	defer cancel()
	if err := do(ctx, c); err != nil {
		t.lost(to, lane, err)
		return err
	}
	return nil
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, address raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	lane, wait := logLane, logWait
	if isHeartbeat(args) {
		lane, wait = controlLane, t.short
	}
	return t.call(peerOf(id, address), lane, wait, func(ctx context.Context, c controlv1.RaftServiceClient) error {
		sent := time.Now()
		stream, err := c.AppendEntries(ctx)
		if err != nil {
			return err
		}
		for _, part := range split(t.self.target(id, args.RPCHeader), args) {
			if err := exchange(stream, part, resp); err != nil {
				return err
			}
			if !resp.Success {
				break
			}
		}
		t.heard.answered(id, args, resp, sent)
		return nil
	})
}

func exchange(stream grpc.BidiStreamingClient[controlv1.AppendEntriesRequest, controlv1.AppendEntriesResponse], part *controlv1.AppendEntriesRequest,
	resp *raft.AppendEntriesResponse,
) error {
	// A failed send says EOF; the reason comes with the receipt.
	if err := stream.Send(part); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	*resp = appendResponse(m)
	return nil
}

// RequestVote implements raft.Transport.
func (t *transport) RequestVote(id raft.ServerID, address raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.call(peerOf(id, address), controlLane, t.short, func(ctx context.Context, c controlv1.RaftServiceClient) error {
		m, err := c.RequestVote(ctx, &controlv1.RequestVoteRequest{
			Target: t.self.target(id, args.RPCHeader), Term: args.Term, LastLogIndex: args.LastLogIndex, LastLogTerm: args.LastLogTerm,
			LeadershipTransfer: args.LeadershipTransfer,
		})
		*resp = raft.RequestVoteResponse{RPCHeader: header(m.GetTarget()), Term: m.GetTerm(), Granted: m.GetGranted()}
		return err
	})
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, address raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.call(peerOf(id, address), controlLane, t.short, func(ctx context.Context, c controlv1.RaftServiceClient) error {
		m, err := c.RequestPreVote(ctx, &controlv1.RequestPreVoteRequest{
			Target: t.self.target(id, args.RPCHeader), Term: args.Term, LastLogIndex: args.LastLogIndex, LastLogTerm: args.LastLogTerm,
		})
		*resp = raft.RequestPreVoteResponse{RPCHeader: header(m.GetTarget()), Term: m.GetTerm(), Granted: m.GetGranted()}
		return err
	})
}

// TimeoutNow implements raft.Transport.
func (t *transport) TimeoutNow(id raft.ServerID, address raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.call(peerOf(id, address), controlLane, t.short, func(ctx context.Context, c controlv1.RaftServiceClient) error {
		m, err := c.TimeoutNow(ctx, &controlv1.TimeoutNowRequest{Target: t.self.target(id, args.RPCHeader)})
		*resp = raft.TimeoutNowResponse{RPCHeader: header(m.GetTarget())}
		return err
	})
}

// InstallSnapshot implements raft.Transport.
func (t *transport) InstallSnapshot(id raft.ServerID, address raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse,
	data io.Reader,
) error {
	wait := logWait * time.Duration(1+args.Size/chunkBytes)
	return t.call(peerOf(id, address), snapshotLane, wait, func(ctx context.Context, c controlv1.RaftServiceClient) error {
		stream, err := c.InstallSnapshot(ctx)
		if err != nil {
			return err
		}
		if err := sendSnapshot(stream, snapshotHead(t.self.target(id, args.RPCHeader), args), data); err != nil {
			return err
		}
		m, err := stream.CloseAndRecv()
		*resp = raft.InstallSnapshotResponse{RPCHeader: header(m.GetTarget()), Term: m.GetTerm(), Success: m.GetSuccess()}
		return err
	})
}

func sendSnapshot(stream grpc.ClientStreamingClient[controlv1.InstallSnapshotRequest, controlv1.InstallSnapshotResponse], head *controlv1.SnapshotHead,
	data io.Reader,
) error {
	message := &controlv1.InstallSnapshotRequest{Head: head}
	for {
		err := stream.Send(message)
		if errors.Is(err, io.EOF) {
			return nil // the receiver has ended the call, and says why in its answer
		}
		if err != nil {
			return err
		}
		chunk := make([]byte, chunkBytes)
		n, err := io.ReadFull(data, chunk)
		if n == 0 && errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("read snapshot: %w", err)
		}
		message = &controlv1.InstallSnapshotRequest{Chunk: chunk[:n]}
	}
}

// probe asks a server, whose incarnation is not known, who it is.
func (t *transport) probe(to Peer) (m *controlv1.ProbeResponse, err error) {
	err = t.call(to, controlLane, t.short, func(ctx context.Context, c controlv1.RaftServiceClient) (err error) {
		m, err = c.Probe(ctx, &controlv1.ProbeRequest{})
		return err
	})
	return m, err
}
