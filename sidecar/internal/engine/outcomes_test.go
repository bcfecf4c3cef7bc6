package engine_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

const (
	retryable   = conveyorv1.FailureClass_FAILURE_CLASS_RETRYABLE
	permanent   = conveyorv1.FailureClass_FAILURE_CLASS_PERMANENT
	unavailable = conveyorv1.FailureClass_FAILURE_CLASS_UNAVAILABLE
)

func number(r *conveyorv1.Record) int {
	n, _ := strconv.Atoi(string(r.GetPayload()))
	return n
}

// law checks that every record that was read ended in exactly one outcome.
func law(t *testing.T, l *controlv1.LaneStatus) {
	t.Helper()
	c := l.GetCounts()
	if c.GetRead() != c.GetAcknowledged()+c.GetDead()+c.GetFiltered()+c.GetUnrouted()+c.GetShed()+c.GetInFlight() {
		t.Errorf("the counts do not add up: %v", c)
	}
}

// counts ends when the lane has settled so many records.
func settledAll(n *node, read uint64) func() bool {
	return func() bool { l := n.lane(); return l.GetCounts().GetRead() == read && l.GetCounts().GetInFlight() == 0 }
}

func TestFailuresAreRetriedAndThenDeadLettered(t *testing.T) {
	control := newControl()
	n := newNode(t, "a", control)
	src, sink := newSource(t, numbered(300, 5)...), newSink(t)
	src.endless = true
	var mu sync.Mutex
	tries := map[int]int{}
	sink.decide(func(r *conveyorv1.Record) *conveyorv1.Failure {
		mu.Lock()
		defer mu.Unlock()
		i := number(r)
		tries[i]++
		switch {
		case i%50 == 1:
			return failure(permanent, "BAD")
		case i%50 == 2:
			return failure(retryable, "NEVER")
		case i%50 == 3 && tries[i] < 3:
			return failure(retryable, "LATER")
		case i%50 == 4 && tries[i] < 9:
			return failure(unavailable, "DOWN")
		}
		return nil
	})
	p := newPipeline(t)
	p.source(n, src)
	p.sink(n, "out", sink)
	p.chain("in", "out")
	p.start()
	eventually(t, "all settled", settledAll(n, 300))
	c := n.lane().GetCounts()
	if c.GetDead() != 12 || c.GetAcknowledged() != 288 {
		t.Errorf("counts: %v", c)
	}
	for _, l := range control.stored() {
		i := number(l.GetRecord())
		want := map[int]int{1: 1, 2: 4}[i%50]
		if len(l.GetAttempts()) != want || l.GetStage() != "out" || l.GetEdge() != "in" || l.GetRecord().GetId() != "default/in//"+strconv.Itoa(i) {
			t.Errorf("letter of record %d: %v", i, l)
		}
	}
	if n.status("out").GetFailed() != 12 || n.status("out").GetRetries() == 0 {
		t.Errorf("status: %v", n.status("out"))
	}
	law(t, n.lane())
	eventually(t, "checkpoint behind the dead", func() bool { return control.position() == "300" })
}

func TestOrderOfKeysHoldsThroughRandomFailures(t *testing.T) {
	for name, ordering := range map[string]controlv1.Ordering{
		"key":        controlv1.Ordering_ORDERING_KEY,
		"key-strict": controlv1.Ordering_ORDERING_KEY_STRICT,
	} {
		t.Run(name, func(t *testing.T) {
			control := newControl()
			a, b := newNode(t, "a", control), newNode(t, "b", control)
			src, sink := newSource(t, numbered(4000, 23)...), newSink(t)
			var calls atomic.Int64
			flaky := func(r *conveyorv1.Record) *conveyorv1.Failure {
				switch calls.Add(1); rand.IntN(200) {
				case 0:
					return failure(permanent, "BAD")
				case 1, 2, 3:
					return failure(retryable, "AGAIN")
				case 4:
					return failure(unavailable, "DOWN")
				}
				return nil
			}
			tr := newTransform(t, func(r *conveyorv1.Record) fate { return fate{fail: flaky(r)} })
			if ordering == controlv1.Ordering_ORDERING_KEY {
				tr.ability.Ordered, sink.ability.Ordered = true, true
			}
			tr.ability.MaxBatch, sink.ability.MaxBatch = 64, 32
			sink.decide(flaky)
			p := newPipeline(t)
			p.source(a, src)
			p.transform(a, "shape", tr).spec.Ordering = ordering
			p.sink(b, "out", sink).spec.Ordering = ordering
			p.chain("in", "shape", "out")
			p.start()
			if !p.await() {
				t.Error("not completed")
			}
			if len(sink.disorder) > 0 {
				t.Errorf("%d out of order, first %s", len(sink.disorder), sink.disorder[0])
			}
			if got := len(sink.payloads()) + len(control.stored()); got != 4000 {
				t.Errorf("%d of 4000 accounted for", got)
			}
		})
	}
}

func TestRoutesConditionsAndShedsAreCounted(t *testing.T) {
	control := newControl()
	n := newNode(t, "a", control)
	records := numbered(1000, 0)
	for _, r := range records {
		r.ContentType = "application/json"
	}
	src, even, third, dash := newSource(t, records...), newSink(t), newSink(t), newSink(t)
	src.endless = true
	dash.gate = make(chan struct{}) // never takes anything
	tr := newTransform(t, func(r *conveyorv1.Record) fate {
		switch number(r) % 10 {
		case 9:
			return fate{filtered: true}
		case 8:
			return fate{route: []string{"nowhere"}}
		}
		return fate{}
	})
	p := newPipeline(t)
	p.source(n, src)
	p.transform(n, "split", tr).spec.Limits = &controlv1.Limits{WindowRecords: 64}
	p.sink(n, "even", even)
	p.sink(n, "third", third)
	p.sink(n, "dash", dash)
	p.edge("in", "split")
	p.edge("split", "even").When = "value % 2 == 0"
	p.edge("split", "third").When = "value % 3 == 0"
	best := p.edge("split", "dash")
	best.BestEffort, best.When = true, "value % 2 == 0"
	p.start()
	filtered, unrouted, shed, acked := 0, 0, 0, 0
	evens, thirds := 0, 0
	for i := 1; i <= 1000; i++ {
		switch {
		case i%10 == 9:
			filtered++
		case i%10 == 8:
			unrouted++
		case i%2 == 0:
			shed++
			evens++
			if i%3 == 0 {
				thirds++
			}
		case i%3 == 0:
			thirds++
			acked++
		default:
			unrouted++
		}
	}
	// What the best-effort edge holds counts as shed once it had no room, so only a window's worth may be missing.
	eventually(t, "all but a window settled", func() bool { return n.lane().GetCounts().GetInFlight() <= 64 && n.lane().GetCounts().GetRead() == 1000 })
	eventually(t, "the required sinks have all", func() bool { return len(even.records()) == evens && len(third.records()) == thirds })
	ok := func() bool {
		c := n.lane().GetCounts()
		return int(c.GetFiltered()) == filtered && int(c.GetUnrouted()) == unrouted && int(c.GetAcknowledged()) == acked &&
			int(c.GetShed()+c.GetInFlight()) == shed && c.GetShed() > 0
	}
	eventually(t, fmt.Sprintf("filtered %d, unrouted %d, acknowledged %d, shed %d", filtered, unrouted, acked, shed), ok)
	law(t, n.lane())
}

func TestABestEffortSinkThatHangsDoesNotStopTheLane(t *testing.T) {
	control := newControl()
	n := newNode(t, "a", control)
	src, out, dash := newSource(t, numbered(5000, 3)...), newSink(t), newSink(t)
	src.endless = true
	dash.gate = make(chan struct{})
	p := newPipeline(t)
	p.source(n, src).spec.Limits = &controlv1.Limits{WindowRecords: 200, MaxSpan: 400}
	p.sink(n, "out", out)
	p.sink(n, "dash", dash)
	p.edge("in", "out")
	p.edge("in", "dash").BestEffort = true
	p.start()
	eventually(t, "the required sink has all", func() bool { return len(out.records()) == 5000 })
	exactly(t, out, 5000)
	eventually(t, "checkpoints go on", func() bool { i, _ := strconv.Atoi(control.position()); return i >= 4700 })
	law(t, n.lane())
}

func TestAConditionThatErrsMakesADeadLetterOfItsEdge(t *testing.T) {
	control := newControl()
	n := newNode(t, "a", control)
	records := numbered(100, 0)
	for i, r := range records {
		r.ContentType = "application/json"
		if i%10 == 0 {
			r.Payload = []byte(`{"n":` + strconv.Itoa(i+1) + `}`)
		}
	}
	src, out, all := newSource(t, records...), newSink(t), newSink(t)
	p := newPipeline(t)
	p.source(n, src)
	p.sink(n, "out", out)
	p.sink(n, "all", all)
	p.edge("in", "out").When = "value > 0"
	p.edge("in", "all")
	p.start()
	p.await()
	if len(out.records()) != 90 || len(all.records()) != 100 || len(control.stored()) != 10 {
		t.Errorf("%d, %d and %d letters", len(out.records()), len(all.records()), len(control.stored()))
	}
	for _, l := range control.stored() {
		if l.GetStage() != "out" || l.GetEdge() != "in" || l.GetCode() != "CONDITION_FAILED" {
			t.Errorf("letter %v", l)
		}
	}
}

func TestChildrenSettleTheirParentAndHaveIDsOfTheirOwn(t *testing.T) {
	control := newControl()
	a, b := newNode(t, "a", control), newNode(t, "b", control)
	src, sink := newSource(t, numbered(500, 7)...), newSink(t)
	tr := newTransform(t, func(r *conveyorv1.Record) fate {
		var out []*conveyorv1.Record
		for k := range 1 + number(r)%4 {
			child := &conveyorv1.Record{Key: r.GetKey(), Payload: []byte(fmt.Sprintf("%s.%d", r.GetPayload(), k))}
			if number(r)%2 == 0 {
				child.Id = r.GetId() // as one who copies records does
			}
			out = append(out, child)
		}
		return fate{out: out}
	})
	sink.decide(func(r *conveyorv1.Record) *conveyorv1.Failure {
		if strings.HasPrefix(string(r.GetPayload()), "100.") || string(r.GetPayload()) == "99.2" {
			return failure(permanent, "BAD")
		}
		return nil
	})
	p := newPipeline(t)
	p.source(a, src)
	p.transform(a, "burst", tr)
	p.sink(b, "out", sink)
	p.chain("in", "burst", "out")
	p.start()
	p.await()
	ids := map[string]string{}
	for _, r := range sink.records() {
		number, k, _ := strings.Cut(string(r.GetPayload()), ".")
		want := "default/in//" + number
		if i, _ := strconv.Atoi(number); i%4 > 0 {
			want += "/burst/" + k
		}
		if r.GetId() != want {
			t.Fatalf("record %s has the id %s, want %s", r.GetPayload(), r.GetId(), want)
		}
		if other, twice := ids[r.GetId()]; twice {
			t.Fatalf("%s and %s have the id %s", other, r.GetPayload(), r.GetId())
		}
		ids[r.GetId()] = string(r.GetPayload())
	}
	want := 0
	for i := 1; i <= 500; i++ {
		want += 1 + i%4
	}
	if got := len(sink.records()) + len(control.stored()); got != want {
		t.Errorf("%d children of %d accounted for", got, want)
	}
	if control.position() != "500" {
		t.Errorf("checkpoint at %s", control.position())
	}
}

func TestADiamondDeliversByBothArms(t *testing.T) {
	control := newControl()
	a, b := newNode(t, "a", control), newNode(t, "b", control)
	src, sink := newSource(t, numbered(2000, 7)...), newSink(t)
	p := newPipeline(t)
	p.source(a, src)
	p.cel(a, "left", "true", "")
	p.cel(b, "right", "true", "")
	p.sink(b, "out", sink)
	p.edge("in", "left")
	p.edge("in", "right")
	p.edge("left", "out").Joins = true
	p.edge("right", "out").Joins = true
	p.start()
	if !p.await() {
		t.Error("not completed")
	}
	ids := map[string]bool{}
	for _, r := range sink.records() {
		ids[r.GetId()] = true
	}
	if len(sink.records()) != 4000 || len(ids) != 4000 {
		t.Errorf("%d records with %d ids, want 4000", len(sink.records()), len(ids))
	}
	for _, arm := range []string{"left", "right"} {
		if id := "default/in//77/" + arm; !ids[id] {
			t.Errorf("no record %s", id)
		}
	}
}
