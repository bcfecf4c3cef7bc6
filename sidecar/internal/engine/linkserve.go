package engine

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/auth"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	"github.com/conveyor-etl/conveyor/protos/ownership"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

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
	end, err := e.linkEnd(stream.Context(), open)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	in := &incoming{end: end, cancel: cancel, lanes: make(map[uint32]*flow.Lane)}
	if err := stream.SendMsg(end.attach(in, open.GetFirstUnsettled())); err != nil {
		return err
	}
	wg.Go(func() { in.send(ctx, stream) })
	received := make(chan error, 1)
	// RecvMsg returns only when the stream ends, which is after this function has: nobody waits for this goroutine but gRPC itself. What
	// it still receives counts for nothing once the stream is not the current one.
	go func() { received <- in.receive(ctx, stream) }()
	select {
	case err = <-received:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	end.detach(in)
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
func (e *Engine) linkEnd(ctx context.Context, open *linkv1.LinkOpen) (*linkEnd, error) {
	e.mu.Lock()
	s, signer := e.stages[key{open.GetPipeline(), open.GetGeneration(), open.GetTo()}], e.signer
	e.mu.Unlock()
	if s == nil {
		return nil, refusal(codes.Unavailable, "NOT_ASSIGNED", "stage %s of %s is not assigned to this sidecar, or not yet", open.GetTo(), open.GetPipeline())
	}
	if epochOf(open.GetReceiver()) != s.epoch {
		return nil, refusal(codes.Unavailable, "STALE_EPOCH", "stage %s of %s has another epoch here", open.GetTo(), open.GetPipeline())
	}
	if len(signer) > 0 {
		if err := checkOwner(ctx, signer, open, s.uid); err != nil {
			e.log.Warn("link refused", "pipeline", open.GetPipeline(), "from", open.GetFrom(), "to", open.GetTo(), "caller", auth.Name(ctx), "err", err)
			return nil, err
		}
	}
	return s.links.open(open.GetFrom(), sender{epochOf(open.GetSender()), open.GetSenderBoot()})
}

// checkOwner checks that the cluster made the caller the owner of the stage that sends, under the epoch that it names. I27.
func checkOwner(ctx context.Context, signer ed25519.PublicKey, open *linkv1.LinkOpen, pipelineUID string) error {
	claim := ownership.OfSender(open, pipelineUID)
	if !auth.Caller(ctx).MayBe(claim.SidecarID) {
		return refusal(codes.PermissionDenied, "NOT_THE_OWNER", "the certificate of %s is not that of sidecar %s", auth.Name(ctx), claim.SidecarID)
	}
	if err := claim.Verify(signer, open.GetOwnership().GetSignature()); err != nil {
		return refusal(codes.PermissionDenied, "NOT_THE_OWNER", "%v", err)
	}
	return nil
}

// receive takes frames until the sender closes the stream.
func (in *incoming) receive(ctx context.Context, stream grpc.ServerStream) error {
	for {
		m := &wire.Message{Head: &linkv1.LinkRequest{}}
		if err := stream.RecvMsg(m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		req := m.Head.(*linkv1.LinkRequest)
		err := context.Cause(ctx)
		for _, l := range req.GetLanes() {
			if err == nil {
				err = in.introduce(l)
			}
		}
		if m.Batch != nil {
			if err == nil {
				err = in.take(req.GetHeader(), m.Batch)
			}
			if err != nil {
				m.Batch.Free()
			}
		}
		if err != nil && !errors.Is(err, errShut) {
			return err
		}
		if end := req.GetEnd(); end != nil {
			in.over(end.GetCompleted())
		}
	}
}

// maxLanes bounds the lanes that one stream may have introduced at a time.
const maxLanes = 4096

// introduce notes a lane that frames may name.
func (in *incoming) introduce(l *linkv1.Lane) error {
	if _, known := in.lanes[l.GetIndex()]; !known && len(in.lanes) == maxLanes {
		return fmt.Errorf("more than %d lanes", maxLanes)
	}
	lane := &flow.Lane{
		Pipeline: in.end.s.key.pipeline, Generation: l.GetGeneration(), Source: l.GetSource(), Stage: l.GetSourceStage(),
		Partition: l.GetPartition(), Epoch: epochOf(l.GetEpoch()),
	}
	if n := l.GetReplays(); n > 0 {
		lane.Replay = &flow.Replay{Count: n}
	}
	in.lanes[l.GetIndex()] = lane
	return nil
}

// over notes that the sender will send no more.
func (in *incoming) over(completed bool) {
	e := in.end
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream != in || e.left { // I21: after what was not taken, the end is for whoever takes that
		return
	}
	e.ended = true
	e.s.in.end(e.from, completed)
	signal(e.wake)
}

// send tells the sender what has settled and what more it may send.
func (in *incoming) send(ctx context.Context, stream grpc.ServerStream) {
	for {
		if resp := in.end.response(in); resp != nil {
			if err := stream.SendMsg(resp); err != nil {
				in.cancel(err)
				return
			}
		}
		select {
		case <-ctx.Done():
			signal(in.end.wake) // it may have been meant for the stream that follows
			return
		case <-in.end.wake:
		}
	}
}
