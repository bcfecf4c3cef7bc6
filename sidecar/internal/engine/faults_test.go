package engine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// simple is the pipeline source, sink on one node.
func simple(t *testing.T, control *fakeControl, src *fakeSource, sink *fakeSink) (*pipeline, *node) {
	n := newNode(t, "a", control)
	p := newPipeline(t)
	p.source(n, src)
	p.sink(n, "out", sink)
	p.chain("in", "out")
	return p, n
}

func TestASourceThatBreaksGoesOnWithoutDuplicates(t *testing.T) {
	control := newControl()
	src, sink := newSource(t, numbered(2000, 5)...), newSink(t)
	src.breakAfter.Store(700)
	p, _ := simple(t, control, src, sink)
	p.start()
	p.await()
	exactly(t, sink, 2000)
	if len(src.opens) != 2 || src.opens[1] == "" {
		t.Errorf("opened at %q", src.opens)
	}
}

func TestASourceThatSendsMoreThanItsCreditIsRefused(t *testing.T) {
	control := newControl()
	src, sink := newSource(t, numbered(5000, 0)...), newSink(t)
	src.overdraw = true
	sink.gate = make(chan struct{})
	p, n := simple(t, control, src, sink)
	p.find("in").spec.Limits = &controlv1.Limits{WindowRecords: 50}
	p.start()
	eventually(t, "the lane says why", func() bool { return strings.Contains(n.lane().GetProblem(), "more than it was allowed") })
	if got := n.lane().GetCounts().GetRead(); got > 0 {
		t.Errorf("%d records were taken", got)
	}
}

func TestAPositionThatIsGoneIsSaid(t *testing.T) {
	control := newControl()
	control.checkpoints["default/p/in/"] = &controlv1.Checkpoint{Pipeline: "default/p", SourceStage: "in", Generation: 1, Position: []byte("9")}
	src, sink := newSource(t, numbered(20, 0)...), newSink(t)
	src.gone = true
	p, n := simple(t, control, src, sink)
	p.start()
	eventually(t, "the lane says so", func() bool { return strings.Contains(n.lane().GetProblem(), "position 9 is gone") })
	eventually(t, "the stage says so", func() bool { return strings.Contains(n.status("in").GetWaitingFor(), "position 9 is gone") })
	if len(sink.records()) > 0 {
		t.Error("records came all the same")
	}
}

func TestTheOpenedPositionIsStoredBeforeAnyRecordLeaves(t *testing.T) {
	control := newControl()
	control.down = errDown
	src, sink := newSource(t, numbered(100, 0)...), newSink(t)
	src.latest = []byte("40")
	var early atomic.Int64
	sink.decide(func(*conveyorv1.Record) *conveyorv1.Failure {
		control.mu.Lock()
		defer control.mu.Unlock()
		if len(control.history) == 0 || string(control.history[0].GetPosition()) != "40" {
			early.Add(1)
		}
		return nil
	})
	p, n := simple(t, control, src, sink)
	p.start()
	eventually(t, "the stage waits for its checkpoints", func() bool { return strings.Contains(n.status("in").GetWaitingFor(), "checkpoints") })
	control.set(func(c *fakeControl) { c.down, c.reportsDown = nil, errDown })
	eventually(t, "the lane waits for its first checkpoint", func() bool { return strings.Contains(n.lane().GetProblem(), "checkpoints are not stored") })
	if n.lane().GetReadsOn() {
		t.Error("it says that it reads on, and waits for its first checkpoint")
	}
	control.set(func(c *fakeControl) { c.reportsDown = nil })
	p.await()
	if early.Load() > 0 || len(sink.records()) != 60 {
		t.Errorf("%d records left before the position was stored; %d came", early.Load(), len(sink.records()))
	}
}

func TestNothingIsCommittedThatIsNotCheckpointed(t *testing.T) {
	control := newControl()
	src, sink := newSource(t, numbered(3000, 0)...), newSink(t)
	var early atomic.Int64
	src.onCommit = func(position []byte) {
		control.mu.Lock()
		defer control.mu.Unlock()
		at, _ := strconv.Atoi(string(position))
		stored, _ := strconv.Atoi(string(control.checkpoints["default/p/in/"].GetPosition()))
		if at > stored {
			early.Add(1)
		}
	}
	// Some are still on their way when the routers are lost.
	var under atomic.Bool
	lost := make(chan struct{})
	sink.decide(func(r *conveyorv1.Record) *conveyorv1.Failure {
		if number(r) > 1500 {
			under.Store(true)
			<-lost
		}
		return nil
	})
	p, n := simple(t, control, src, sink)
	p.start()
	eventually(t, "half of them came", under.Load)
	control.set(func(c *fakeControl) { c.down = errDown })
	close(lost)
	eventually(t, "all came although no router answers", func() bool { return len(sink.records()) == 3000 })
	eventually(t, "the lane says why", func() bool { return strings.Contains(n.lane().GetProblem(), "checkpoints are not stored") })
	if !n.lane().GetReadsOn() {
		t.Error("it does not say that it reads on all the same")
	}
	control.set(func(c *fakeControl) { c.down = nil })
	p.await()
	exactly(t, sink, 3000)
	if early.Load() > 0 {
		t.Errorf("%d commits came before their checkpoint", early.Load())
	}
	if last := src.commits[len(src.commits)-1]; last != "3000" {
		t.Errorf("last commit at %s", last)
	}
}

func TestALaneWhoseCheckpointIsFencedStops(t *testing.T) {
	control := newControl()
	control.fence = true
	src, sink := newSource(t, numbered(100, 0)...), newSink(t)
	src.endless = true
	p, n := simple(t, control, src, sink)
	p.start()
	eventually(t, "the stage says so", func() bool { return strings.Contains(n.status("in").GetWaitingFor(), "newer") })
	if len(src.commits) > 0 {
		t.Errorf("committed %v", src.commits)
	}
	if got := n.status("in").GetFenced(); got != 1 {
		t.Errorf("it counts %d refusals for a newer owner", got)
	}
}

func TestWhatAServiceRefusesForANewerOwnerIsCountedAndNothingElse(t *testing.T) {
	refused := func(why string) error {
		st, err := status.New(codes.FailedPrecondition, "no").WithDetails(&errdetails.ErrorInfo{Reason: why, Domain: "conveyor.etl"})
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	src, sink := newSource(t, numbered(10, 0)...), newSink(t)
	src.refusal, sink.refusal = refused("FENCED"), refused("FENCED")
	p, n := simple(t, newControl(), src, sink)
	p.start()
	for _, stage := range []string{"in", "out"} {
		eventually(t, "stage "+stage+" counts each time", func() bool { return n.status(stage).GetFenced() > 1 })
	}

	src, sink = newSource(t, numbered(10, 0)...), newSink(t)
	src.refusal, sink.refusal = refused("INVALID_CONFIG"), errors.New("no")
	p, n = simple(t, newControl(), src, sink)
	p.start()
	for _, stage := range []string{"in", "out"} {
		eventually(t, "stage "+stage+" waits", func() bool { return strings.Contains(n.status(stage).GetWaitingFor(), "no") })
		if got := n.status(stage).GetFenced(); got > 0 {
			t.Errorf("stage %s counts %d refusals for a newer owner", stage, got)
		}
	}
}

func TestDeadLettersWaitForTheirStore(t *testing.T) {
	control := newControl()
	control.lettersDown = fmt.Errorf("the store is being moved")
	src, sink := newSource(t, numbered(500, 3)...), newSink(t)
	sink.decide(func(r *conveyorv1.Record) *conveyorv1.Failure {
		if number(r)%100 == 50 {
			return failure(permanent, "BAD")
		}
		return nil
	})
	p, n := simple(t, control, src, sink)
	p.start()
	eventually(t, "the stage says so", func() bool { return strings.Contains(n.status("out").GetWaitingFor(), "the store is being moved") })
	if c := n.lane().GetCounts(); c.GetDead() > 0 || c.GetInFlight() == 0 {
		t.Errorf("settled without a letter: %v", c)
	}
	control.set(func(c *fakeControl) { c.lettersDown, c.shortStore = nil, true })
	eventually(t, "a short answer is no answer", func() bool { return strings.Contains(n.status("out").GetWaitingFor(), "answered for") })
	control.set(func(c *fakeControl) { c.shortStore = false })
	p.await()
	if len(control.stored()) != 5 || len(sink.records()) != 495 || control.position() != "500" {
		t.Errorf("%d letters, %d records, checkpoint %s", len(control.stored()), len(sink.records()), control.position())
	}
}

func TestAServiceThatCrashesAndReturnsLosesNothing(t *testing.T) {
	control := newControl()
	n := newNode(t, "a", control)
	src, sink := newSource(t, numbered(20000, 11)...), newSink(t)
	tr := newTransform(t, func(*conveyorv1.Record) fate { return fate{} })
	p := newPipeline(t)
	p.source(n, src)
	p.transform(n, "shape", tr)
	p.sink(n, "out", sink)
	p.chain("in", "shape", "out")
	p.start()
	for range 4 {
		before := len(sink.records())
		eventually(t, "records flow", func() bool { over, _ := p.over(); return len(sink.records()) > before || over })
		tr.kill()
		sink.kill()
		tr.start()
		sink.start()
	}
	p.await()
	atLeast(t, sink, 20000)
	if len(control.stored()) > 0 {
		t.Error("a crash made dead letters")
	}
}

func TestAnswersThatMakeNoSenseEndTheStreamAndNothingElse(t *testing.T) {
	type stream = grpc.BidiStreamingServer[conveyorv1.WriteRequest, conveyorv1.WriteResponse]
	ok := func(first, count uint32) *conveyorv1.WriteResult {
		return &conveyorv1.WriteResult{First: first, Count: count, Outcome: &conveyorv1.WriteResult_Ok{Ok: &conveyorv1.Written{}}}
	}
	for name, answer := range map[string]func(s stream, req *conveyorv1.WriteRequest) error{
		"another sequence": func(s stream, req *conveyorv1.WriteRequest) error {
			return s.Send(&conveyorv1.WriteResponse{Sequence: req.GetSequence() + 7, Results: []*conveyorv1.WriteResult{ok(0, 1)}})
		},
		"no sequence": func(s stream, req *conveyorv1.WriteRequest) error {
			return s.Send(&conveyorv1.WriteResponse{Results: []*conveyorv1.WriteResult{ok(0, 1)}})
		},
		"a hole": func(s stream, req *conveyorv1.WriteRequest) error {
			return s.Send(&conveyorv1.WriteResponse{Sequence: req.GetSequence(), Results: []*conveyorv1.WriteResult{ok(1, uint32(len(req.GetBatch().GetRecords())-1))}})
		},
		"too many": func(s stream, req *conveyorv1.WriteRequest) error {
			return s.Send(&conveyorv1.WriteResponse{Sequence: req.GetSequence(), Results: []*conveyorv1.WriteResult{ok(0, 1<<31)}})
		},
		"no outcome": func(s stream, req *conveyorv1.WriteRequest) error {
			return s.Send(&conveyorv1.WriteResponse{Sequence: req.GetSequence(), Results: []*conveyorv1.WriteResult{{Count: uint32(len(req.GetBatch().GetRecords()))}}})
		},
		"held": func(s stream, req *conveyorv1.WriteRequest) error {
			return s.Send(&conveyorv1.WriteResponse{Sequence: req.GetSequence(), Results: []*conveyorv1.WriteResult{{
				Count: uint32(len(req.GetBatch().GetRecords())), Outcome: &conveyorv1.WriteResult_Held{Held: &conveyorv1.Held{}},
			}}})
		},
		"completed unasked": func(s stream, req *conveyorv1.WriteRequest) error {
			return s.Send(&conveyorv1.WriteResponse{Completed: &conveyorv1.WriteCompleted{}})
		},
		"opened again": func(s stream, req *conveyorv1.WriteRequest) error {
			return s.Send(&conveyorv1.WriteResponse{Opened: &conveyorv1.WriteOpened{}})
		},
		"twice": func(s stream, req *conveyorv1.WriteRequest) error {
			r := &conveyorv1.WriteResponse{Sequence: req.GetSequence(), Results: []*conveyorv1.WriteResult{ok(0, uint32(len(req.GetBatch().GetRecords())))}}
			if err := s.Send(r); err != nil {
				return err
			}
			return s.Send(r)
		},
		"the end": func(stream, *conveyorv1.WriteRequest) error { return fmt.Errorf("enough") },
	} {
		t.Run(name, func(t *testing.T) {
			control := newControl()
			src, sink := newSource(t, numbered(50, 3)...), newSink(t)
			var times atomic.Int64
			sink.rubbish = func(s stream, req *conveyorv1.WriteRequest) (bool, error) {
				if times.Add(1) > 2 {
					return false, nil
				}
				return true, answer(s, req)
			}
			p, n := simple(t, control, src, sink)
			p.start()
			eventually(t, "the sink is opened again", func() bool { sink.mu.Lock(); defer sink.mu.Unlock(); return sink.opens >= 2 })
			if !p.await() {
				t.Error("not completed")
			}
			if name == "twice" {
				return // the sink said ok without keeping anything
			}
			exactly(t, sink, 50)
			law(t, n.lane())
		})
	}
}

func TestATransformThatAnswersWithOtherRecordsThanItSaysIsNotBelieved(t *testing.T) {
	for name, spoil := range map[string]func(*conveyorv1.ProcessResponse){
		"a record too few":  func(r *conveyorv1.ProcessResponse) { r.Batch.Records = r.Batch.Records[1:] },
		"a record too many": func(r *conveyorv1.ProcessResponse) { r.Batch.Records = append(r.Batch.Records, &conveyorv1.Record{}) },
		"a result too few":  func(r *conveyorv1.ProcessResponse) { r.Results = r.Results[1:] },
		"no outputs": func(r *conveyorv1.ProcessResponse) {
			r.Results[0].Outcome = &conveyorv1.ProcessResult_Ok{Ok: &conveyorv1.Outputs{}}
		},
		"millions of outputs": func(r *conveyorv1.ProcessResponse) {
			r.Results[0].Outcome = &conveyorv1.ProcessResult_Ok{Ok: &conveyorv1.Outputs{Each: 1 << 31}}
		},
		"resolved": func(r *conveyorv1.ProcessResponse) { r.Resolved = []*conveyorv1.Resolved{{}} },
	} {
		t.Run(name, func(t *testing.T) {
			control := newControl()
			n := newNode(t, "a", control)
			src, sink := newSource(t, numbered(50, 3)...), newSink(t)
			tr := newTransform(t, func(*conveyorv1.Record) fate { return fate{} })
			var times atomic.Int64
			tr.rubbish = func(_ *conveyorv1.ProcessRequest, resp *conveyorv1.ProcessResponse) {
				if times.Add(1) <= 2 {
					spoil(resp)
				}
			}
			p := newPipeline(t)
			p.source(n, src)
			p.transform(n, "shape", tr)
			p.sink(n, "out", sink)
			p.chain("in", "shape", "out")
			p.start()
			p.await()
			exactly(t, sink, 50)
		})
	}
}

func TestASinkThatNeverAnswersTheOpeningIsNamed(t *testing.T) {
	control := newControl()
	src, sink := newSource(t, numbered(50, 3)...), newSink(t)
	sink.mute.Store(true)
	p, n := simple(t, control, src, sink)
	p.start()
	eventually(t, "the stage says so", func() bool {
		return strings.Contains(n.status("out").GetWaitingFor(), "has not answered the opening") && strings.Contains(n.status("out").GetWaitingFor(), sink.addr)
	})
}

func TestASlowSinkStopsItsSourceAndMemoryStaysBounded(t *testing.T) {
	control := newControl()
	record := &conveyorv1.Record{Payload: make([]byte, 64<<10)}
	records := make([]*conveyorv1.Record, 1600) // 100 MiB on the wire
	for i := range records {
		records[i] = proto.CloneOf(record)
		records[i].Payload = record.Payload
	}
	src, sink := newSource(t, records...), newSink(t)
	src.endless = true
	sink.gate = make(chan struct{})
	a, b := newNode(t, "a", control), newNode(t, "b", control)
	p := newPipeline(t)
	window := &controlv1.Limits{WindowRecords: 200, WindowBytes: 4 << 20}
	p.source(a, src).spec.Limits = window
	p.cel(a, "keep", "true", "").spec.Limits = window
	p.sink(b, "out", sink).spec.Limits = window
	p.chain("in", "keep", "out")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	p.start()
	sent := func() int { src.mu.Lock(); defer src.mu.Unlock(); return src.sent }
	last, since := -1, time.Now()
	eventually(t, "the source stops", func() bool {
		if n := sent(); n != last {
			last, since = n, time.Now()
		}
		return last > 0 && time.Since(since) > 700*time.Millisecond
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	// Three windows of 4 MiB: of the source's stream, of the edge to keep, of the edge to the sink.
	if read := a.lane().GetCounts().GetRead(); read > 2*64+64 {
		t.Errorf("%d records of 64 KiB were read into windows of 4 MiB", read)
	}
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 2*3*(4<<20)+30<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	close(sink.gate)
	eventually(t, "records flow once the sink takes them", func() bool { return len(sink.records()) > 400 })
}

func TestDrainSettlesWhatIsInFlightAndCompletesNothing(t *testing.T) {
	control := newControl()
	a, b := newNode(t, "a", control), newNode(t, "b", control)
	src, sink := newSource(t, numbered(10000, 5)...), newSink(t)
	src.endless = true
	p := newPipeline(t)
	p.source(a, src)
	p.cel(b, "keep", "true", "")
	p.sink(a, "out", sink)
	p.chain("in", "keep", "out")
	p.start()
	eventually(t, "records flow", func() bool { return len(sink.records()) > 0 })
	p.drainAll()
	if p.await() {
		t.Error("a drained pipeline is completed")
	}
	if sink.completes > 0 {
		t.Error("the sink was told that it is complete")
	}
	at, _ := strconv.Atoi(control.position())
	exactly(t, sink, at)
}

func TestADrainDoesNotWaitForASourceThatIsGone(t *testing.T) {
	control := newControl()
	src, sink := newSource(t, numbered(100, 5)...), newSink(t)
	src.endless = true
	p, _ := simple(t, control, src, sink)
	p.start()
	eventually(t, "all came", func() bool { return len(sink.records()) == 100 })
	src.kill()
	p.drainAll()
	if p.await() {
		t.Error("completed")
	}
	if control.position() != "100" {
		t.Errorf("checkpoint at %s", control.position())
	}
}

func TestASidecarThatLeavesEndsNoStageElsewhere(t *testing.T) {
	control := newControl()
	a, b, c := newNode(t, "a", control), newNode(t, "b", control), newNode(t, "c", control)
	src, sink := newSource(t, numbered(4000, 5)...), newSink(t)
	src.endless = true
	p := newPipeline(t)
	p.source(a, src)
	p.sink(b, "out", sink)
	p.chain("in", "out")
	p.start()
	eventually(t, "records flow", func() bool { return len(sink.records()) > 0 })
	if err := a.engine.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ended := append(a.engine.Ended(), b.engine.Ended()...); len(ended) > 0 {
		t.Errorf("ended: %v", ended)
	}
	at, _ := strconv.Atoi(control.position())
	exactly(t, sink, at)
	p.move("in", c)
	eventually(t, "the rest comes from the next sidecar", func() bool { return len(sink.payloads()) == 4000 })
	exactly(t, sink, 4000)
}

func TestCloseAtAnyTimeEndsEverything(t *testing.T) {
	for range 12 {
		control := newControl()
		a, b := newNode(t, "a", control), newNode(t, "b", control)
		src, sink := newSource(t, numbered(20000, 9)...), newSink(t)
		sink.decide(func(*conveyorv1.Record) *conveyorv1.Failure {
			if rand.IntN(50) == 0 {
				return failure(retryable, "AGAIN")
			}
			return nil
		})
		p := newPipeline(t)
		p.source(a, src).spec.Limits = &controlv1.Limits{WindowRecords: 300}
		p.cel(b, "keep", "true", "")
		p.sink(a, "out", sink)
		p.chain("in", "keep", "out")
		p.start()
		<-time.After(rand.N(60 * time.Millisecond)) // the moment of the end is random
		var wg sync.WaitGroup
		wg.Go(a.close)
		wg.Go(b.close)
		wg.Wait()
		p.close()
		if len(control.stored()) > 0 {
			// Records that were tried too often may be dead; nothing else may.
			for _, l := range control.stored() {
				if l.GetCode() != "AGAIN" {
					t.Errorf("letter %v", l)
				}
			}
		}
		at, _ := strconv.Atoi(control.position())
		got := sink.payloads()
		dead := map[string]bool{}
		for _, l := range control.stored() {
			dead[string(l.GetRecord().GetPayload())] = true
		}
		for i := 1; i <= at; i++ {
			if got[strconv.Itoa(i)] == 0 && !dead[strconv.Itoa(i)] {
				t.Fatalf("checkpoint at %d, record %d is nowhere", at, i)
			}
		}
	}
}

func TestASinkThatHangsIsNamedUntilItAnswers(t *testing.T) {
	control := newControl()
	src, sink := newSource(t, numbered(50, 3)...), newSink(t)
	sink.gate = make(chan struct{})
	p, n := simple(t, control, src, sink)
	p.start()
	eventually(t, "the stage says so", func() bool {
		w := n.status("out").GetWaitingFor()
		return strings.Contains(w, "it has not answered for 5s") && strings.Contains(w, sink.addr)
	})
	close(sink.gate)
	p.await()
	if w := n.status("out").GetWaitingFor(); w != "" {
		t.Errorf("still waits for %s", w)
	}
}

func TestALetterThatTheStoreNeverTakesHoldsUpNoOthers(t *testing.T) {
	control := newControl()
	control.poison = "17"
	src, sink := newSource(t, numbered(60, 0)...), newSink(t)
	sink.decide(func(*conveyorv1.Record) *conveyorv1.Failure { return failure(permanent, "BAD") })
	p, n := simple(t, control, src, sink)
	p.start()
	eventually(t, "all others are stored", func() bool { return len(control.stored()) == 59 })
	if c := n.lane().GetCounts(); c.GetInFlight() == 0 {
		t.Errorf("the last one settled without a letter: %v", c)
	}
	control.set(func(c *fakeControl) { c.poison = "" })
	p.await()
	if len(control.stored()) != 60 {
		t.Errorf("%d letters", len(control.stored()))
	}
}
