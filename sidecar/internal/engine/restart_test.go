package engine_test

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/engine"
	"github.com/conveyor-etl/conveyor/sidecar/internal/statefile"
)

// boot gives a node the engine of a process that starts on a data directory, at the address that it had.
func (n *node) boot(control engine.Control, dir string) {
	n.t.Helper()
	n.proxy.cut() // what the process before had on its way is gone
	if err := n.engine.Close(); err != nil {
		n.t.Fatal(err)
	}
	n.server.Stop()
	n.wg.Wait()
	n.forget()
	file, err := statefile.Open(dir, n.id, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	n.forget = func() { _ = file.Close() }
	n.engine = engine.New(engine.Config{
		SidecarID: n.id, Boot: file.State().Boots, Control: control, Memory: file,
		DialPeer: func(target, _ string) (*grpc.ClientConn, error) { return dial(target) }, DialService: dial,
	})
	n.server = grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}), experimental.BufferPool(wire.Shared()), grpc.MaxRecvMsgSize(8<<20))
	n.engine.RegisterLink(n.server)
	lis, err := net.Listen("tcp", n.addr)
	if err != nil {
		n.t.Fatal(err)
	}
	n.wg.Go(func() { _ = n.server.Serve(lis) })
}

func TestSidecarsThatStartAgainUnderTheSameAssignmentsLoseNothingWhileNoRouterAnswers(t *testing.T) {
	const records = 20000
	control := newControl()
	dirA, dirB := t.TempDir(), t.TempDir() // removed after the nodes have ended
	a, b := newNode(t, "a", control), newNode(t, "b", control)
	a.boot(control, dirA)
	b.boot(control, dirB)
	src, sink := newSource(t, numbered(records, 13)...), newSink(t)
	src.endless = true
	src.onCommit = func(p []byte) {
		if at, _ := strconv.Atoi(string(p)); at > stored(control) {
			t.Errorf("%d was committed, %d is checkpointed", at, stored(control))
		}
	}
	p := newPipeline(t)
	p.source(a, src).spec.Limits = &controlv1.Limits{WindowRecords: 300}
	p.cel(b, "keep", "true", "").spec.Limits = &controlv1.Limits{WindowRecords: 200}
	p.sink(a, "out", sink).spec.Limits = &controlv1.Limits{WindowRecords: 100}
	p.chain("in", "keep", "out")
	p.apply()
	eventually(t, "a checkpoint is stored", func() bool { return control.position() != "" })
	control.set(func(c *fakeControl) { c.down = errDown })
	at := stored(control)
	for i := range 4 {
		n, dir := a, dirA
		if i%2 == 1 {
			n, dir = b, dirB
		}
		before := len(sink.records())
		n.boot(control, dir)
		p.apply()
		eventually(t, "records flow", func() bool { return len(sink.records()) > before+500 || len(sink.payloads()) == records })
	}
	eventually(t, "everything arrives", func() bool { return len(sink.payloads()) == records })
	if got := stored(control); got != at {
		t.Errorf("a checkpoint at %d while no router answers", got)
	}
	control.set(func(c *fakeControl) { c.down = nil })
	eventually(t, "everything settles", func() bool { return control.position() == strconv.Itoa(records) })
	atLeast(t, sink, records)
	ids, first, last := map[string]string{}, map[string]bool{}, map[string]int{}
	for _, r := range sink.records() {
		if before, known := ids[r.GetId()]; known && before != string(r.GetPayload()) {
			t.Fatalf("the records %s and %s have one id", before, r.GetPayload())
		}
		ids[r.GetId()] = string(r.GetPayload())
		if k := string(r.GetKey()); !first[string(r.GetPayload())] {
			first[string(r.GetPayload())] = true
			if number(r) < last[k] {
				t.Fatalf("record %d of key %s came first after %d", number(r), k, last[k])
			}
			last[k] = number(r)
		}
	}
	if len(ids) != records {
		t.Errorf("%d ids of %d records", len(ids), records)
	}
}

func stored(c *fakeControl) int {
	at, _ := strconv.Atoi(c.position())
	return at
}

func TestASenderThatStartsAgainIsAnotherOne(t *testing.T) {
	n, sink := receiving(t, nil)
	before, err := n.link(t, func(o *linkv1.LinkOpen) { o.SenderBoot = 1 })
	if err != nil {
		t.Fatal(err)
	}
	before.send(frame(1, 5))
	eventually(t, "records arrive", func() bool { return len(sink.records()) == 5 })
	after, err := n.link(t, func(o *linkv1.LinkOpen) { o.SenderBoot = 2 })
	if err != nil {
		t.Fatal(err)
	}
	if through := after.opened.GetOpened().GetReceivedThrough(); through != 0 {
		t.Errorf("a sender that has sent nothing is told that %d numbers were received", through)
	}
	after.send(frame(1, 3))
	eventually(t, "its records arrive", func() bool { return len(sink.records()) == 8 })
	if _, err := n.link(t, func(o *linkv1.LinkOpen) { o.SenderBoot = 1 }); reason(err) != "FENCED" {
		t.Errorf("the process before is answered %v", err)
	}
}

func TestAPartitionThatTheStateFileDoesNotKnowWaitsForARouter(t *testing.T) {
	control := newControl()
	dir := t.TempDir() // removed after the node has ended
	a := newNode(t, "a", control)
	a.boot(control, dir)
	src, sink := newSource(t, numbered(100, 0)...), newSink(t)
	src.endless = true
	p := newPipeline(t)
	p.source(a, src)
	p.sink(a, "out", sink)
	p.chain("in", "out")
	// The checkpoints are taken, but the sidecar dies before it hears of it.
	control.set(func(c *fakeControl) { c.deaf = true })
	p.apply()
	eventually(t, "everything is checkpointed", func() bool { return control.position() == "100" })
	control.set(func(c *fakeControl) { c.deaf, c.down = false, errDown })
	a.boot(control, dir)
	p.apply()
	eventually(t, "it waits", func() bool { return a.status("in").GetWaitingFor() != "" })
	control.set(func(c *fakeControl) { c.down = nil })
	eventually(t, "it begins behind the checkpoint", func() bool { return a.status("in").GetOpen() })
	exactly(t, sink, 100)
	src.mu.Lock()
	defer src.mu.Unlock()
	if got := strings.Join(src.opens, ","); got != ",100" {
		t.Errorf("the source was opened at %q", got)
	}
}

// failing makes a sink fail some records for now; the function that it returns ends that.
func failing(sink *fakeSink, which func(n int) bool) (heal func()) {
	sink.decide(func(r *conveyorv1.Record) *conveyorv1.Failure {
		if which(number(r)) {
			return failure(retryable, "LATER")
		}
		return nil
	})
	return func() { sink.decide(func(*conveyorv1.Record) *conveyorv1.Failure { return nil }) }
}

func TestCheckpointsOfALaneThatIsResumedAreNewerThanThoseBefore(t *testing.T) {
	control := newControl()
	dir := t.TempDir() // removed after the node has ended
	a := newNode(t, "a", control)
	a.boot(control, dir)
	src, sink := newSource(t, numbered(100, 0)...), newSink(t)
	src.endless = true
	heal := failing(sink, func(n int) bool { return n > 90 })
	p := newPipeline(t)
	p.source(a, src)
	p.sink(a, "out", sink).spec.Retry = &controlv1.RetryPolicy{MaxRetries: 1e6, BackoffMillis: 1, MaxBackoffMillis: 5}
	p.chain("in", "out")
	p.apply()
	eventually(t, "most are committed", func() bool {
		src.mu.Lock()
		defer src.mu.Unlock()
		return slices.Contains(src.commits, "90")
	})
	control.set(func(c *fakeControl) { c.down = errDown })
	a.boot(control, dir)
	heal()
	p.apply()
	eventually(t, "the rest arrives", func() bool { return len(sink.payloads()) == 100 })
	control.set(func(c *fakeControl) { c.down = nil })
	// Ten records of the second process against ninety of the first.
	eventually(t, "the routers take the checkpoint", func() bool { return control.position() == "100" })
	exactly(t, sink, 100)
}

func TestAReceiverThatStartsAgainGetsWhatHasNotSettled(t *testing.T) {
	control := newControl()
	dir := t.TempDir() // removed after the nodes have ended
	a, b := newNode(t, "a", control), newNode(t, "b", control)
	b.boot(control, dir)
	src, sink := newSource(t, numbered(2000, 0)...), newSink(t)
	src.endless = true
	heal := failing(sink, func(n int) bool { return n == 17 })
	p := newPipeline(t)
	p.source(a, src)
	p.sink(b, "out", sink).spec.Retry = &controlv1.RetryPolicy{MaxRetries: 1e6, BackoffMillis: 1, MaxBackoffMillis: 5}
	p.chain("in", "out")
	p.apply()
	// By then the sender knows that the receiver has all of them, and keeps no frames.
	eventually(t, "all but one have settled", func() bool { return a.lane().GetCounts().GetInFlight() == 1 && a.lane().GetCounts().GetRead() == 2000 })
	b.boot(control, dir)
	heal()
	p.apply()
	eventually(t, "the last one settles", func() bool { return control.position() == "2000" })
	exactly(t, sink, 2000)
}
