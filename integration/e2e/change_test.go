package e2e_test

import (
	"testing"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

func version(v string) string {
	return manifest("Transform", "stamp", `{cel: {map: '{"seq": value.seq, "v": `+v+`}'}}`)
}

func TestApply_OfAChangeDrainsAndGoesOnAtTheCheckpoint(t *testing.T) {
	t.Parallel()
	r := prepare(t).start()
	r.apply(generate("in", endless, rate), version("1"), r.fileSink("out"), manifest("Pipeline", "p", "{source: in, steps: [stamp], sink: out}"))
	r.awaitLines("out", 200)
	r.apply(version("2"))
	proc.Until(t, func() string {
		if l := r.lines("out"); l[len(l)-1].V != 2 {
			return "nothing has gone through the new version"
		}
		return ""
	})
	r.cli.Run("delete", "pipeline", "p")
	if n := r.complete("out", len(r.lines("out"))); n != 0 {
		t.Errorf("%d records arrived twice", n)
	}
	seen := map[int]int{}
	last := 0
	for _, l := range r.lines("out") {
		seen[l.V]++
		if l.V < last {
			t.Fatalf("record %d went through version %d after one of version %d had arrived", l.Seq, l.V, last)
		}
		last = l.V
	}
	if seen[1] == 0 || seen[2] == 0 || len(seen) != 2 {
		t.Errorf("records by version: %v", seen)
	}
}

func TestDelete_DrainsAndDropsTheCheckpoints(t *testing.T) {
	t.Parallel()
	r := prepare(t).start()
	r.apply(generate("in", endless, rate), r.fileSink("out"), manifest("Pipeline", "p", "{source: in, sink: out}"))
	r.awaitLines("out", 200)
	r.cli.Run("delete", "pipeline", "p")
	if _, ok := r.cli.Pipeline("p"); ok {
		t.Error("the pipeline is still there")
	}
	if n := r.complete("out", len(r.lines("out"))); n != 0 {
		t.Errorf("%d records arrived twice", n)
	}
	r.apply(generate("in", 300, 0), r.fileSink("again"), manifest("Pipeline", "p", "{source: in, sink: again}"))
	r.cli.AwaitPhase("p", "Completed")
	r.complete("again", 300)
}

func TestPipeline_PausesWhileItIsDisabled(t *testing.T) {
	t.Parallel()
	r := prepare(t).start()
	r.apply(r.simple(endless)...)
	r.awaitLines("out", 200)
	r.apply(manifest("Pipeline", "p", "{source: in, steps: [keep], sink: out, enabled: false}"))
	r.cli.AwaitPhase("p", "Paused")
	before := len(r.lines("out"))
	r.apply(manifest("Pipeline", "p", "{source: in, steps: [keep], sink: out, enabled: true}"))
	r.awaitLines("out", before+200)
	r.cli.Run("delete", "pipeline", "p")
	if n := r.complete("out", len(r.lines("out"))); n != 0 {
		t.Errorf("%d records arrived twice", n)
	}
	if l := r.lines("out")[before]; l.Seq != before+1 {
		t.Errorf("behind record %d came %d: it was not paused", before, l.Seq)
	}
}

func TestPipelines_RunSideBySide(t *testing.T) {
	t.Parallel()
	r := prepare(t).start()
	r.apply(generate("in", 1000, 0), r.fileSink("a"), r.fileSink("b"),
		manifest("Pipeline", "pa", "{source: in, sink: a}"), manifest("Pipeline", "pb", "{source: in, sink: b}"))
	for pipeline, sink := range map[string]string{"pa": "a", "pb": "b"} {
		r.cli.AwaitPhase(pipeline, "Completed")
		if n := r.complete(sink, 1000); n != 0 {
			t.Errorf("%d records arrived twice at %s", n, sink)
		}
	}
}

func TestDeadLetters_AreListedReplayedAndDiscarded(t *testing.T) {
	t.Parallel()
	sink := proc.NewService(t, "collect")
	r := prepare(t, sink).start()
	sink.Start()
	refuse := r.path("refuse")
	proc.Write(t, refuse, "")
	r.apply(generate("in", 2_000_000, 200), r.grpcSink("out", sink.Port, ", refuse: "+refuse), manifest("Pipeline", "p", "{source: in, sink: out}"))
	proc.Until(t, func() string {
		if n := len(r.cli.Letters("-p", "p")); n < 3 {
			return "too few dead letters"
		}
		return ""
	})
	letters := r.cli.Letters("-p", "p")
	first := letters[0]
	if first.Stage != "out" || first.Code != "REFUSED" || first.Class != "permanent" || string(first.Payload) != `{"seq":10}` || len(first.Attempts) == 0 {
		t.Errorf("the first letter is %+v", first)
	}
	var got proc.Letter
	r.cli.JSON(&got, "dlq", "get", id(first))
	if got.RecordID != first.RecordID {
		t.Errorf("get shows %q, ls %q", got.RecordID, first.RecordID)
	}

	// As long as the sink refuses it, a replay makes a new letter.
	r.cli.Try("dlq", "replay", id(first))
	again := byRecord(r.cli.Letters("-p", "p"), first.RecordID)
	if again == nil || again.ID == first.ID || again.Replays != 1 {
		t.Errorf("after a replay that failed again the letter is %+v", again)
	}

	r.cli.Run("dlq", "discard", "--yes", id(letters[1]))
	if l := byRecord(r.cli.Letters("-p", "p"), letters[1].RecordID); l != nil {
		t.Errorf("the discarded letter is still there: %+v", l)
	}

	sink.Stop()
	r.remove("refuse")
	sink.Start()
	r.cli.Run("dlq", "replay", "-p", "p")
	if left := r.cli.Letters("-p", "p"); len(left) != 0 {
		t.Errorf("%d letters are left after the replay of all, the first is %+v", len(left), left[0])
	}
	arrived := map[string]bool{}
	for _, l := range r.lines("out") {
		arrived[l.ID] = true
	}
	for i, l := range letters {
		if arrived[l.RecordID] != (i != 1) {
			t.Errorf("record %s arrived: %v", l.RecordID, arrived[l.RecordID])
		}
	}
}
