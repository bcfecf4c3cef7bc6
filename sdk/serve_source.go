package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

type sourceServer struct {
	conveyorv1.UnimplementedSourceServiceServer
	s *Server
}

func (s *sourceServer) Describe(context.Context, *conveyorv1.SourceServiceDescribeRequest) (*conveyorv1.SourceServiceDescribeResponse, error) {
	return &conveyorv1.SourceServiceDescribeResponse{Abilities: s.s.Describe()}, nil
}

func (s *sourceServer) ListPartitions(ctx context.Context, r *conveyorv1.ListPartitionsRequest) (*conveyorv1.ListPartitionsResponse, error) {
	o := r.GetOpening()
	a, err := s.s.find(conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, o.GetType())
	if err != nil {
		return nil, err
	}
	if err := a.check(o.GetConfig()); err != nil {
		return nil, statusOfError(err)
	}
	if a.partitions == nil {
		return &conveyorv1.ListPartitionsResponse{Partitions: []string{""}}, nil
	}
	names, err := a.partitions(ctx, openingOf(o, a.Type(), s.s.settings.log), o.GetConfig())
	if err != nil {
		return nil, statusOfError(err)
	}
	return &conveyorv1.ListPartitionsResponse{Partitions: names}, nil
}

// errStopped is the cause that ends a reader which was asked to stop.
var errStopped = errors.New("asked to stop")

// Pull runs three goroutines: one reads the source into the outbox, one sends what is in it, and one receives.
func (s *sourceServer) Pull(stream grpc.BidiStreamingServer[conveyorv1.PullRequest, conveyorv1.PullResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("receive open: %w", err)
	}
	open := first.GetOpen()
	if open == nil {
		return statusProtocol("a pull begins with an open")
	}
	a, err := s.s.find(conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, open.GetOpening().GetType())
	if err != nil {
		return err
	}
	o := SourceOpening{
		Opening:   openingOf(open.GetOpening(), a.Type(), s.s.settings.log),
		Partition: open.GetPartition(), From: open.GetPosition(), Beginning: open.GetBeginning(),
	}
	ctx, leave, err := s.s.fence.Enter(stream.Context(), o.Pipeline+" "+o.Stage+" "+o.Partition, o.Epoch)
	if err != nil {
		return statusOfError(err)
	}
	defer leave()
	reader, err := a.source(ctx, o, open.GetOpening().GetConfig())
	if err != nil {
		return statusOfError(err)
	}
	p := &pull{
		server: s.s, stream: stream, reader: reader, opening: o, ctx: ctx,
		box: newOutbox(newIdentity(o.UID, o.Partition, o.From)),
	}
	return statusOfError(errors.Join(p.run(), wrapClose(reader.Close())))
}

func wrapClose(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("close: %w", err)
}

// pull is one open Pull stream.
type pull struct {
	server  *Server
	stream  grpc.BidiStreamingServer[conveyorv1.PullRequest, conveyorv1.PullResponse]
	reader  Reader
	opening SourceOpening
	ctx     context.Context //nolint:containedctx // the stream's own, ended by a newer owner
	box     *outbox

	committing sync.Mutex // held while the reader commits
	over       bool       // the reader must not be used any more
}

// run sends until the stream ends. The reader has ended when it returns.
func (p *pull) run() error {
	opened := &conveyorv1.PullOpened{Position: p.opening.From}
	if starter, ok := p.reader.(Starter); ok && len(p.opening.From) == 0 {
		opened.Position = starter.Start()
		p.box.identity.preceding = append(p.box.identity.preceding[:0], opened.Position...)
	}
	err := p.stream.Send(&conveyorv1.PullResponse{Response: &conveyorv1.PullResponse_Opened{Opened: opened}})
	if err != nil {
		return err
	}
	readCtx, stopReading := context.WithCancelCause(p.ctx)
	commitCtx, stopCommits := context.WithCancel(p.ctx)
	stop := func() {
		stopReading(errStopped)
		p.box.drop()
	}
	var reading sync.WaitGroup
	reading.Go(func() { p.read(readCtx) })
	p.server.receives.Go(func() { p.box.fail(p.receive(commitCtx, stop)) })
	unfence := context.AfterFunc(p.ctx, func() { p.box.fail(context.Cause(p.ctx)) })
	unstop := context.AfterFunc(p.server.stopping, stop)

	// The sender may wait for a peer that reads nothing: a newer owner must not wait with it. It ends when this stream does.
	sent := make(chan error, 1)
	p.server.receives.Go(func() { sent <- p.send() })
	select {
	case err = <-sent:
	case <-p.ctx.Done():
		err = context.Cause(p.ctx)
	}

	unstop()
	unfence()
	stopReading(errStopped)
	stopCommits()
	p.box.close()
	reading.Wait()
	p.committing.Lock() // the receiver outlives this function by a moment, and must not use the reader any more
	p.over = true
	p.committing.Unlock()
	p.box.free()
	return err
}

// read runs the source into the outbox.
func (p *pull) read(ctx context.Context) {
	for record, err := range p.reader.Read(ctx) {
		if err == nil {
			err = p.box.append(&record)
		} else {
			err = p.failed(err)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, errBoxClosed), ctx.Err() != nil:
			p.box.end(false)
		default:
			p.box.endWith(err)
		}
		return
	}
	p.box.end(ctx.Err() == nil)
}

// failed passes a bad record on, and returns any other error.
func (p *pull) failed(err error) error {
	var bad *BadRecord
	if errors.As(err, &bad) {
		return p.box.appendFailed(bad)
	}
	return err
}

// receive takes credits, commits and the stop until the peer closes the stream.
func (p *pull) receive(ctx context.Context, stop func()) error {
	for {
		request, err := p.stream.Recv()
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		switch r := request.GetRequest().(type) {
		case *conveyorv1.PullRequest_Credit:
			p.box.grant(r.Credit.GetRecords(), r.Credit.GetBytes())
		case *conveyorv1.PullRequest_Commit:
			if err := p.commit(ctx, r.Commit.GetPosition()); err != nil {
				return err
			}
			p.box.confirm(r.Commit.GetPosition())
		case *conveyorv1.PullRequest_Stop:
			stop()
		default:
			return statusProtocol("a pull was sent %T after its open", r)
		}
	}
}

// commit passes a commit on, unless a newer owner has taken the lane over.
func (p *pull) commit(ctx context.Context, position Position) error {
	p.committing.Lock()
	defer p.committing.Unlock()
	if ctx.Err() != nil || p.over {
		return context.Cause(ctx)
	}
	committer, ok := p.reader.(Committer)
	if !ok {
		return nil
	}
	if err := committer.Commit(ctx, position); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// send passes on what the outbox holds until it is done or fails.
func (p *pull) send() error {
	batch := &wire.Message{Head: &conveyorv1.PullResponse{}}
	for {
		out, err := p.box.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if out.batch != nil {
			batch.Batch = out.batch
			err = p.stream.SendMsg(batch)
			out.batch.Free()
		} else {
			err = p.stream.Send(out.response)
		}
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}
