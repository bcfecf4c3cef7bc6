package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/buffer"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

// stopPatience is how long a source may take to end its stream after a stop, and to confirm its last commit.
const stopPatience = 10 * time.Second

// pulling is one stream from a source.
type pulling struct {
	stream grpc.ClientStream
	limit  *buffer.RecvLimit
	wake   chan struct{} // something to send

	mu        sync.Mutex
	sent      []byte // last commit sent
	committed []byte // last commit confirmed
	stop      bool
	stopped   bool
}

// pull reads a lane over one stream, until the source has ended it and, if the stage is not drained, is exhausted.
func (w *source) pull(lane context.Context, r *reading, beginning bool) (exhausted bool, err error) {
	name := fmt.Sprintf("source %s at %s", w.s.spec.GetService(), w.work.GetAddress())
	conn, err := w.s.dial(w.work)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(lane)
	defer cancel(nil)
	stream, err := dialStream(ctx, conn, conveyorv1.SourceService_Pull_FullMethodName)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	open := &conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Open{Open: &conveyorv1.PullOpen{
		Opening: w.s.opening(w.work), Partition: r.partition, Position: r.resume(), Beginning: beginning,
	}}}
	if err := stream.SendMsg(open); err != nil {
		return false, fmt.Errorf("%s: open: %w", name, streamError(stream, err))
	}
	p := &pulling{stream: stream, limit: buffer.NewRecvLimit(w.s.windowRecords(), w.s.windowBytes()), wake: make(chan struct{}, 1)}
	events := make(chan *wire.Message, 2)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	failed := make(chan error, 1)
	wg.Go(func() { failed <- p.receive(ctx, events) })

	opened, err := p.await(ctx, events, failed)
	if err != nil {
		return false, fmt.Errorf("%s: open: %w", name, err)
	}
	if opened == nil {
		return false, fmt.Errorf("%s: its first response is not an opened", name)
	}
	if err := r.begin(ctx, opened.GetPosition()); err != nil {
		return false, err
	}
	w.s.setOpen(true)
	r.setProblem("")
	wg.Go(func() {
		if err := p.send(ctx, r); err != nil && !errors.Is(err, io.EOF) {
			cancel(err) // otherwise the receiver knows why the stream broke
		}
	})
	drained := w.s.drained
	var patience <-chan time.Time
	for {
		taken, reached := w.mayTake(r, events, drained == nil)
		select {
		case <-reached:
		case <-ctx.Done():
			return false, fmt.Errorf("%s: %w", name, context.Cause(ctx))
		case <-drained:
			drained = nil
			p.askToStop()
			patience = time.After(stopPatience)
		case <-patience:
			return false, nil
		case err := <-failed:
			return false, fmt.Errorf("%s: %w", name, err)
		case m := <-taken:
			// I2: what was taken goes on. Only the end of the lane itself leaves it unsettled.
			end, err := w.handle(lane, r, p, m)
			if err != nil {
				return false, fmt.Errorf("%s: %w", name, err)
			}
			if end == nil {
				continue
			}
			exhausted = end.GetExhausted()
			if !exhausted && drained != nil {
				// It ends by itself, as a service does that is restarted. It is let go at once, since its sink may be ending with it.
				return false, fmt.Errorf("%s: it has stopped reading", name)
			}
			if err := r.finish(ctx, exhausted); err != nil {
				return false, err
			}
			p.awaitCommit(ctx, r, events, failed)
			return exhausted, nil
		}
	}
}

// noRouters is what a lane says that pauses.
const noRouters = "paused: no router is reached"

// mayTake returns what the lane may take at the moment: nothing while it pauses for want of a router, unless it is to end. What is closed when that changes comes with it.
func (w *source) mayTake(r *reading, events <-chan *wire.Message, ending bool) (taken <-chan *wire.Message, changed <-chan struct{}) {
	if !w.s.spec.GetPauseWithoutRouters() || ending {
		return events, nil
	}
	cut, changed := w.s.e.reach.look()
	r.pause(cut)
	if cut {
		return nil, changed
	}
	return events, changed
}

// handle takes one response of a source. It returns the end when it was one.
func (w *source) handle(ctx context.Context, r *reading, p *pulling, m *wire.Message) (*conveyorv1.PullEnd, error) {
	if b := m.Batch; b != nil {
		n, size := b.Len(), b.Bytes()
		if n == 0 {
			b.Free()
			return nil, nil
		}
		if err := p.limit.Check(n, int64(size)); err != nil {
			b.Free()
			return nil, fmt.Errorf("it sent more than it was allowed: %w", err)
		}
		if err := r.take(ctx, b); err != nil {
			return nil, err
		}
		p.settle(n, int64(size))
		return nil, nil
	}
	switch resp := m.Head.(*conveyorv1.PullResponse).GetResponse().(type) {
	case *conveyorv1.PullResponse_Committed:
		p.confirm(resp.Committed.GetPosition())
	case *conveyorv1.PullResponse_End:
		return resp.End, nil
	case *conveyorv1.PullResponse_Failed:
		record, err := resp.Failed.GetRecord().MarshalVT()
		if err != nil {
			return nil, err
		}
		if err := p.limit.Check(1, int64(len(record))); err != nil {
			return nil, fmt.Errorf("it sent more than it was allowed: %w", err)
		}
		if err := r.takeFailed(ctx, record, failureOf(resp.Failed.GetFailure())); err != nil {
			return nil, err
		}
		if err := r.awaitSpan(ctx); err != nil {
			return nil, err
		}
		p.settle(1, int64(len(record)))
	default:
		return nil, fmt.Errorf("it sent a response of an unknown kind (%T)", resp)
	}
	return nil, nil
}

func (p *pulling) settle(n int, bytes int64) {
	p.limit.Settle(n, bytes)
	if p.limit.ShouldAnnounce() {
		signal(p.wake)
	}
}

func (p *pulling) confirm(position []byte) {
	p.mu.Lock()
	p.committed = position
	p.mu.Unlock()
}

func (p *pulling) askToStop() {
	p.mu.Lock()
	p.stop = true
	p.mu.Unlock()
	signal(p.wake)
}

// await returns the opened that begins a stream.
func (p *pulling) await(ctx context.Context, events <-chan *wire.Message, failed <-chan error) (*conveyorv1.PullOpened, error) {
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case err := <-failed:
		return nil, err
	case m := <-events:
		if m.Batch != nil {
			m.Batch.Free()
		}
		return m.Head.(*conveyorv1.PullResponse).GetOpened(), nil
	}
}

// receive takes what the source sends. What it has not handed on when ctx ends is freed.
func (p *pulling) receive(ctx context.Context, events chan<- *wire.Message) error {
	for {
		m := &wire.Message{Head: &conveyorv1.PullResponse{}}
		if err := p.stream.RecvMsg(m); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("it ended the stream without an end")
			}
			return err
		}
		select {
		case events <- m:
		case <-ctx.Done():
			if m.Batch != nil {
				m.Batch.Free()
			}
			return context.Cause(ctx)
		}
	}
}

// send tells the source its credit, what is committed and when to stop.
func (p *pulling) send(ctx context.Context, r *reading) error {
	first := true
	for {
		if first || p.limit.ShouldAnnounce() {
			first = false
			g := p.limit.Announce()
			if err := p.stream.SendMsg(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Credit{
				Credit: &conveyorv1.PullCredit{Records: g.Records, Bytes: g.Bytes},
			}}); err != nil {
				return err
			}
		}
		if err := p.commit(r.committable()); err != nil {
			return err
		}
		p.mu.Lock()
		stop := p.stop && !p.stopped
		p.stopped = p.stopped || stop
		p.mu.Unlock()
		if stop {
			if err := p.stream.SendMsg(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Stop{Stop: &conveyorv1.PullStop{}}}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-r.saved:
		}
	}
}

// commit tells the source of a position that is stored, if it has not heard of it on this stream.
func (p *pulling) commit(position []byte) error {
	p.mu.Lock()
	known := len(position) == 0 || bytes.Equal(position, p.sent)
	p.sent = position
	p.mu.Unlock()
	if known {
		return nil
	}
	err := p.stream.SendMsg(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Commit{Commit: &conveyorv1.PullCommit{Position: position}}})
	if err != nil {
		return err
	}
	return nil
}

// awaitCommit gives the source time to confirm the last commit. It is sent again on the next stream if there is one; the checkpoint counts.
func (p *pulling) awaitCommit(ctx context.Context, r *reading, events <-chan *wire.Message, failed <-chan error) {
	position := r.committable()
	signal(p.wake)
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	for {
		p.mu.Lock()
		done := len(position) == 0 || bytes.Equal(position, p.committed)
		p.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-failed: //nolint:errcheck // for whatever reason, nothing comes any more
			return
		case <-patience.C:
			return
		case m := <-events:
			if m.Batch != nil {
				m.Batch.Free()
			}
			if c := m.Head.(*conveyorv1.PullResponse).GetCommitted(); c != nil {
				p.confirm(c.GetPosition())
			}
		}
	}
}

// streamError returns why a stream broke: a failed send only says that it did.
func streamError(stream grpc.ClientStream, err error) error {
	if errors.Is(err, io.EOF) {
		if cause := stream.RecvMsg(&wire.Message{Head: &conveyorv1.PullResponse{}}); cause != nil && !errors.Is(cause, io.EOF) {
			return cause
		}
	}
	return err
}
