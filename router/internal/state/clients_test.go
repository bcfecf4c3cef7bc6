package state_test

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// putName is a change that must not happen twice: it makes a resource that is not there yet.
func putName(session, sequence, lowest uint64, name string) *statepb.Command {
	return &statepb.Command{
		Client: &statepb.Client{Session: session, Sequence: sequence, LowestUnanswered: lowest, Reply: []byte(name)},
		Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{Resources: []*statepb.PutResource{
			{Kind: "Source", Namespace: "default", Name: name, Uid: "u"},
		}}},
	}
}

func openClient(t testing.TB, m *state.Machine, index uint64, identity string) {
	t.Helper()
	open := &statepb.Command{Kind: &statepb.Command_OpenClientSession{OpenClientSession: &statepb.OpenClientSession{Identity: identity}}}
	if r := m.Apply(index, encode(t, open)); r != nil {
		t.Fatal(r)
	}
}

// Whatever repeats, late copies and restarts from snapshots there are: a change of a client is made at most once, and a repeat gets the answer of the first.
func TestClients_AChangeIsMadeAtMostOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := state.New()
		index := uint64(1)
		openClient(t, m, index, "x")
		session := index
		made := map[uint64]uint64{} // index by sequence
		lowest, next := uint64(1), uint64(1)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			index++
			// A client sends its next change, a repeat of one that it waits for, or the network brings an old copy.
			sequence := rapid.Uint64Range(1, next).Draw(rt, "sequence")
			if sequence == next {
				next++
			}
			if rapid.IntRange(0, 3).Draw(rt, "confirm") == 0 {
				lowest = rapid.Uint64Range(lowest, max(lowest, sequence)).Draw(rt, "lowest")
			}
			sent := rapid.Uint64Range(1, lowest).Draw(rt, "sent lowest")
			before := len(m.View().Resources)
			r := m.Apply(index, encode(t, putName(session, sequence, sent, fmt.Sprintf("r%d-%d", sequence, index))))
			grew := len(m.View().Resources) - before
			switch r := r.(type) {
			case nil:
				if made[sequence] != 0 || grew != 1 {
					rt.Fatalf("change %d was made at %d and again at %d (%d new)", sequence, made[sequence], index, grew)
				}
				made[sequence] = index
			case *state.Decided:
				if grew != 0 || r.Index != made[sequence] {
					rt.Fatalf("repeat of change %d, made at %d: %+v, %d new", sequence, made[sequence], r, grew)
				}
			case *state.RejectedError:
				if grew != 0 || (r.Reason != state.Answered && r.Reason != state.TooMany) {
					rt.Fatalf("change %d: %v, %d new", sequence, r, grew)
				}
			default:
				rt.Fatalf("change %d: %T", sequence, r)
			}
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				again := state.New()
				if err := again.Restore(bytes.NewReader(snapshot(rt, m))); err != nil {
					rt.Fatal(err)
				}
				m = again
			}
		}
	})
}

func TestClients_AChangeOfAnEndedSessionIsRefused(t *testing.T) {
	m := state.New()
	openClient(t, m, 1, "x")
	end := &statepb.Command{Kind: &statepb.Command_EndClientSession{EndClientSession: &statepb.EndClientSession{Session: 1, LastIndex: 9}}}
	m.Apply(2, encode(t, end))
	if _, ok := m.ClientSessionOf(1); !ok {
		t.Fatal("a session that was used meanwhile was ended as idle")
	}
	end.GetEndClientSession().LastIndex = 1
	m.Apply(3, encode(t, end))
	r, ok := m.Apply(4, encode(t, putName(1, 1, 1, "a"))).(*state.RejectedError)
	if !ok || r.Reason != state.ClientSessionEnded || len(m.View().Resources) != 0 {
		t.Fatalf("%v, %d resources", r, len(m.View().Resources))
	}
}

func TestClients_OneIdentityCannotTakeTheSessionsOfOthers(t *testing.T) {
	m := state.New()
	openClient(t, m, 1, "quiet")
	for i := range uint64(state.MaxSessionsPerClient + 10) {
		openClient(t, m, 2+i, "loud")
	}
	if _, ok := m.ClientSessionOf(1); !ok {
		t.Error("the session of another was ended")
	}
	if n := len(m.ClientSessions()); n != state.MaxSessionsPerClient+1 {
		t.Errorf("%d sessions", n)
	}
	if _, ok := m.ClientSessionOf(2); ok {
		t.Error("the one used least recently is still there")
	}
}

func TestClients_WhatAClientDoesNotConfirmIsBounded(t *testing.T) {
	m := state.New()
	openClient(t, m, 1, "x")
	for i := range uint64(state.MaxUnanswered) {
		if r := m.Apply(2+i, encode(t, putName(1, 1+i, 1, fmt.Sprint("r", i)))); r != nil {
			t.Fatal(r)
		}
	}
	r, ok := m.Apply(100, encode(t, putName(1, 100, 1, "more"))).(*state.RejectedError)
	if !ok || r.Reason != state.TooMany {
		t.Fatalf("%v", r)
	}
	if r := m.Apply(101, encode(t, putName(1, 100, 100, "more"))); r != nil {
		t.Fatalf("after the answers were confirmed: %v", r)
	}
}

func TestLetterMark_OnlyTheNextVersionIsTaken(t *testing.T) {
	m := state.New()
	put := func(index, version uint64, mark string) any {
		return m.Apply(index, encode(t, &statepb.Command{Kind: &statepb.Command_StoreLetterMark{StoreLetterMark: &statepb.StoreLetterMark{Version: version, Mark: []byte(mark)}}}))
	}
	for i, c := range []struct {
		version uint64
		mark    string
		ok      bool
	}{{1, "a", true}, {1, "a", true}, {1, "other", false}, {3, "c", false}, {2, "b", true}, {1, "a", false}} {
		if r := put(uint64(i+1), c.version, c.mark); (r == nil) != c.ok {
			t.Errorf("version %d %q: %v", c.version, c.mark, r)
		}
	}
	if got := string(m.LetterMark()); got != "b" {
		t.Errorf("mark %q", got)
	}
}
