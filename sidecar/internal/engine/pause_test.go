package engine_test

import (
	"context"
	"strings"
	"testing"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// pausing starts a pipeline whose source stops without routers, and cuts it off in the middle.
func pausing(t *testing.T, records int) (*pipeline, *node, *fakeSink) {
	t.Helper()
	src, sink := newSource(t, numbered(records, 13)...), newSink(t)
	src.endless = true
	n := newNode(t, "a", newControl())
	p := newPipeline(t)
	spec := p.source(n, src).spec
	spec.PauseWithoutRouters, spec.Limits = true, &controlv1.Limits{WindowRecords: 100, BatchRecords: 10}
	p.sink(n, "out", sink)
	p.chain("in", "out")
	p.start()
	eventually(t, "records flow", func() bool { return len(sink.records()) > 0 })
	n.engine.CutOff(true)
	eventually(t, "the lane says that it pauses", func() bool { return strings.Contains(n.lane().GetProblem(), "paused") })
	return p, n, sink
}

func TestASourceThatIsToPauseReadsNothingWhileNoRouterIsReached(t *testing.T) {
	const records = 20_000
	_, n, sink := pausing(t, records)
	read := n.lane().GetCounts().GetRead()
	if read >= records {
		t.Fatal("everything was read before it paused: the run proves nothing")
	}
	eventually(t, "what was read is settled", func() bool { return n.lane().GetCounts().GetInFlight() == 0 })
	if got := n.lane().GetCounts().GetRead(); got != read {
		t.Errorf("%d records were read while it paused", got-read)
	}
	n.engine.CutOff(false)
	eventually(t, "all come", func() bool { return len(sink.records()) >= records })
	exactly(t, sink, records)
	if got := n.lane().GetProblem(); got != "" {
		t.Errorf("afterwards the lane says %q", got)
	}
}

func TestASourceThatPausesCanBeDrained(t *testing.T) {
	_, n, sink := pausing(t, 20_000)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := n.engine.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	atLeast(t, sink, int(n.lane().GetCounts().GetRead()))
}
