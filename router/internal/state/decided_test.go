package state_test

import (
	"bytes"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// drawChange is a change over two names, so that it often does not fit the state: it is refused then, and would be made at another time.
func drawChange(t *rapid.T) *statepb.Command {
	name := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		return &statepb.Command{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: []*statepb.PutResource{
			{Kind: "Source", Namespace: "default", Name: name, Uid: "u"},
		}}}}
	case 1:
		return &statepb.Command{Kind: &statepb.Command_DeleteResource{DeleteResource: &statepb.DeleteResource{Kind: "Source", Namespace: "default", Name: name}}}
	}
	return &statepb.Command{Kind: &statepb.Command_AnswerClient{AnswerClient: &statepb.AnswerClient{Refused: rapid.Bool().Draw(t, "refused")}}}
}

// Several clients send, repeat and confirm changes, old copies come late, sessions end, and routers restart from snapshots: a change is decided once, also when it is
// refused, and every copy of it is told the same; equal logs make equal states.
func TestClients_ADecisionStands(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := state.New(), state.New()
		index := uint64(0)
		apply := func(c *statepb.Command) any {
			index++
			cmd, err := proto.Marshal(c)
			if err != nil {
				rt.Fatal(err)
			}
			ra, rb := a.Apply(index, cmd), b.Apply(index, cmd)
			if fmt.Sprintf("%+v", show(ra)) != fmt.Sprintf("%+v", show(rb)) {
				rt.Fatalf("at %d one machine says %+v, the other %+v", index, show(ra), show(rb))
			}
			return ra
		}
		type change struct {
			cmd     *statepb.Command
			decided uint64 // index
			outcome string
		}
		type session struct {
			id, lowest uint64
			ended      bool
			changes    []*change
		}
		var sessions []*session
		for range 2 {
			apply(&statepb.Command{Kind: &statepb.Command_OpenClientSession{OpenClientSession: &statepb.OpenClientSession{Identity: "x"}}})
			sessions = append(sessions, &session{id: index, lowest: 1})
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			s := rapid.SampledFrom(sessions).Draw(rt, "session")
			switch rapid.IntRange(0, 19).Draw(rt, "what") {
			case 0:
				apply(&statepb.Command{Kind: &statepb.Command_EndClientSession{EndClientSession: &statepb.EndClientSession{Session: s.id}}})
				s.ended = true
				continue
			case 1:
				restored := state.New()
				if err := restored.Restore(bytes.NewReader(snapshot(rt, b))); err != nil {
					rt.Fatal(err)
				}
				b = restored
				continue
			}
			n := rapid.IntRange(0, len(s.changes)).Draw(rt, "change")
			if n == len(s.changes) {
				s.changes = append(s.changes, &change{cmd: drawChange(rt)})
			}
			c := s.changes[n]
			lowest := rapid.Uint64Range(1, uint64(n)+1).Draw(rt, "lowest")
			c.cmd.Client = &statepb.Client{Session: s.id, Sequence: uint64(n) + 1, LowestUnanswered: lowest, Reply: fmt.Append(nil, n)}
			before := len(a.View().Resources)
			r := apply(c.cmd)
			changed := len(a.View().Resources) != before
			if !s.ended {
				s.lowest = max(s.lowest, lowest)
			}
			rejection, _ := r.(*state.RejectedError)
			switch {
			case s.ended:
				if rejection == nil || rejection.Reason != state.ClientSessionEnded || changed {
					rt.Fatalf("a change of an ended session: %+v", show(r))
				}
			case uint64(n)+1 < s.lowest:
				if rejection == nil || rejection.Reason != state.Answered || changed {
					rt.Fatalf("a change whose answer was confirmed: %+v", show(r))
				}
			case rejection != nil && rejection.Reason == state.TooMany:
				if changed || c.decided != 0 {
					rt.Fatalf("refused for want of room, change %+v", c)
				}
			case c.decided != 0:
				d, ok := r.(*state.Decided)
				if !ok || changed || d.Index != c.decided || outcome(d.Rejection) != c.outcome {
					rt.Fatalf("a copy of what was decided at %d as %q: %+v", c.decided, c.outcome, show(r))
				}
				if d.Refused != c.cmd.GetAnswerClient().GetRefused() || d.Rejection == nil && string(d.Reply) != fmt.Sprint(n) {
					rt.Fatalf("a copy of change %d was answered %+v", n, d)
				}
			case rejection != nil && c.cmd.GetPutResources() != nil && rejection.Reason == state.Conflict:
				// To be compared again.
			default:
				if _, again := r.(*state.Decided); again {
					rt.Fatalf("a change that was never decided is answered %+v", show(r))
				}
				c.decided, c.outcome = index, outcome(rejection)
			}
		}
		if !bytes.Equal(snapshot(rt, a), snapshot(rt, b)) {
			rt.Fatal("states differ")
		}
	})
}

func outcome(r *state.RejectedError) string {
	if r == nil {
		return ""
	}
	return string(r.Reason) + ": " + r.Message
}

// show makes results comparable as text.
func show(r any) any {
	if d, ok := r.(*state.Decided); ok {
		return fmt.Sprintf("%d %q %t %s", d.Index, d.Reply, d.Refused, outcome(d.Rejection))
	}
	return r
}
