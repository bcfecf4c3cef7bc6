package engine_test

import (
	"context"
	"testing"

	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

func (p *pipeline) setHold(on bool) {
	p.mu.Lock()
	p.hold = on
	p.mu.Unlock()
	p.apply()
}

// heldPipeline is one of a source, a transform, an expression and a sink on two sidecars, whose source has nothing more and whose transform refused record 7.
func heldPipeline(t *testing.T) (p *pipeline, control *fakeControl, a, b *node, sink *fakeSink) {
	t.Helper()
	control = newControl()
	a, b = newNode(t, "a", control), newNode(t, "b", control)
	src := newSource(t, numbered(20, 5)...)
	sink = newSink(t)
	refused := false
	tr := newTransform(t, func(r *conveyorv1.Record) fate {
		if number(r) == 7 && !refused {
			refused = true
			return fate{fail: failure(permanent, "BAD")}
		}
		return fate{}
	})
	p = newPipeline(t)
	p.hold = true
	p.source(a, src)
	p.transform(b, "shape", tr)
	p.cel(a, "keep", "true", "")
	p.sink(b, "out", sink)
	p.chain("in", "shape", "keep", "out")
	p.start()
	eventually(t, "the lane ends", func() bool {
		control.mu.Lock()
		defer control.mu.Unlock()
		return control.checkpoints["default/p/in/"].GetEnded()
	})
	return p, control, a, b, sink
}

func (p *pipeline) endedStages() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ended)
}

func TestAHeldStageTakesLettersAndEndsWhenItIsReleased(t *testing.T) {
	p, control, _, b, sink := heldPipeline(t)
	if o, _, err := b.engine.Inject(t.Context(), control.stored()[0]); err != nil || o != linkv1.Outcome_OUTCOME_ACKNOWLEDGED {
		t.Errorf("replay: %v, %v", o, err)
	}
	exactly(t, sink, 20)
	if n := p.endedStages(); n > 0 || sink.completes > 0 {
		t.Errorf("%d stages ended while they were held; the sink was told %d times to complete", n, sink.completes)
	}
	p.setHold(false)
	if !p.await() {
		t.Error("drained, not completed")
	}
	if sink.completes != 1 {
		t.Errorf("the sink was told %d times to complete", sink.completes)
	}
}

func TestAHeldStageIsDrainedLikeAnyOther(t *testing.T) {
	p, _, a, b, _ := heldPipeline(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, n := range []*node{a, b} { // a sidecar that leaves does not wait for the release
		if err := n.engine.Drain(ctx); err != nil {
			t.Error(err)
		}
	}
	if n := p.endedStages(); n > 0 {
		t.Errorf("%d stages ended with their sidecar", n)
	}
	p.drainAll()
	p.await()
}
