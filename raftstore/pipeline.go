package raftstore

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// pipelined is how many requests are under way to one server; the library's authors found that more of them only wait longer.
const pipelined = 2

// pipeline sends requests before the earlier ones are answered. It implements raft.AppendPipeline.
type pipeline struct {
	t      *transport
	id     raft.ServerID
	to     Peer
	stream grpc.BidiStreamingClient[controlv1.AppendEntriesRequest, controlv1.AppendEntriesResponse]
	ctx    context.Context //nolint:containedctx // of the stream
	cancel context.CancelFunc
	sent   chan *appending
	done   chan raft.AppendFuture
	wg     sync.WaitGroup
}

// appending is a request under way. Raft sees it after its answer only, and so it never waits.
type appending struct {
	start time.Time
	parts int
	args  *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
}

// Error implements raft.Future.
func (*appending) Error() error { return nil }

// Start implements raft.AppendFuture.
func (a *appending) Start() time.Time { return a.start }

// Request implements raft.AppendFuture.
func (a *appending) Request() *raft.AppendEntriesRequest { return a.args }

// Response implements raft.AppendFuture.
func (a *appending) Response() *raft.AppendEntriesResponse { return a.resp }

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, address raft.ServerAddress) (raft.AppendPipeline, error) {
	to := peerOf(id, address)
	c, err := t.client(to, logLane)
	if err != nil {
		return nil, err
	}
	p := &pipeline{t: t, id: id, to: to, sent: make(chan *appending, pipelined), done: make(chan raft.AppendFuture, pipelined)}
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	if p.stream, err = c.AppendEntries(p.ctx); err != nil {
		p.cancel()
		t.lost(to, logLane, err)
		return nil, err
	}
	p.wg.Go(p.receive)
	return p, nil
}

// AppendEntries implements raft.AppendPipeline. After an error the pipeline is of no more use.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	parts := split(p.t.self.target(p.id, args.RPCHeader), args)
	a := &appending{start: time.Now(), parts: len(parts), args: args, resp: resp}
	select {
	case p.sent <- a:
	case <-p.ctx.Done():
		return nil, errors.New("the stream of entries has ended")
	}
	for _, part := range parts {
		if err := p.stream.Send(part); err != nil {
			p.cancel()
			return nil, err
		}
	}
	return a, nil
}

// receive ends with the first failure. The request that failed is not handed out: raft would take it for a sign of life.
func (p *pipeline) receive() {
	defer p.cancel()
	for {
		select {
		case <-p.ctx.Done():
			return
		case a := <-p.sent:
			// A silent peer must not hold the pipeline for ever.
			timer := time.AfterFunc(logWait, p.cancel)
			err := p.answer(a)
			timer.Stop()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					p.t.lost(p.to, logLane, err)
				}
				return
			}
			p.t.heard.answered(p.id, a.args, a.resp, a.start)
			select {
			case p.done <- a:
			case <-p.ctx.Done():
				return
			}
			if !a.resp.Success {
				return // raft takes no more answers, and whoever sends would wait for that
			}
		}
	}
}

// answer takes the answers to all parts; the first refusal is that of the whole.
func (p *pipeline) answer(a *appending) error {
	var all raft.AppendEntriesResponse
	for i := range a.parts {
		m, err := p.stream.Recv()
		if err != nil {
			return err
		}
		if i == 0 || all.Success {
			all = appendResponse(m)
		}
	}
	*a.resp = all
	return nil
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.cancel()
	p.wg.Wait()
	return nil
}
