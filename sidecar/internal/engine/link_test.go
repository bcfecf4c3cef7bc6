package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

func TestALinkThatIsCutAtRandomLosesAndDoublesNothing(t *testing.T) {
	control := newControl()
	a, b := newNode(t, "a", control), newNode(t, "b", control)
	src, sink := newSource(t, numbered(30000, 13)...), newSink(t)
	src.endless = true
	sink.ability.Ordered = true
	p := newPipeline(t)
	p.source(a, src).spec.Limits = &controlv1.Limits{WindowRecords: 500}
	p.cel(b, "keep", "true", "").spec.Limits = &controlv1.Limits{WindowRecords: 300}
	p.sink(a, "out", sink).spec.Limits = &controlv1.Limits{WindowRecords: 200}
	p.chain("in", "keep", "out")
	// One record fails long after its neighbours have passed, and with it numbers of the link stay open that are far behind.
	var tries atomic.Int64
	slow := p.find("out").spec
	slow.Retry = &controlv1.RetryPolicy{MaxRetries: 50, BackoffMillis: 20, MaxBackoffMillis: 40}
	sink.decide(func(r *conveyorv1.Record) *conveyorv1.Failure {
		if number(r)%5000 == 17 && tries.Add(1)%20 != 0 {
			return failure(retryable, "LATER")
		}
		return nil
	})
	p.start()
	for i := 0; len(sink.records()) < 30000; i++ {
		if i > 3000 {
			t.Fatalf("only %d came:\n%s", len(sink.records()), p.describe())
		}
		<-time.After(rand.N(15 * time.Millisecond)) // the moments of the cuts are random
		if i < 150 {
			a.proxy.cut()
			b.proxy.cut()
		}
	}
	eventually(t, "everything settles", func() bool { return control.position() == "30000" })
	exactly(t, sink, 30000)
	if len(sink.disorder) > 0 {
		t.Errorf("%d out of order, first %s", len(sink.disorder), sink.disorder[0])
	}
}

func TestANewOwnerOfTheReceivingStageGetsWhatHasNotSettled(t *testing.T) {
	control := newControl()
	a, b, c := newNode(t, "a", control), newNode(t, "b", control), newNode(t, "c", control)
	src, sink := newSource(t, numbered(20000, 13)...), newSink(t)
	src.endless = true
	p := newPipeline(t)
	p.source(a, src)
	p.cel(b, "keep", "true", "")
	p.sink(a, "out", sink)
	p.chain("in", "keep", "out")
	p.start()
	at := []*node{b, c}
	for i := range 6 {
		before := len(sink.records())
		eventually(t, "records flow", func() bool { return len(sink.records()) > before || len(sink.payloads()) == 20000 })
		p.move("keep", at[(i+1)%2])
	}
	eventually(t, "everything settles", func() bool { return control.position() == "20000" })
	atLeast(t, sink, 20000)
	// What was with the sink when its sender moved comes again; everything else comes once.
	law(t, a.lane())
}

func TestAStageThatMovesBetweenSidecarsWhileSlowKeepsLaneOrderAndLosesNothing(t *testing.T) {
	control := newControl()
	a, b := newNode(t, "a", control), newNode(t, "b", control)
	src, sink := newSource(t, numbered(3000, 5)...), newSink(t)
	src.endless = true
	p := newPipeline(t)
	p.source(a, src)
	p.sink(b, "out", sink)
	p.chain("in", "out")
	p.start()
	for i := range 4 {
		before := len(sink.records())
		eventually(t, "records flow", func() bool { return len(sink.records()) > before || len(sink.payloads()) == 3000 })
		p.move("in", []*node{b, a}[i%2])
		p.move("out", []*node{a, b}[i%2])
	}
	eventually(t, "everything settles", func() bool { return control.position() == "3000" })
	atLeast(t, sink, 3000)
}

func TestASidecarThatDoesNotAnswerIsUnreachableAndOneThatRefusesIsNot(t *testing.T) {
	control := newControl()
	a, b, c := newNode(t, "a", control), newNode(t, "b", control), newNode(t, "c", control)
	src, sink := newSource(t, numbered(1000, 13)...), newSink(t)
	src.endless = true
	p := newPipeline(t)
	p.source(a, src)
	p.cel(b, "keep", "true", "")
	p.sink(a, "out", sink)
	p.chain("in", "keep", "out")
	p.start()
	eventually(t, "records flow", func() bool { return len(sink.records()) > 0 })
	if got := a.engine.Unreachable(); len(got) > 0 {
		t.Errorf("unreachable while records flow: %v", got)
	}
	// It is there, and runs nothing any more.
	b.engine.Apply(nil, nil)
	eventually(t, "the link is refused", func() bool { return strings.Contains(a.status("in").GetWaitingFor(), "not assigned") })
	if got := a.engine.Unreachable(); len(got) > 0 {
		t.Errorf("unreachable though it answers: %v", got)
	}
	b.close()
	eventually(t, "it does not answer", func() bool { return slices.Equal(a.engine.Unreachable(), []string{"b"}) })
	p.move("keep", c)
	eventually(t, "everything settles", func() bool { return control.position() == "1000" })
	// The records may all have settled before the move took effect.
	eventually(t, "nobody is unreachable after the stage has moved", func() bool { return len(a.engine.Unreachable()) == 0 })
}

// peerLink opens a link by hand, as sidecar "x" that runs stage in.
type peerLink struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[linkv1.LinkRequest, linkv1.LinkResponse]
	opened *linkv1.LinkResponse
}

func receiving(t *testing.T, limits *controlv1.Limits) (*node, *fakeSink) {
	n := newNode(t, "b", newControl())
	sink := newSink(t)
	n.engine.Apply(nil, behindX(sink, limits))
	eventually(t, "the stage runs", func() bool { return n.status("out").GetOpen() })
	return n, sink
}

// behindX is a sink behind stage in, which sidecar "x" runs.
func behindX(sink *fakeSink, limits *controlv1.Limits) []*controlv1.Assignment {
	spec := service(conveyorv1.ServiceKind_SERVICE_KIND_SINK, sink.addr)
	spec.Limits = limits
	return []*controlv1.Assignment{{
		Pipeline: "default/p", PipelineUid: "p1", Generation: 1, Stage: "out", Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: 20}, Spec: spec,
		Upstream: []*controlv1.Peer{{Stage: "in", SidecarId: "x", Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: 5}}},
	}}
}

func (n *node) link(t *testing.T, change func(*linkv1.LinkOpen)) (*peerLink, error) {
	t.Helper()
	conn, err := dial(n.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return openLink(t, conn, change)
}

func openLink(t *testing.T, conn *grpc.ClientConn, change func(*linkv1.LinkOpen)) (*peerLink, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	stream, err := controlv1.NewSidecarDataPlaneClient(conn).Link(ctx)
	if err != nil {
		t.Fatal(err)
	}
	open := &linkv1.LinkOpen{
		Pipeline: "default/p", Generation: 1, From: "in", To: "out", Sender: &conveyorv1.Epoch{Incarnation: 1, Index: 5},
		Receiver: &conveyorv1.Epoch{Incarnation: 1, Index: 20}, FirstUnsettled: 1,
	}
	if change != nil {
		change(open)
	}
	if err := stream.Send(&linkv1.LinkRequest{Request: &linkv1.LinkRequest_Open{Open: open}}); err != nil {
		t.Fatal(err)
	}
	l := &peerLink{t: t, stream: stream}
	l.opened, err = stream.Recv()
	return l, err
}

// frame makes a frame of n records from a number on.
func frame(first uint64, n int) *linkv1.LinkRequest {
	batch := &conveyorv1.RecordBatch{}
	size := 0
	for i := range n {
		r := &conveyorv1.Record{Id: "x/" + strconv.Itoa(int(first)+i), Payload: []byte(strconv.Itoa(int(first) + i))}
		size += proto.Size(r)
		batch.Records = append(batch.Records, r)
	}
	return &linkv1.LinkRequest{
		Header: &linkv1.FrameHeader{First: first, Records: uint32(n), Bytes: uint64(size), Origins: []*linkv1.OriginRun{{First: first, Count: uint32(n)}}},
		Batch:  batch, Lanes: []*linkv1.Lane{{Source: "default/in", SourceStage: "in", Generation: 1}},
	}
}

func (l *peerLink) send(m *linkv1.LinkRequest) {
	l.t.Helper()
	if err := l.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		l.t.Fatal(err)
	}
}

// ends returns why the link ended.
func (l *peerLink) ends() error {
	for {
		if _, err := l.stream.Recv(); err != nil {
			return err
		}
	}
}

func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(interface{ GetReason() string }); ok {
			return info.GetReason()
		}
	}
	return fmt.Sprint(err)
}

// Its sender has it still, and gives it to whoever comes after this sidecar: written here too it would arrive twice.
func TestASidecarThatHasDrainedTakesNothingMoreAndHasToldWhatBecameOfTheRest(t *testing.T) {
	n, sink := receiving(t, nil)
	l, err := n.link(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.send(frame(1, 3))
	eventually(t, "the sink has what came before", func() bool { return len(sink.records()) == 3 })
	if err := n.engine.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.send(frame(4, 3))
	l.send(&linkv1.LinkRequest{Request: &linkv1.LinkRequest_End{End: &linkv1.LinkEnd{Completed: true}}})
	told := uint64(0)
	for told < 3 {
		resp, err := l.stream.Recv()
		if err != nil {
			t.Fatalf("after %d records were said to have settled: %v", told, err)
		}
		for _, n := range resp.GetSettled().GetCount() {
			told += n
		}
	}
	// The answer to a frame that is wrong shows that the one before was looked at, and what would have been taken has settled when the stage rests.
	wrong := frame(7, 1)
	wrong.Header.Lane = 9
	l.send(wrong)
	if got := reason(l.ends()); got != "INVALID_LINK" {
		t.Errorf("the link ends with %s", got)
	}
	if err := n.engine.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(sink.records()); got != 3 || told != 3 {
		t.Errorf("%d records were written, and %d said to have settled", got, told)
	}
	// It has not had all, so it is not what ends the stage.
	if ended := n.engine.Ended(); len(ended) > 0 || sink.completes > 0 {
		t.Errorf("the stage has ended, and the sink was told so %d times: %v", sink.completes, ended)
	}
}

func TestALyingSenderIsRefused(t *testing.T) {
	for name, lie := range map[string]func() []*linkv1.LinkRequest{
		"more records than in the header": func() []*linkv1.LinkRequest { f := frame(1, 3); f.Header.Records = 2; return []*linkv1.LinkRequest{f} },
		"fewer bytes than there are":      func() []*linkv1.LinkRequest { f := frame(1, 3); f.Header.Bytes--; return []*linkv1.LinkRequest{f} },
		"no header":                       func() []*linkv1.LinkRequest { f := frame(1, 3); f.Header = nil; return []*linkv1.LinkRequest{f} },
		"an unknown lane":                 func() []*linkv1.LinkRequest { f := frame(1, 3); f.Header.Lane = 9; return []*linkv1.LinkRequest{f} },
		"too many origins": func() []*linkv1.LinkRequest {
			f := frame(1, 3)
			f.Header.Origins[0].Count = 1 << 31
			return []*linkv1.LinkRequest{f}
		},
		"too few origins": func() []*linkv1.LinkRequest {
			f := frame(1, 3)
			f.Header.Origins[0].Count = 2
			return []*linkv1.LinkRequest{f}
		},
		"too few keys": func() []*linkv1.LinkRequest {
			f := frame(1, 3)
			f.Header.KeyHashes = []uint64{1}
			return []*linkv1.LinkRequest{f}
		},
		"number nought":      func() []*linkv1.LinkRequest { return []*linkv1.LinkRequest{frame(0, 3)} },
		"numbers going back": func() []*linkv1.LinkRequest { return []*linkv1.LinkRequest{frame(1, 3), frame(2, 3)} },
		"numbers that overflow": func() []*linkv1.LinkRequest {
			f := frame(1, 3)
			f.Header.First = 1<<64 - 2
			return []*linkv1.LinkRequest{f}
		},
		"more than its credit": func() []*linkv1.LinkRequest { return []*linkv1.LinkRequest{frame(1, 30), frame(31, 30)} },
		"thousands of lanes": func() []*linkv1.LinkRequest {
			m := &linkv1.LinkRequest{}
			for i := range uint32(5000) {
				m.Lanes = append(m.Lanes, &linkv1.Lane{Index: i})
			}
			return []*linkv1.LinkRequest{m}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, sink := receiving(t, &controlv1.Limits{WindowRecords: 50})
			sink.gate = make(chan struct{})
			l, err := n.link(t, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range lie() {
				l.send(f)
			}
			if err := l.ends(); reason(err) != "INVALID_LINK" {
				t.Errorf("ended with %v", err)
			}
			close(sink.gate)
			// An honest link works all the same.
			l, err = n.link(t, nil)
			if err != nil {
				t.Fatal(err)
			}
			first := l.opened.GetOpened().GetReceivedThrough() + 1
			l.send(frame(first, 1))
			eventually(t, "its record arrives", func() bool { return sink.payloads()[strconv.Itoa(int(first))] == 1 })
		})
	}
}

func TestALinkIsOnlyOpenedBetweenTheOwnersOfAnEdge(t *testing.T) {
	n, _ := receiving(t, nil)
	for name, c := range map[string]struct {
		change func(*linkv1.LinkOpen)
		reason string
	}{
		"an older owner of the sending stage":  {func(o *linkv1.LinkOpen) { o.Sender.Index = 4 }, "FENCED"},
		"an older incarnation":                 {func(o *linkv1.LinkOpen) { o.Sender.Incarnation, o.Sender.Index = 0, 99 }, "FENCED"},
		"another epoch of the receiving stage": {func(o *linkv1.LinkOpen) { o.Receiver.Index = 19 }, "STALE_EPOCH"},
		"a stage that is not here":             {func(o *linkv1.LinkOpen) { o.To = "elsewhere" }, "NOT_ASSIGNED"},
		"another generation":                   {func(o *linkv1.LinkOpen) { o.Generation = 2 }, "NOT_ASSIGNED"},
		"a stage without an edge to this one":  {func(o *linkv1.LinkOpen) { o.From = "stranger" }, "NOT_ASSIGNED"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := n.link(t, c.change); reason(err) != c.reason {
				t.Errorf("got %v, want %s", err, c.reason)
			}
		})
	}
	t.Run("once a newer owner was here", func(t *testing.T) {
		newer, err := n.link(t, func(o *linkv1.LinkOpen) { o.Sender.Index = 8 })
		if err != nil {
			t.Fatal(err)
		}
		newer.send(frame(1, 1))
		if _, err := n.link(t, func(o *linkv1.LinkOpen) { o.Sender.Index = 7 }); reason(err) != "FENCED" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("without an open", func(t *testing.T) {
		conn, err := dial(n.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		stream, err := controlv1.NewSidecarDataPlaneClient(conn).Link(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(frame(1, 1))
		if _, err := stream.Recv(); reason(err) != "INVALID_LINK" {
			t.Errorf("got %v", err)
		}
	})
}

// The sender may not hear of an outcome before the stream breaks. It is told again, however many records have passed since; and a record
// that is open is never told as settled.
func TestOutcomesAreToldAgainUntilTheyWereHeard(t *testing.T) {
	n, sink := receiving(t, &controlv1.Limits{WindowRecords: 8})
	hold := make(chan struct{})
	var held atomic.Bool
	sink.decide(func(r *conveyorv1.Record) *conveyorv1.Failure {
		if string(r.GetPayload()) == "1" {
			select {
			case <-hold:
			default:
				held.Store(true)
				return failure(unavailable, "WAIT")
			}
		}
		return nil
	})
	l, err := n.link(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	credit := l.opened.GetOpened().GetCredit().GetRecords()
	settled := map[uint64]linkv1.Outcome{}
	note := func(m *linkv1.LinkResponse) {
		runs := m.GetSettled()
		for k, first := range runs.GetFirst() {
			for i := range runs.GetCount()[k] {
				settled[first+i] = runs.GetOutcome()[k]
			}
		}
		if c := m.GetCredit(); c != nil {
			credit = c.GetRecords()
		}
	}
	next := uint64(1)
	for next <= 100 { // far beyond the window, while number 1 stays open
		for next > credit {
			m, err := l.stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			note(m)
		}
		l.send(frame(next, 1))
		next++
	}
	// The last ones are told one by one, and the sender does not hear of it, but goes on with credit that it had before.
	for next > credit-3 {
		m, err := l.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		note(m)
	}
	for range 3 {
		l.send(frame(next, 1))
		for told := false; !told; {
			m, err := l.stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for k, first := range m.GetSettled().GetFirst() {
				told = told || first <= next && next < first+m.GetSettled().GetCount()[k]
			}
		}
		next++
	}
	eventually(t, "all but the first arrived", func() bool { return len(sink.records()) == int(next)-2 })
	if !held.Load() {
		t.Fatal("the first was not held")
	}
	// The stream breaks; the sender has heard of nothing since. The first settles while there is no stream.
	_ = l.stream.CloseSend()
	_ = l.ends()
	if _, told := settled[1]; told {
		t.Fatal("number 1 was told as settled while it was open")
	}
	l, err = n.link(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	note(l.opened)
	if _, told := settled[1]; told {
		t.Fatal("number 1 was told again as settled while it was open")
	}
	for i := uint64(2); i < next; i++ {
		if settled[i] != linkv1.Outcome_OUTCOME_ACKNOWLEDGED {
			t.Fatalf("number %d was not told, neither before nor after the break", i)
		}
	}
	_ = l.stream.CloseSend()
	_ = l.ends()
	close(hold)
	eventually(t, "the first arrived", func() bool { return len(sink.records()) == int(next)-1 })
	l, err = n.link(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	note(l.opened)
	for settled[1] != linkv1.Outcome_OUTCOME_ACKNOWLEDGED {
		m, err := l.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		note(m)
	}
}

func TestASecondStreamOfOneSenderTakesThePlaceOfTheFirst(t *testing.T) {
	n, sink := receiving(t, nil)
	first, err := n.link(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	first.send(frame(1, 10))
	eventually(t, "records arrive", func() bool { return len(sink.records()) == 10 })
	second, err := n.link(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if through := second.opened.GetOpened().GetReceivedThrough(); through != 10 {
		t.Errorf("received through %d", through)
	}
	first.send(frame(11, 1)) // too late
	if err := first.ends(); reason(err) != "SUPERSEDED" {
		t.Errorf("the first ended with %v", err)
	}
	second.send(frame(11, 5))
	eventually(t, "records arrive", func() bool { return len(sink.records()) >= 15 })
	for payload, times := range sink.payloads() {
		if times != 1 {
			t.Errorf("record %s came %d times", payload, times)
		}
	}
}

// A receiver that settles what was never sent, or claims to have received it, is not believed.
type lyingPlane struct {
	controlv1.UnimplementedSidecarDataPlaneServer
	answer func(grpc.BidiStreamingServer[linkv1.LinkRequest, linkv1.LinkResponse]) error
}

func (p *lyingPlane) Link(s grpc.BidiStreamingServer[linkv1.LinkRequest, linkv1.LinkResponse]) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	if err := p.answer(s); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func TestALyingReceiverSettlesNothing(t *testing.T) {
	type stream = grpc.BidiStreamingServer[linkv1.LinkRequest, linkv1.LinkResponse]
	opened := &linkv1.LinkResponse{Opened: &linkv1.LinkOpened{Credit: &linkv1.Credit{Records: 10, Bytes: 1 << 20}}}
	for name, answer := range map[string]func(stream) error{
		"settles more than was sent": func(s stream) error {
			if err := s.Send(opened); err != nil {
				return err
			}
			return s.Send(&linkv1.LinkResponse{Settled: &linkv1.SettledRuns{First: []uint64{1}, Count: []uint64{1 << 40}, Outcome: []linkv1.Outcome{linkv1.Outcome_OUTCOME_ACKNOWLEDGED}}})
		},
		"settles as nothing": func(s stream) error {
			if err := s.Send(opened); err != nil {
				return err
			}
			if _, err := s.Recv(); err != nil {
				return err
			}
			return s.Send(&linkv1.LinkResponse{Settled: &linkv1.SettledRuns{First: []uint64{1}, Count: []uint64{1}, Outcome: []linkv1.Outcome{0}}})
		},
		"settles in lists that do not fit": func(s stream) error {
			if err := s.Send(opened); err != nil {
				return err
			}
			if _, err := s.Recv(); err != nil {
				return err
			}
			return s.Send(&linkv1.LinkResponse{Settled: &linkv1.SettledRuns{First: []uint64{1, 2}, Count: []uint64{1}}})
		},
		"received more than was sent": func(s stream) error {
			return s.Send(&linkv1.LinkResponse{Opened: &linkv1.LinkOpened{ReceivedThrough: 1 << 50}})
		},
		"does not open": func(s stream) error { return s.Send(&linkv1.LinkResponse{Credit: &linkv1.Credit{Records: 1}}) },
		"refuses":       func(stream) error { return fmt.Errorf("go away") },
	} {
		t.Run(name, func(t *testing.T) {
			liar := serve(t, func(g *grpc.Server) { controlv1.RegisterSidecarDataPlaneServer(g, &lyingPlane{answer: answer}) })
			control := newControl()
			n := newNode(t, "a", control)
			src := newSource(t, numbered(100, 0)...)
			src.endless = true
			spec := service(conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, src.addr)
			spec.Service = "default/in"
			n.engine.Apply(nil, []*controlv1.Assignment{{
				Pipeline: "default/p", Generation: 1, Stage: "in", Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: 5}, Spec: spec,
				Downstream: []*controlv1.Peer{{Stage: "out", SidecarId: "liar", Address: liar.addr, Epoch: &conveyorv1.Epoch{Incarnation: 1, Index: 9}}},
			}})
			eventually(t, "the stage names the other side", func() bool {
				return strings.Contains(n.status("in").GetWaitingFor(), "stage out on sidecar liar at "+liar.addr)
			})
			if c := n.lane().GetCounts(); c.GetInFlight() != c.GetRead() || control.position() != "" {
				t.Errorf("counts %v, checkpoint %s", c, control.position())
			}
		})
	}
}
