package router_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

func TestPipeline_RunsWhateverComesFirst(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	r := n.apply(simple[0])
	if len(r.GetResults()[0].GetWarnings()) == 0 {
		t.Error("no warning about services that are missing")
	}
	s := n.status("p")
	if s.GetPhase() != controlv1.Phase_PHASE_PENDING || !strings.Contains(s.GetConditions()[0].GetMessage(), "source default/in") {
		t.Errorf("status before the services: %v", s)
	}
	n.apply(simple[1:]...)
	await(t, func() string {
		return differs(waits(n.status("p"), "in"), "no sidecar is connected: start conveyor-sidecar")
	})
	a := n.register("a")
	await(t, func() string {
		return differs(waits(n.status("p"), "in"), "no connector of type file found that is a source: start conveyor-connect")
	})
	await(t, func() string {
		return differs(waits(n.status("p"), "out"), "sidecar a has not reported on it yet") // loopback of the only host: a gateway
	})
	if _, err := n.coord.ReportEndpoints(t.Context(), &controlv1.ReportEndpointsRequest{Session: a.session, Endpoints: both}); err != nil {
		t.Fatal(err)
	}
	a.awaitStages("in keep out")
	keep := a.stage("keep")
	if keep.GetLastSlot() != 255 || keep.GetSpec().GetCel().GetFilter() != "value.a > 1" {
		t.Errorf("assignment %v", keep)
	}
	await(t, func() string { // peers know each other once all are assigned
		keep = a.stage("keep")
		if len(keep.GetUpstream()) != 1 || keep.GetUpstream()[0].GetSidecarId() != "a" || keep.GetUpstream()[0].GetEpoch().GetIndex() == 0 ||
			len(keep.GetDownstream()) != 1 || keep.GetDownstream()[0].GetAddress() != "127.0.0.1:9091" {
			return "peers of keep: " + keep.String()
		}
		return ""
	})
	if w := a.stage("out").GetSpec().GetServiceWork(); w.GetAddress() != "localhost:50070" || !w.GetGateway() {
		t.Errorf("work of out: %v", w)
	}
	if w := a.stage("in").GetSpec().GetServiceWork(); w.GetAddress() != "127.0.0.1:50060" || w.GetType() != "file" {
		t.Errorf("work of in: %v", w)
	}
	a.open()
	n.awaitPhase("p", controlv1.Phase_PHASE_RUNNING)
}

func waits(s *controlv1.PipelineStatus, stage string) string {
	for _, st := range s.GetStages() {
		if st.GetName() == stage {
			return st.GetWaitingFor()
		}
	}
	return "no such stage"
}

func TestPipeline_AnEndpointWithoutASidecarGoesThroughAGateway(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple[0], simple[1], simple[2], sink("out", "192.0.2.77:50051"))
	a := n.register("a", both...)
	if w := a.stage("out").GetSpec().GetServiceWork(); w.GetAddress() != "192.0.2.77:50051" || !w.GetGateway() {
		t.Errorf("work of out: %v", w)
	}
	// An address of the sidecar's own host is no gateway.
	n.apply(sink("out", "192.0.2.1:50070"))
	a.awaitStages("in(drain) keep(drain) out(drain)")
	a.end(false, a.assignments()...)
	await(t, func() string {
		w := a.stage("out").GetSpec().GetServiceWork()
		return differs(w.GetAddress()+gateway(w), "127.0.0.1:50070")
	})
}

func gateway(w *controlv1.ServiceWork) string {
	if w.GetGateway() {
		return " by gateway"
	}
	return ""
}

func TestCheckpoints_AreFencedAndNeverGoBack(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple...)
	a := n.register("a", both...)
	in := a.stage("in")
	const (
		accepted = controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED
		fenced   = controlv1.CheckpointResult_CHECKPOINT_RESULT_FENCED
		stale    = controlv1.CheckpointResult_CHECKPOINT_RESULT_STALE
	)
	older := &controlv1.Assignment{Pipeline: in.GetPipeline(), Stage: "in", Generation: in.GetGeneration(), Epoch: &conveyorv1.Epoch{Incarnation: in.GetEpoch().GetIncarnation(), Index: in.GetEpoch().GetIndex() - 1}}
	earlier := &controlv1.Assignment{Pipeline: in.GetPipeline(), Stage: "in", Generation: in.GetGeneration() + 1, Epoch: in.GetEpoch()}
	for i, step := range []struct {
		a        *controlv1.Assignment
		sequence uint64
		position string
		want     controlv1.CheckpointResult
		stored   string
	}{
		{in, 0, "zz", accepted, "zz"},
		{in, 5, "b", accepted, "b"}, // by sequence, never by bytes
		{in, 4, "c", stale, "b"},
		{in, 5, "d", accepted, "d"},
		{in, 6, "", accepted, "d"}, // an empty position replaces nothing
		{older, 9, "e", fenced, "d"},
		{earlier, 9, "e", fenced, "d"},
	} {
		if got := a.checkpoint(step.a, step.sequence, step.position, false); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
		if got := a.position("in"); got != step.stored {
			t.Errorf("step %d: stored %q, want %q", i, got, step.stored)
		}
	}
	// A new session of the same sidecar: new epochs, the old ones are fenced, sequences begin again, the position stays.
	again := n.register("a", both...)
	await(t, func() string {
		if again.stage("in").GetEpoch().GetIndex() <= in.GetEpoch().GetIndex() {
			return "the epoch did not grow"
		}
		return ""
	})
	if _, err := n.coord.Heartbeat(t.Context(), &controlv1.HeartbeatRequest{Session: a.session}); reason(err) != "SESSION_ENDED" {
		t.Errorf("heartbeat of the older session: %v", err)
	}
	<-a.done
	if reason(a.watched) != "SESSION_ENDED" {
		t.Errorf("watch of the older session: %v", a.watched)
	}
	if got := again.checkpoint(in, 99, "z", false); got != fenced {
		t.Errorf("older epoch: %v", got)
	}
	if got := again.checkpoint(again.stage("in"), 1, "f", false); got != accepted || again.position("in") != "f" {
		t.Errorf("first of a new epoch: %v, %q", got, again.position("in"))
	}
	_, err := n.coord.ReadCheckpoints(t.Context(), &controlv1.ReadCheckpointsRequest{Session: again.session, Pipeline: "default/p", SourceStage: "keep2"})
	mustRefuse(t, err, "FENCED")
}

func TestSession_SilenceMovesTheStages(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SessionTTL, cfg.Heartbeat = 300*time.Millisecond, 100*time.Millisecond
	n := start(t, cfg)
	n.apply(simple...)
	a := n.register("a", both...)
	in := a.stage("in")
	a.checkpoint(in, 3, "three", false)
	b := n.register("b", both...)
	stop := make(chan struct{})
	beating := make(chan struct{})
	go func() { // b is heard of, a is not
		defer close(beating)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				n.coord.Heartbeat(t.Context(), &controlv1.HeartbeatRequest{Session: b.session})
			}
		}
	}()
	defer func() { close(stop); <-beating }()
	b.awaitStages("in keep out")
	if got := b.position("in"); got != "three" {
		t.Errorf("position after the move: %q", got)
	}
	if b.stage("in").GetEpoch().GetIndex() <= in.GetEpoch().GetIndex() {
		t.Error("the epoch did not grow")
	}
	if _, err := n.coord.ReportCheckpoints(t.Context(), &controlv1.ReportCheckpointsRequest{Session: a.session}); reason(err) != "SESSION_ENDED" {
		t.Errorf("checkpoints of an ended session: %v", err)
	}
}

func TestSession_DeregisteringMovesTheStages(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple...)
	a := n.register("a", both...)
	a.awaitStages("in keep out")
	b := n.register("b", both...)
	if b.stages() != "" {
		t.Error("running stages moved")
	}
	if _, err := n.coord.Deregister(t.Context(), &controlv1.DeregisterRequest{Session: a.session}); err != nil {
		t.Fatal(err)
	}
	b.awaitStages("in keep out")
}

func TestPipeline_AChangeDrainsAndGoesOnAtTheCheckpoint(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple...)
	a := n.register("a", both...)
	a.awaitStages("in keep out")
	before := a.stage("in")
	if r := n.apply(simple...); r.GetResults()[2].GetAction() != controlv1.ApplyAction_APPLY_ACTION_UNCHANGED {
		t.Errorf("the same again: %v", r)
	}
	// A change of a service is a change of the pipelines that use it.
	if r := n.apply(filter("keep", "value.a > 2")); r.GetResults()[0].GetAction() != controlv1.ApplyAction_APPLY_ACTION_CONFIGURED || r.GetResults()[0].GetResource().GetGeneration() != 2 {
		t.Errorf("changed: %v", r)
	}
	a.awaitStages("in(drain) keep(drain) out(drain)")
	if p := n.status("p").GetPhase(); p != controlv1.Phase_PHASE_DRAINING {
		t.Errorf("phase %v", p)
	}
	if a.checkpoint(before, 7, "seven", false) != controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED {
		t.Error("the last checkpoint of a drain was refused")
	}
	draining := a.assignments()
	a.end(false, draining[0], draining[1])
	a.end(false, draining[2])
	await(t, func() string {
		k := a.stage("keep")
		return differs(k.GetSpec().GetCel().GetFilter(), "value.a > 2")
	})
	after := a.stage("in")
	if after.GetGeneration() != before.GetGeneration()+1 || after.GetDrain() || a.position("in") != "seven" {
		t.Errorf("new generation: %v at %q", after, a.position("in"))
	}
	if a.checkpoint(before, 8, "eight", false) != controlv1.CheckpointResult_CHECKPOINT_RESULT_FENCED {
		t.Error("a checkpoint of the old generation was taken")
	}
}

func TestPipeline_ADrainThatDoesNotEndIsCutOff(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.DrainTimeout = 200 * time.Millisecond
	n := start(t, cfg)
	n.apply(simple...)
	a := n.register("a", both...)
	a.awaitStages("in keep out")
	n.apply(filter("keep", "value.a > 2"))
	await(t, func() string { return differs(a.stage("keep").GetSpec().GetCel().GetFilter(), "value.a > 2") })
	if a.stage("in").GetDrain() {
		t.Error("the new generation drains")
	}
}

func TestPipeline_DeletionDrainsAndDropsTheCheckpoints(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple...)
	a := n.register("a", both...)
	a.checkpoint(a.stage("in"), 1, "one", false)
	ref := &controlv1.ResourceRef{Kind: "Pipeline", Namespace: "default", Name: "p"}
	if _, err := n.admin.DeleteResource(t.Context(), &controlv1.DeleteResourceRequest{Ref: ref}); err != nil {
		t.Fatal(err)
	}
	a.awaitStages("in(drain) keep(drain) out(drain)")
	if p := n.status("p").GetPhase(); p != controlv1.Phase_PHASE_DRAINING {
		t.Errorf("phase %v", p)
	}
	_, err := n.admin.GetResource(t.Context(), &controlv1.GetResourceRequest{Ref: ref})
	mustRefuse(t, err, "NOT_FOUND")
	a.end(false, a.assignments()...)
	a.awaitStages("")
	_, err = n.admin.GetPipelineStatus(t.Context(), &controlv1.GetPipelineStatusRequest{Namespace: "default", Name: "p"})
	mustRefuse(t, err, "NOT_FOUND")
	_, err = n.admin.DeleteResource(t.Context(), &controlv1.DeleteResourceRequest{Ref: ref})
	mustRefuse(t, err, "NOT_FOUND")
	n.apply(simple[0])
	a.awaitStages("in keep out")
	if got := a.position("in"); got != "" {
		t.Errorf("a new life begins at %q", got)
	}
}

func TestPipeline_PauseKeepsTheCheckpoints(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple...)
	a := n.register("a", both...)
	a.checkpoint(a.stage("in"), 1, "one", false)
	n.apply(pipeline("p", `{"source":"in","steps":["keep"],"sink":"out","enabled":false}`))
	a.awaitStages("in(drain) keep(drain) out(drain)")
	a.end(false, a.assignments()...)
	n.awaitPhase("p", controlv1.Phase_PHASE_PAUSED)
	a.awaitStages("")
	n.apply(simple[0])
	a.awaitStages("in keep out")
	if got := a.position("in"); got != "one" {
		t.Errorf("resumed at %q", got)
	}
}

func TestPipeline_CompletesAndReadsOnWhenRestarted(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple...)
	a := n.register("a", both...)
	a.awaitStages("in keep out")
	first := a.stage("in")
	a.checkpoint(first, 9, "nine", true)
	a.open(&controlv1.LaneReport{Pipeline: "default/p", Generation: first.GetGeneration(), Status: &controlv1.LaneStatus{
		Source: "default/in", SourceStage: "in", Partition: "0", Counts: &controlv1.Counts{Read: 9, Acknowledged: 8, Filtered: 1}, Ended: true,
	}})
	a.end(true, a.stage("out"))
	await(t, func() string {
		d := a.stage("keep").GetDownstream()
		if len(d) != 1 || !d[0].GetCompleted() || d[0].GetSidecarId() != "" {
			return "keep does not learn that out has completed"
		}
		return ""
	})
	// A stage that is lost now is made good; the completed one is not begun again.
	a2 := n.register("a", both...)
	a2.awaitStages("in keep")
	a2.end(true, a2.assignments()...)
	s := n.awaitPhase("p", controlv1.Phase_PHASE_COMPLETED)
	if s.GetCounts().GetRead() != 9 || s.GetCounts().GetFiltered() != 1 {
		t.Errorf("counts of a completed pipeline: %v", s.GetCounts())
	}
	a2.awaitStages("")
	if _, err := n.admin.RestartPipeline(t.Context(), &controlv1.RestartPipelineRequest{Namespace: "default", Name: "p"}); err != nil {
		t.Fatal(err)
	}
	a2.awaitStages("in keep out")
	in := a2.stage("in")
	if in.GetSpec().GetFromStart() || a2.position("in") != "nine" {
		t.Errorf("read on: %v at %q", in, a2.position("in"))
	}
	_, err := n.admin.RestartPipeline(t.Context(), &controlv1.RestartPipelineRequest{Namespace: "default", Name: "p"})
	mustRefuse(t, err, "CONFLICT")
	if _, err := n.admin.RestartPipeline(t.Context(), &controlv1.RestartPipelineRequest{Namespace: "default", Name: "p", FromStart: true}); err != nil {
		t.Fatal(err)
	}
	a2.awaitStages("in(drain) keep(drain) out(drain)")
	a2.end(false, a2.assignments()...)
	a2.awaitStages("in keep out")
	if in := a2.stage("in"); !in.GetSpec().GetFromStart() || a2.position("in") != "" {
		t.Errorf("begun anew: %v at %q", in, a2.position("in"))
	}
}

func TestPipeline_DeadLetterSinkIsAPairOfStagesThatEndsLast(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(append(simple[1:], pipeline("p", `{"source":"in","steps":["keep"],"sink":"out","dlq":{"sink":"bad"}}`), sink("bad", "localhost:50071"))...)
	a := n.register("a", append(both, endpoint(50071, anySink))...)
	a.awaitStages("bad dlq in keep out")
	dlq := a.stage("dlq")
	if dlq.GetSpec().GetDeadLetters() == nil || dlq.GetSpec().GetDeadLetters().GetFinish() || dlq.GetDownstream()[0].GetStage() != "bad" {
		t.Errorf("dlq stage: %v", dlq)
	}
	a.end(true, a.stage("out"), a.stage("keep"), a.stage("in"))
	await(t, func() string {
		if !a.stage("dlq").GetSpec().GetDeadLetters().GetFinish() {
			return "the dlq stage is not told to finish"
		}
		return ""
	})
	if n.status("p").GetPhase() == controlv1.Phase_PHASE_COMPLETED {
		t.Error("completed before its letters were delivered")
	}
	a.end(true, a.stage("dlq"), a.stage("bad"))
	n.awaitPhase("p", controlv1.Phase_PHASE_COMPLETED)
}

// Services go on while a cluster is founded anew beside them, and refuse whoever seems to be an owner of the past.
func TestRouter_OwnersInAClusterThatIsFoundedLaterAreNewerThanThoseOfAnEarlierOne(t *testing.T) {
	var epochs []*conveyorv1.Epoch
	for range 2 {
		n := start(t, testConfig(t.TempDir()))
		n.apply(simple...)
		epochs = append(epochs, n.register("a", both...).stage("out").GetEpoch())
		second := time.Now().Unix()
		await(t, func() string { // clusters are told apart by the second
			if time.Now().Unix() == second {
				return "it is the same second still"
			}
			return ""
		})
	}
	if first, later := epochs[0].GetIncarnation(), epochs[1].GetIncarnation(); first >= later {
		t.Errorf("an owner of the cluster that was founded later has the incarnation %d, after %d", later, first)
	}
}

func TestPipeline_ALaneThatReadsOnInSpiteOfItsProblemIsDegradedAndNotFailed(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple...)
	a := n.register("a", both...)
	a.awaitStages("in keep out")
	in := a.stage("in")
	report := func(problem string, readsOn bool) *controlv1.PipelineStatus {
		a.open(&controlv1.LaneReport{Pipeline: in.GetPipeline(), Generation: in.GetGeneration(), Status: &controlv1.LaneStatus{
			Source: "default/in", SourceStage: "in", Problem: problem, ReadsOn: readsOn,
		}})
		return n.status("p")
	}
	condition := func(s *controlv1.PipelineStatus, kind string) *controlv1.Condition {
		for _, c := range s.GetConditions() {
			if c.GetType() == kind {
				return c
			}
		}
		return nil
	}
	s := report("checkpoints are not stored: the disk is nearly full", true)
	if c := condition(s, "Degraded"); s.GetPhase() != controlv1.Phase_PHASE_RUNNING || !condition(s, "Running").GetStatus() ||
		!c.GetStatus() || c.GetReason() != "LanesHaveProblems" || !strings.Contains(c.GetMessage(), "in partition \"\": checkpoints are not stored") {
		t.Errorf("a lane that reads on: %v", s)
	}
	if s := report("position gone", false); s.GetPhase() != controlv1.Phase_PHASE_FAILED || condition(s, "Running").GetStatus() || condition(s, "Degraded") != nil {
		t.Errorf("a lane that does not: %v", s)
	}
	if s := report("", false); s.GetPhase() != controlv1.Phase_PHASE_RUNNING || condition(s, "Degraded") != nil {
		t.Errorf("a lane without a problem: %v", s)
	}
}

// The service of a stage that waits for it starts: its own sidecar finds it, and at that moment the sidecar that has the stage reaches it from afar.
func TestPipeline_AStageMovesToItsServiceOnlyWhileItIsKnownToBeIdle(t *testing.T) {
	for _, opens := range []bool{true, false} {
		t.Run(fmt.Sprintf("opens %v", opens), func(t *testing.T) {
			n := start(t, testConfig(t.TempDir()))
			n.apply(simple...)
			a := n.register("a", endpoint(50060, fileSource))
			before := a.stage("out")
			a.report(false)
			b := n.register("b", endpoint(50070, anySink))
			// Another pipeline is placed once the leader has seen that.
			n.apply(pipeline("q", `{"source":"in","sink":"out"}`))
			b.stage("out")
			a.report(opens)
			n.apply(pipeline("r", `{"source":"in","sink":"out"}`))
			await(t, func() string { return differs(len(b.assignments()) > 1, true) })
			if opens {
				if now := a.stage("out"); !proto.Equal(now.GetEpoch(), before.GetEpoch()) {
					t.Errorf("a stage that is at work was moved: %v", now)
				}
				return
			}
			await(t, func() string {
				return differs(slices.ContainsFunc(b.assignments(), func(as *controlv1.Assignment) bool { return as.GetPipeline() == "default/p" }), true)
			})
		})
	}
}
