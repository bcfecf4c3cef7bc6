package sdktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sdk"
)

// Event is one thing that a source sent behind its opened. Exactly one field is set.
type Event struct {
	Records   []sdk.Record
	Committed sdk.Position
	Failed    *conveyorv1.PullFailed
	End       *conveyorv1.PullEnd
	// Err ended the stream; io.EOF when the source ended it without an error.
	Err error
}

// Pull is an open stream of a source. Its methods fail the test when something is not as the protocol asks for.
type Pull struct {
	// Start is the position that the source opened at.
	Start sdk.Position

	t      testing.TB
	stream grpc.BidiStreamingClient[conveyorv1.PullRequest, conveyorv1.PullResponse]
	cancel context.CancelFunc
	events chan Event
	done   chan struct{}

	grantedRecords, gotRecords uint64
	grantedBytes, gotBytes     uint64
}

// OpenSource opens a source, without credit. An error is what the service refused the opening with.
func (c *Conn) OpenSource(t testing.TB, o Open) (*Pull, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	timer := time.AfterFunc(Patience, cancel)
	stream, err := conveyorv1.NewSourceServiceClient(c.conn).Pull(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	p := &Pull{t: t, stream: stream, cancel: cancel, events: make(chan Event, 1024), done: make(chan struct{})}
	p.send(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Open{Open: &conveyorv1.PullOpen{
		Opening: o.Opening(), Partition: o.Partition, Position: o.Position,
	}}})
	first, err := stream.Recv()
	if err != nil {
		cancel()
		return nil, err
	}
	timer.Stop()
	opened := first.GetOpened()
	if opened == nil {
		cancel()
		return nil, fmt.Errorf("the first response is %T, not opened", first.GetResponse())
	}
	p.Start = opened.GetPosition()
	go p.receive(ctx)
	t.Cleanup(p.Close)
	return p, nil
}

// MustOpenSource is OpenSource for a test that cannot go on without.
func (c *Conn) MustOpenSource(t testing.TB, o Open) *Pull {
	t.Helper()
	p, err := c.OpenSource(t, o)
	if err != nil {
		t.Fatalf("open source: %v", err)
	}
	return p
}

func (p *Pull) send(r *conveyorv1.PullRequest) {
	p.t.Helper()
	// An error shows in what is received.
	if err := p.stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
		p.t.Fatalf("send: %v", err)
	}
}

func (p *Pull) receive(ctx context.Context) {
	defer close(p.done)
	for {
		var e Event
		response, err := p.stream.Recv()
		switch r := response.GetResponse().(type) {
		case *conveyorv1.PullResponse_Batch:
			e.Records = records(r.Batch)
		case *conveyorv1.PullResponse_Committed:
			e.Committed = r.Committed.GetPosition()
		case *conveyorv1.PullResponse_Failed:
			e.Failed = r.Failed
		case *conveyorv1.PullResponse_End:
			e.End = r.End
		default:
			e.Err = err
			if err == nil {
				e.Err = fmt.Errorf("unexpected response %T", r)
			}
		}
		select {
		case p.events <- e:
		case <-ctx.Done():
			return
		}
		if e.Err != nil {
			return
		}
	}
}

// Grant allows so many more records and bytes.
func (p *Pull) Grant(records, bytes uint64) {
	p.t.Helper()
	p.grantedRecords += records
	p.grantedBytes += bytes
	p.send(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Credit{Credit: &conveyorv1.PullCredit{
		Records: p.grantedRecords, Bytes: p.grantedBytes,
	}}})
}

// Next waits for the next event.
func (p *Pull) Next() Event {
	p.t.Helper()
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	select {
	case e := <-p.events:
		p.count(e)
		return e
	case <-timer.C:
		p.t.Fatal("the source sent nothing")
		return Event{}
	}
}

// Quiet reports whether the source sends nothing for d. It is for showing that credit is respected, where only a fault is ever quick.
func (p *Pull) Quiet(d time.Duration) bool {
	p.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case e := <-p.events:
		p.count(e)
		p.t.Logf("not quiet: %d records, %+v", len(e.Records), e.Err)
		return false
	case <-timer.C:
		return true
	}
}

func (p *Pull) count(e Event) {
	p.t.Helper()
	before := p.gotRecords
	for i := range e.Records {
		m := &conveyorv1.Record{}
		e.Records[i].ToProto(m)
		p.gotRecords++
		p.gotBytes += uint64(m.SizeVT())
	}
	if e.Failed != nil {
		p.gotRecords++
		p.gotBytes += uint64(e.Failed.GetRecord().SizeVT())
	}
	over := p.gotRecords > p.grantedRecords || p.gotBytes > p.grantedBytes
	if over && p.gotRecords > before && p.gotRecords-before > 1 {
		p.t.Errorf("the source sent %d records and %d bytes with credit for %d and %d", p.gotRecords, p.gotBytes, p.grantedRecords, p.grantedBytes)
	}
}

// Collect waits for n records, granting credit as needed, and skips everything else but an early end.
func (p *Pull) Collect(n int) []sdk.Record {
	p.t.Helper()
	var all []sdk.Record
	if need := p.gotRecords + uint64(n); need > p.grantedRecords {
		p.Grant(need-p.grantedRecords, 0)
	}
	p.Grant(0, 1<<30)
	for len(all) < n {
		e := p.Next()
		if e.Err != nil || e.End != nil {
			p.t.Fatalf("the source ended after %d of %d records: %v %v", len(all), n, e.End, e.Err)
		}
		all = append(all, e.Records...)
		if e.Failed != nil {
			p.Grant(1, 0)
		}
	}
	return all
}

// Drain grants credit until the source ends, and returns all that came.
func (p *Pull) Drain() (all []sdk.Record, failed []*conveyorv1.PullFailed, end *conveyorv1.PullEnd) {
	p.t.Helper()
	p.Grant(1<<40, 1<<50)
	for {
		e := p.Next()
		switch {
		case e.Err != nil:
			p.t.Fatalf("the stream broke after %d records: %v", len(all), e.Err)
		case e.End != nil:
			return all, failed, e.End
		case e.Failed != nil:
			failed = append(failed, e.Failed)
		}
		all = append(all, e.Records...)
	}
}

// Commit commits a position and waits for the confirmation. Records that come first are lost to the test.
func (p *Pull) Commit(position sdk.Position) {
	p.t.Helper()
	p.send(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Commit{Commit: &conveyorv1.PullCommit{Position: position}}})
	for {
		e := p.Next()
		if e.Err != nil {
			p.t.Fatalf("commit: %v", e.Err)
		}
		if e.Committed != nil {
			if string(e.Committed) != string(position) {
				p.t.Fatalf("committed %q, want %q", e.Committed, position)
			}
			return
		}
	}
}

// SendCommit commits without waiting.
func (p *Pull) SendCommit(position sdk.Position) {
	p.t.Helper()
	p.send(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Commit{Commit: &conveyorv1.PullCommit{Position: position}}})
}

// Stop asks the source to stop and waits for its end. It returns the records that came before it.
func (p *Pull) Stop() (*conveyorv1.PullEnd, []sdk.Record) {
	p.t.Helper()
	p.send(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Stop{Stop: &conveyorv1.PullStop{}}})
	var all []sdk.Record
	for {
		e := p.Next()
		if e.Err != nil {
			p.t.Fatalf("stop: %v", e.Err)
		}
		if e.End != nil {
			return e.End, all
		}
		all = append(all, e.Records...)
	}
}

// Hangup closes the sending side and returns the error that the stream ends with, nil when it ends well.
func (p *Pull) Hangup() error {
	p.t.Helper()
	if err := p.stream.CloseSend(); err != nil {
		p.t.Fatalf("close send: %v", err)
	}
	return p.Ended()
}

// Ended waits for the end of the stream and returns its error, nil when it ends well.
func (p *Pull) Ended() error {
	p.t.Helper()
	for {
		if e := p.Next(); errors.Is(e.Err, io.EOF) {
			return nil
		} else if e.Err != nil {
			return e.Err
		}
	}
}

// Close breaks the stream, as a sidecar that dies does.
func (p *Pull) Close() {
	p.cancel()
	<-p.done
}
