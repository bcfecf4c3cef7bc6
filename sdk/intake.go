package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

// request is what ProcessRequest and WriteRequest have in common.
type request interface {
	wire.Head
	GetSequence() uint64
	GetOpen() *conveyorv1.Opening
	GetReleased() *conveyorv1.Released
	GetFlush() *conveyorv1.Flush
}

// intake receives the requests of a stream in the background and hands them on in order, sequences checked.
type intake[R request] struct {
	stream grpc.ServerStream
	fresh  func() R
	box    *inbox[R]
	last   uint64 // sequence
}

// firstOpening receives the open of a stream.
func firstOpening[R request](stream grpc.ServerStream, r R) (*conveyorv1.Opening, error) {
	m := wire.Message{Head: r}
	if err := stream.RecvMsg(&m); err != nil {
		return nil, fmt.Errorf("receive open: %w", err)
	}
	if m.Batch != nil {
		m.Batch.Free()
	}
	o := r.GetOpen()
	if o == nil || m.Batch != nil || r.GetSequence() != 0 {
		return nil, statusProtocol("a stream begins with an open, without records and sequence")
	}
	return o, nil
}

// newIntake receives until stop is called, or ctx, which is the stream's or made of it, ends.
func newIntake[R request](ctx context.Context, s *Server, stream grpc.ServerStream, fresh func() R) (in *intake[R], stop func()) {
	in = &intake[R]{stream: stream, fresh: fresh, box: newInbox[R]()}
	s.receives.Go(func() { in.box.end(in.receive()) })
	unstop := context.AfterFunc(s.stopping, func() { in.box.end(statusStopping()) })
	unwatch := context.AfterFunc(ctx, func() { in.box.abort(context.Cause(ctx)) })
	return in, func() {
		unstop()
		unwatch()
		in.box.close()
	}
}

func (in *intake[R]) receive() error {
	for {
		m := wire.Message{Head: in.fresh()}
		if err := in.stream.RecvMsg(&m); err != nil {
			return err
		}
		if !in.box.put(m.Head.(R), m.Batch) {
			return errBoxClosed
		}
	}
}

// next blocks until there is a request. The caller owns the batch, which is nil for requests without records. It returns io.EOF when the
// peer has closed the stream.
func (in *intake[R]) next() (R, *wire.Batch, error) {
	head, batch, err := in.box.get()
	if err != nil {
		return head, nil, err
	}
	if err := in.check(head, batch); err != nil {
		if batch != nil {
			batch.Free()
		}
		return head, nil, err
	}
	return head, batch, nil
}

func (in *intake[R]) check(head R, batch *wire.Batch) error {
	sequence := head.GetSequence()
	switch {
	case head.GetOpen() != nil:
		return statusProtocol("a second open on a stream")
	case batch == nil && sequence != 0:
		return statusProtocol("request %d has no records", sequence)
	case batch == nil:
		return nil
	case sequence != in.last+1:
		return statusProtocol("request %d came after request %d", sequence, in.last)
	}
	in.last = sequence
	return nil
}

// endOfStream turns io.EOF into nil.
func endOfStream(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
