package engine_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

func TestWhatAServiceAnsweredGoesOnThoughItsStreamBreaks(t *testing.T) {
	control := newControl()
	n := newNode(t, "a", control)
	src, sink := newSource(t, numbered(2000, 5)...), newSink(t)
	sink.gate = make(chan struct{})
	tr := newTransform(t, func(*conveyorv1.Record) fate { return fate{} })
	p := newPipeline(t)
	p.source(n, src)
	p.transform(n, "shape", tr).spec.Limits = &controlv1.Limits{WindowRecords: 20}
	p.sink(n, "out", sink)
	p.chain("in", "shape", "out")
	p.start()
	for i := range uint64(3) {
		// 20 are on the edge, and more than those were handed to it.
		eventually(t, "the transform waits for credit", func() bool {
			s := n.status("shape")
			return len(s.GetEdges()) == 1 && s.GetEdges()[0].GetOutstandingRecords() == 20 && s.GetRecordsOut() > 20*(i+1)
		})
		tr.kill()
		tr.start()
		sink.gate <- struct{}{} // one request of the sink's goes through
	}
	close(sink.gate)
	p.await()
	exactly(t, sink, 2000)
}

func TestWhatASinkAnsweredBeforeItEndedIsNotSentAgain(t *testing.T) {
	const records = 80
	src, sink := newSource(t, numbered(records, 5)...), newSink(t)
	sink.ability.MaxBatch = 4
	// A sink that is stopped in order: it answers what it has taken, all at once, and ends its stream behind that.
	var answers []*conveyorv1.WriteResponse
	var current grpc.BidiStreamingServer[conveyorv1.WriteRequest, conveyorv1.WriteResponse]
	sink.rubbish = func(stream grpc.BidiStreamingServer[conveyorv1.WriteRequest, conveyorv1.WriteResponse], req *conveyorv1.WriteRequest) (bool, error) {
		if stream != current {
			current, answers = stream, nil
		}
		resp := &conveyorv1.WriteResponse{Sequence: req.GetSequence()}
		sink.write(req, resp, &ordered{failing: map[string]string{}})
		answers = append(answers, resp)
		batch := req.GetBatch().GetRecords()
		last := number(batch[len(batch)-1]) == records
		if len(answers) < 4 && !last {
			return true, nil
		}
		for _, a := range answers {
			if err := stream.Send(a); err != nil {
				return true, err
			}
		}
		answers = nil
		if last {
			return true, nil
		}
		return true, status.Error(codes.Unavailable, "stopping")
	}
	p, _ := simple(t, newControl(), src, sink)
	p.start()
	p.await()
	exactly(t, sink, records)
}

func TestRecordsInsideAUnitHaveTheSameIDsWhenTheyAreReadAgain(t *testing.T) {
	control := newControl()
	records := numbered(1000, 0)
	src, sink := newSource(t, records...), newSink(t)
	for i, r := range records {
		if i%7 != 6 { // units of seven
			r.Position = nil
		}
	}
	src.breakAfter.Store(350)
	p, _ := simple(t, control, src, sink)
	p.start()
	p.await()
	ids := map[string]string{}
	for _, r := range sink.records() {
		i := number(r)
		preceding := (i - 1) / 7 * 7
		want := fmt.Sprintf("default/in//%d+%d", preceding, i-preceding)
		if preceding == 0 {
			want = fmt.Sprintf("default/in//+%d", i)
		}
		if i%7 == 0 {
			want = fmt.Sprintf("default/in//%d", i)
		}
		if r.GetId() != want {
			t.Fatalf("record %d has the id %s, want %s", i, r.GetId(), want)
		}
		ids[r.GetId()] = string(r.GetPayload())
	}
	if len(ids) != 1000 {
		t.Errorf("%d ids for 1000 records", len(ids))
	}
}

func TestARestartReadsOnBehindTheCheckpoint(t *testing.T) {
	control := newControl()
	src, sink := newSource(t, numbered(3000, 5)...), newSink(t)
	src.endless = true
	var index uint64 = 100
	for len(sink.payloads()) < 3000 {
		n := newNode(t, "a", control)
		p := newPipeline(t)
		p.index = index
		index += 100
		p.source(n, src)
		p.sink(n, "out", sink)
		p.chain("in", "out")
		before := control.position()
		p.start()
		eventually(t, "checkpoints move", func() bool { return control.position() != before || before == "3000" })
		p.close()
		n.close()
	}
	atLeast(t, sink, 3000)
	for _, at := range src.opens[1:] {
		if at == "" {
			t.Errorf("opened at %q", src.opens)
		}
	}
}

func TestAReplayedLetterTakesItsWayFromTheStageThatFailed(t *testing.T) {
	control := newControl()
	a, b := newNode(t, "a", control), newNode(t, "b", control)
	src, sink := newSource(t, numbered(100, 5)...), newSink(t)
	src.endless = true
	var broken atomic.Bool
	broken.Store(true)
	tr := newTransform(t, func(r *conveyorv1.Record) fate {
		if number(r)%25 == 0 && broken.Load() {
			return fate{fail: failure(permanent, "BAD")}
		}
		return fate{}
	})
	p := newPipeline(t)
	p.source(a, src)
	p.transform(a, "shape", tr)
	p.sink(b, "out", sink)
	p.chain("in", "shape", "out")
	p.start()
	eventually(t, "four letters", func() bool { return len(control.stored()) == 4 && len(sink.records()) == 96 })
	first := control.stored()[0]
	if o, again, err := a.engine.Inject(t.Context(), first); err != nil || o != linkv1.Outcome_OUTCOME_DEAD || again != 5 {
		t.Errorf("failed again: %v, letter %d, %v", o, again, err)
	}
	if l := control.stored()[4]; l.GetReplays() != 1 || l.GetRecord().GetId() != first.GetRecord().GetId() {
		t.Errorf("the new letter: %v", l)
	}
	broken.Store(false)
	var wg sync.WaitGroup
	for _, l := range control.stored()[:4] {
		wg.Go(func() {
			if o, _, err := a.engine.Inject(t.Context(), l); err != nil || o != linkv1.Outcome_OUTCOME_ACKNOWLEDGED {
				t.Errorf("letter %d: %v, %v", l.GetId(), o, err)
			}
		})
	}
	wg.Wait()
	exactly(t, sink, 100)
	if _, _, err := b.engine.Inject(t.Context(), first); err == nil || !strings.Contains(err.Error(), "does not run on this sidecar") {
		t.Errorf("at the wrong sidecar: %v", err)
	}
}

// A source that can make no records, while the store of letters is away, must not fill the memory with letters.
func TestLettersThatNoEdgePaysForAreBounded(t *testing.T) {
	control := newControl()
	control.lettersDown = fmt.Errorf("away")
	records := numbered(3000, 0)
	for _, r := range records {
		r.ContentType = "application/json"
		r.Payload = []byte(`"` + strings.Repeat("x", 500) + `"`)
	}
	src, sink := newSource(t, records...), newSink(t)
	p, n := simple(t, control, src, sink)
	p.find("in").spec.Limits = &controlv1.Limits{WindowRecords: 100}
	p.edges[0].When = "value > 0" // which errs for every record
	p.start()
	eventually(t, "the stage says why", func() bool { return strings.Contains(n.status("in").GetWaitingFor(), "dead-letter store: away") })
	eventually(t, "the source stops", func() bool { src.mu.Lock(); defer src.mu.Unlock(); return src.sent >= 200 })
	if read := n.lane().GetCounts().GetRead(); read > 300 {
		t.Errorf("%d records were read with room for 100 letters", read)
	}
	control.set(func(c *fakeControl) { c.lettersDown = nil })
	p.await()
	if len(control.stored()) != 3000 || n.lane().GetCounts().GetDead() > 3000 {
		t.Errorf("%d letters", len(control.stored()))
	}
}
