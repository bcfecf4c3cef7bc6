package router_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

func letter(id, stage, code string) *controlv1.Letter {
	return &controlv1.Letter{
		Record: &conveyorv1.Record{Id: id, Payload: []byte("payload of " + id)}, Namespace: "default", Pipeline: "p", Generation: 1, Stage: stage, Edge: "in",
		Source: "default/in", Partition: "0", Class: conveyorv1.FailureClass_FAILURE_CLASS_PERMANENT, Code: code, Message: "no",
	}
}

func (s *sidecar) store(letters ...*controlv1.Letter) []*controlv1.StoredLetter {
	s.t.Helper()
	resp, err := s.coord.StoreDeadLetters(s.t.Context(), &controlv1.StoreDeadLettersRequest{Session: s.session, Letters: letters})
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.GetResults()
}

func (n *node) list(filter *controlv1.LetterFilter) []*controlv1.Letter {
	n.t.Helper()
	stream, err := n.letters.ListLetters(n.t.Context(), &controlv1.ListLettersRequest{Filter: filter})
	if err != nil {
		n.t.Fatal(err)
	}
	return all(n.t, stream, (*controlv1.ListLettersResponse).GetLetter)
}

func all[M, V any](t *testing.T, stream grpc.ServerStreamingClient[M], value func(*M) V) []V {
	t.Helper()
	var out []V
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, value(m))
	}
}

var everything = &controlv1.LetterFilter{AllNamespaces: true}

func TestDeadLetters_AreStoredOnceListedAndDiscarded(t *testing.T) {
	dir := t.TempDir()
	n := start(t, testConfig(dir))
	a := n.register("a")
	first := a.store(letter("r1", "keep", "X"), letter("r2", "out", "Y"), letter("r3", "keep", "Y"))
	again := a.store(letter("r2", "out", "Y"))
	if !again[0].GetDuplicate() || again[0].GetId() != first[1].GetId() {
		t.Errorf("stored twice: %v, %v", first, again)
	}
	n.stop()
	n = start(t, testConfig(dir)) // what was answered is on disk
	for name, c := range map[string]struct {
		filter *controlv1.LetterFilter
		want   string
	}{
		"all":         {everything, "r1 r2 r3 "},
		"stage":       {&controlv1.LetterFilter{Namespace: "default", Pipeline: "p", Stage: "keep"}, "r1 r3 "},
		"code":        {&controlv1.LetterFilter{Namespace: "default", Code: "Y"}, "r2 r3 "},
		"ids":         {&controlv1.LetterFilter{Namespace: "default", Ids: []uint64{first[2].GetId(), first[0].GetId()}}, "r1 r3 "},
		"other space": {&controlv1.LetterFilter{Namespace: "elsewhere"}, ""},
	} {
		got := ""
		for _, l := range n.list(c.filter) {
			got += l.GetRecord().GetId() + " "
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	got, err := n.letters.GetLetter(t.Context(), &controlv1.GetLetterRequest{Id: first[0].GetId()})
	if err != nil || string(got.GetLetter().GetRecord().GetPayload()) != "payload of r1" || got.GetLetter().GetSource() != "default/in" {
		t.Errorf("letter: %v, %v", got, err)
	}
	discarded, err := n.letters.DiscardLetters(t.Context(), &controlv1.DiscardLettersRequest{Filter: &controlv1.LetterFilter{Namespace: "default", Stage: "keep"}})
	if err != nil || discarded.GetDiscarded() != 2 || len(n.list(everything)) != 1 {
		t.Errorf("discarded %v, %v; left %v", discarded, err, n.list(everything))
	}
	_, err = n.letters.GetLetter(t.Context(), &controlv1.GetLetterRequest{Id: first[0].GetId()})
	mustRefuse(t, err, "NOT_FOUND")
	_, err = n.letters.DiscardLetters(t.Context(), &controlv1.DiscardLettersRequest{Filter: &controlv1.LetterFilter{}})
	mustRefuse(t, err, "INVALID_REQUEST")
	_, err = n.coord.StoreDeadLetters(t.Context(), &controlv1.StoreDeadLettersRequest{Session: &controlv1.Session{SidecarId: "b", Epoch: 1}, Letters: []*controlv1.Letter{letter("x", "s", "C")}})
	mustRefuse(t, err, "SESSION_ENDED")
	c, err := n.admin.GetCluster(t.Context(), &controlv1.GetClusterRequest{})
	if err != nil || c.GetDeadLetters() != 1 || c.GetDeadLetterProblem() != "" || c.GetClusterId() == "" || len(c.GetServers()) != 1 {
		t.Errorf("cluster: %v, %v", c, err)
	}
}

// replays opens the sidecar's stream of replays.
func (s *sidecar) replays(ctx context.Context) grpc.BidiStreamingClient[controlv1.ReplaysRequest, controlv1.ReplaysResponse] {
	s.t.Helper()
	stream, err := s.coord.Replays(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := stream.Send(&controlv1.ReplaysRequest{Session: s.session}); err != nil {
		s.t.Fatal(err)
	}
	return stream
}

func (n *node) replay(filter *controlv1.LetterFilter) grpc.ServerStreamingClient[controlv1.ReplayLettersResponse] {
	n.t.Helper()
	stream, err := n.letters.ReplayLetters(n.t.Context(), &controlv1.ReplayLettersRequest{Filter: filter})
	if err != nil {
		n.t.Fatal(err)
	}
	return stream
}

func TestReplay_ALetterGoesOnlyWhenItsRecordSettled(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple...)
	a := n.register("a", both...)
	a.awaitStages("in keep out")
	stored := a.store(letter("good", "keep", "X"), letter("bad", "keep", "X"), letter("homeless", "gone", "X"), letter("problem", "out", "X"), letter("broken", "out", "X"))

	// A stream that breaks leaves its letters to the next one.
	ctx, cancel := context.WithCancel(t.Context())
	broken := a.replays(ctx)
	progress := n.replay(everything)
	if _, err := broken.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	stream := a.replays(t.Context())
	for range 4 {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		o := &controlv1.ReplayOutcome{LetterId: m.GetLetter().GetId(), Outcome: linkv1.Outcome_OUTCOME_ACKNOWLEDGED}
		switch m.GetLetter().GetRecord().GetId() {
		case "bad":
			again := letter("bad", "keep", "X")
			again.Replays = 1
			o = &controlv1.ReplayOutcome{LetterId: o.GetLetterId(), Outcome: linkv1.Outcome_OUTCOME_DEAD, FailedAgain: a.store(again)[0].GetId()}
		case "problem":
			o = &controlv1.ReplayOutcome{LetterId: o.GetLetterId(), Problem: "not now"}
		}
		if err := stream.Send(&controlv1.ReplaysRequest{Outcome: o}); err != nil {
			t.Fatal(err)
		}
	}
	problems := map[uint64]string{}
	var last *controlv1.ReplayLettersResponse
	for _, m := range all(t, progress, func(m *controlv1.ReplayLettersResponse) *controlv1.ReplayLettersResponse { return m }) {
		last = m
		for _, p := range m.GetProblems() {
			problems[p.GetLetterId()] = p.GetMessage()
		}
	}
	if !last.GetDone() || last.GetSelected() != 5 || last.GetSettled() != 2 || last.GetFailedAgain() != 1 {
		t.Errorf("progress %v", last)
	}
	if len(problems) != 2 || problems[stored[2].GetId()] != "stage gone of pipeline default/p is not running" || problems[stored[3].GetId()] != "not now" {
		t.Errorf("problems %v", problems)
	}
	left := ""
	for _, l := range n.list(everything) {
		left += l.GetRecord().GetId() + " "
	}
	if left != "homeless problem bad " {
		t.Errorf("left: %q", left)
	}
}
