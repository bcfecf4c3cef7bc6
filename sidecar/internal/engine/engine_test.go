package engine_test

import (
	"testing"
)

func TestRecordsReachTheSinkOnceAndThePipelineCompletes(t *testing.T) {
	for _, nodes := range []int{1, 2, 3} {
		control := newControl()
		var at [3]*node
		for i := range at {
			if i < nodes {
				at[i] = newNode(t, string(rune('a'+i)), control)
			} else {
				at[i] = at[nodes-1]
			}
		}
		src, sink := newSource(t, numbered(5000, 17)...), newSink(t)
		p := newPipeline(t)
		p.source(at[0], src)
		p.cel(at[1], "keep", "true", "")
		p.sink(at[2], "out", sink)
		p.chain("in", "keep", "out")
		p.start()
		if !p.await() {
			t.Error("drained, not completed")
		}
		exactly(t, sink, 5000)
		if sink.completes != 1 {
			t.Errorf("the sink was told %d times that it is complete", sink.completes)
		}
		if len(sink.disorder) > 0 {
			t.Error(sink.disorder)
		}
		if got := control.position(); got != "5000" {
			t.Errorf("checkpoint at %s", got)
		}
		p.close()
	}
}
