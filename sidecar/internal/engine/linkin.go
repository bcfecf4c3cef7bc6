package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/buffer"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// linkIn is the receiving ends of a stage's edges from other sidecars.
type linkIn struct {
	s *stage

	mu     sync.Mutex
	ends   map[string]*linkEnd // by sending stage; that of the newest sender epoch
	closed bool
}

func newLinkIn(s *stage) *linkIn { return &linkIn{s: s, ends: make(map[string]*linkEnd)} }

// open returns the receiving end for a sender. A sender with an older epoch than one seen before is refused.
func (l *linkIn) open(from string, sender flow.Epoch) (*linkEnd, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, refusal(codes.FailedPrecondition, "STALE_EPOCH", "the stage has ended here")
	}
	if end := l.ends[from]; end != nil {
		if sender.Less(end.sender) {
			return nil, refusal(codes.FailedPrecondition, "FENCED", "stage %s has a newer owner than the one that sends", from)
		}
		if end.sender == sender {
			return end, nil
		}
		end.supersede()
	}
	end := &linkEnd{
		s: l.s, from: from, sender: sender, limit: buffer.NewRecvLimit(l.s.windowRecords(), l.s.windowBytes()),
		outcomes: make([]flow.Outcome, l.s.windowRecords()+1), wake: make(chan struct{}, 1),
	}
	l.ends[from] = end
	return end, nil
}

func (l *linkIn) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, end := range l.ends {
		end.supersede()
	}
}

// refusal is an error for a peer, with a reason for programs.
func refusal(code codes.Code, reason, format string, args ...any) error {
	st := status.New(code, fmt.Sprintf(format, args...))
	if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "conveyor.etl"}); err == nil {
		st = detailed
	}
	return st.Err()
}

// linkEnd receives what one owner of the sending stage sends, over one stream after the other. It is the root of the records' settlement
// and remembers how they ended until the sender must have heard of it.
type linkEnd struct {
	s      *stage
	from   string
	sender flow.Epoch
	limit  *buffer.RecvLimit
	wake   chan struct{}

	mu       sync.Mutex
	received uint64 // highest number taken
	// outcomes of the last numbers, at number modulo its length: the sender cannot hold more unsettled records than the window has.
	outcomes []flow.Outcome
	news     []*linkv1.SettledRun // not sent yet
	ended    bool
	endSent  bool
	stream   context.CancelCauseFunc // ends the current stream
}

// errSuperseded ends a stream whose sender, or whose stream, has a successor.
var errSuperseded = errors.New("superseded by a newer stream")

func (e *linkEnd) supersede() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream != nil {
		e.stream(errSuperseded)
		e.stream = nil
	}
}

// Settle notes how records ended, to tell the sender.
func (e *linkEnd) Settle(first uint64, n int, o flow.Outcome) {
	e.mu.Lock()
	for i := range uint64(n) {
		e.outcomes[(first+i)%uint64(len(e.outcomes))] = o
	}
	if k := len(e.news); k > 0 && e.news[k-1].First+e.news[k-1].Count == first && e.news[k-1].Outcome == o.Proto() {
		e.news[k-1].Count += uint64(n)
	} else {
		e.news = append(e.news, &linkv1.SettledRun{First: first, Count: uint64(n), Outcome: o.Proto()})
	}
	e.mu.Unlock()
	signal(e.wake)
}

// Release gives back the credit of records that have settled.
func (e *linkEnd) Release(_ *flow.Batch, records int, bytes int64, _ int) {
	e.limit.Settle(records, bytes)
}

// attach makes a stream the current one, and returns what the sender must be told first.
func (e *linkEnd) attach(cancel context.CancelCauseFunc, firstUnsettled uint64) *linkv1.LinkResponse {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream != nil {
		e.stream(errSuperseded)
	}
	e.stream = cancel
	e.endSent = false
	g := e.limit.Announce()
	resp := &linkv1.LinkResponse{
		Opened: &linkv1.LinkOpened{ReceivedThrough: e.received, Credit: &linkv1.Credit{Records: g.Records, Bytes: g.Bytes}},
	}
	// Responses may have been lost with the last stream: everything that the sender still holds is told again.
	e.news = nil
	window := uint64(len(e.outcomes))
	from := max(firstUnsettled, 1)
	if e.received >= window {
		from = max(from, e.received-window+1)
	}
	for n := from; n <= e.received; n++ {
		o := e.outcomes[n%window].Proto()
		if o == linkv1.Outcome_OUTCOME_UNSPECIFIED {
			continue
		}
		if k := len(resp.Settled); k > 0 && resp.Settled[k-1].First+resp.Settled[k-1].Count == n && resp.Settled[k-1].Outcome == o {
			resp.Settled[k-1].Count++
		} else {
			resp.Settled = append(resp.Settled, &linkv1.SettledRun{First: n, Count: 1, Outcome: o})
		}
	}
	return resp
}

// response returns what is new for the sender, or nil.
func (e *linkEnd) response() *linkv1.LinkResponse {
	e.mu.Lock()
	defer e.mu.Unlock()
	resp := &linkv1.LinkResponse{Settled: e.news}
	e.news = nil
	if e.limit.ShouldAnnounce() {
		g := e.limit.Announce()
		resp.Credit = &linkv1.Credit{Records: g.Records, Bytes: g.Bytes}
	}
	if e.ended && !e.endSent {
		e.endSent = true
		resp.Ended = &linkv1.LinkEnded{}
	}
	if len(resp.Settled) == 0 && resp.Credit == nil && resp.Ended == nil {
		return nil
	}
	return resp
}

// take hands a frame to the stage.
func (e *linkEnd) take(h *linkv1.FrameHeader, records *wire.Batch, lanes map[uint32]*flow.Lane) error {
	n := records.Len()
	lane := lanes[h.GetLane()]
	switch {
	case lane == nil:
		return fmt.Errorf("frame of lane %d, which was not introduced", h.GetLane())
	case n == 0 || int(h.GetRecords()) != n || h.GetBytes() != uint64(records.Bytes()):
		return fmt.Errorf("frame with %d records of %d bytes, its header says %d of %d", n, records.Bytes(), h.GetRecords(), h.GetBytes())
	case len(h.GetKeyHashes()) != 0 && len(h.GetKeyHashes()) != n:
		return fmt.Errorf("frame with %d records and %d key hashes", n, len(h.GetKeyHashes()))
	}
	seqs := make([]uint64, 0, n)
	for _, run := range h.GetOrigins() {
		if uint64(run.GetCount()) > uint64(n-len(seqs)) {
			return fmt.Errorf("frame with %d records and more origins", n)
		}
		for i := range uint64(run.GetCount()) {
			if run.GetSame() {
				i = 0
			}
			seqs = append(seqs, run.GetFirst()+i)
		}
	}
	if len(seqs) != n {
		return fmt.Errorf("frame with %d records and %d origins", n, len(seqs))
	}
	if err := e.limit.Check(n, int64(records.Bytes())); err != nil {
		return fmt.Errorf("the sender exceeds its credit: %w", err)
	}
	var keys []uint64
	if len(h.GetKeyHashes()) > 0 {
		keys = append(keys, h.GetKeyHashes()...)
	}
	e.mu.Lock()
	if h.GetFirst() <= e.received {
		e.mu.Unlock()
		return fmt.Errorf("frame from number %d on, %d was received", h.GetFirst(), e.received)
	}
	for i := range uint64(n) {
		e.outcomes[(h.GetFirst()+i)%uint64(len(e.outcomes))] = flow.Open
	}
	e.received = h.GetFirst() + uint64(n) - 1
	e.mu.Unlock()
	b := flow.FromRoot(lane, records, e, h.GetFirst(), seqs, keys)
	b.From = e.from
	b.Charge(e)
	e.s.in.push(b)
	return nil
}

// linkServer is SidecarDataPlane over messages that keep their records encoded.
type linkServer interface {
	link(stream grpc.ServerStream) error
}

// RegisterLink offers SidecarDataPlane. The server must use the codec of package wire.
func (e *Engine) RegisterLink(registrar grpc.ServiceRegistrar) {
	desc := controlv1.SidecarDataPlane_ServiceDesc
	registrar.RegisterService(&grpc.ServiceDesc{
		ServiceName: desc.ServiceName,
		HandlerType: (*linkServer)(nil),
		Metadata:    desc.Metadata,
		Streams: []grpc.StreamDesc{{
			StreamName: "Link", ServerStreams: true, ClientStreams: true,
			Handler: func(srv any, stream grpc.ServerStream) error { return srv.(linkServer).link(stream) },
		}},
	}, e)
}

// link serves one stream of one edge.
func (e *Engine) link(stream grpc.ServerStream) error {
	m := &wire.Message{Head: &linkv1.LinkRequest{}}
	if err := stream.RecvMsg(m); err != nil {
		return err
	}
	open := m.Head.(*linkv1.LinkRequest).GetOpen()
	if open == nil {
		return refusal(codes.InvalidArgument, "INVALID_LINK", "the first message of a link is not an open")
	}
	end, err := e.linkEnd(open)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	if err := stream.SendMsg(end.attach(cancel, open.GetFirstUnsettled())); err != nil {
		return err
	}
	wg.Go(func() { end.send(ctx, cancel, stream) })
	received := make(chan error, 1)
	// RecvMsg returns only when the stream ends, which is after this function has: nobody waits for this goroutine but gRPC itself.
	go func() { received <- end.receive(ctx, stream) }()
	select {
	case err = <-received:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errSuperseded):
		return refusal(codes.Aborted, "SUPERSEDED", "%v", err)
	case status.Code(err) != codes.Unknown:
		return err
	}
	e.log.Warn("link broken", "pipeline", open.GetPipeline(), "from", open.GetFrom(), "to", open.GetTo(), "err", err)
	return refusal(codes.InvalidArgument, "INVALID_LINK", "%v", err)
}

// linkEnd returns the receiving end that an open asks for.
func (e *Engine) linkEnd(open *linkv1.LinkOpen) (*linkEnd, error) {
	e.mu.Lock()
	s := e.stages[key{open.GetPipeline(), open.GetGeneration(), open.GetTo()}]
	e.mu.Unlock()
	if s == nil {
		return nil, refusal(codes.Unavailable, "NOT_ASSIGNED", "stage %s of %s is not assigned to this sidecar, or not yet", open.GetTo(), open.GetPipeline())
	}
	if epochOf(open.GetReceiver()) != s.epoch {
		return nil, refusal(codes.Unavailable, "STALE_EPOCH", "stage %s of %s has another epoch here", open.GetTo(), open.GetPipeline())
	}
	return s.links.open(open.GetFrom(), epochOf(open.GetSender()))
}

// receive takes frames until the sender closes the stream.
func (e *linkEnd) receive(ctx context.Context, stream grpc.ServerStream) error {
	lanes := make(map[uint32]*flow.Lane)
	for {
		m := &wire.Message{Head: &linkv1.LinkRequest{}}
		if err := stream.RecvMsg(m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		req := m.Head.(*linkv1.LinkRequest)
		for _, l := range req.GetLanes() {
			lanes[l.GetIndex()] = &flow.Lane{
				Pipeline: e.s.key.pipeline, Generation: l.GetGeneration(), Source: l.GetSource(), Stage: l.GetSourceStage(),
				Partition: l.GetPartition(), Epoch: epochOf(l.GetEpoch()),
			}
			if n := l.GetReplays(); n > 0 {
				lanes[l.GetIndex()].Replay = &flow.Replay{Count: n}
			}
		}
		if m.Batch != nil {
			if err := e.take(req.GetHeader(), m.Batch, lanes); err != nil {
				m.Batch.Free()
				return err
			}
		}
		if end := req.GetEnd(); end != nil {
			e.s.in.end(e.from, end.GetCompleted())
			e.mu.Lock()
			e.ended = true
			e.mu.Unlock()
			signal(e.wake)
		}
	}
}

// send tells the sender what has settled and what more it may send.
func (e *linkEnd) send(ctx context.Context, cancel context.CancelCauseFunc, stream grpc.ServerStream) {
	for {
		if resp := e.response(); resp != nil {
			if err := stream.SendMsg(resp); err != nil {
				cancel(err)
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
		}
	}
}
