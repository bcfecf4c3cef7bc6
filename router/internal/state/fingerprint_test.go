package state_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

func fingerprint(t fataler, m *state.Machine) *statepb.Fingerprint {
	t.Helper()
	f, err := m.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFingerprint_IsTheSameWhereverTheSameCommandsWereApplied(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all, restored, wrong := state.New(), state.New(), state.New()
		for _, m := range []*state.Machine{all, restored, wrong} {
			m.WantFingerprints("b")
		}
		flipped := uint64(0)
		index, compared := uint64(0), uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			before := index
			index += rapid.SampledFrom([]uint64{1, 1, 2, 400, 1000}).Draw(t, "step")
			b, err := proto.Marshal(drawCommand(t, index, all.View()))
			if err != nil {
				t.Fatal(err)
			}
			if index/1000 != before/1000 {
				compared = index
			}
			for _, m := range []*state.Machine{all, restored, wrong} {
				m.Apply(index, b)
			}
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0: // from another router, as one that was away too long
				if err := restored.Restore(bytes.NewReader(snapshot(t, all))); err != nil {
					t.Fatal(err)
				}
			case 1: // some read it late
				fingerprint(t, restored)
			case 2:
				if flipped == 0 { // a memory changed what it held
					flipped = index
					b, err := proto.Marshal(&statepb.Command{Kind: &statepb.Command_PutResources{PutResources: &statepb.PutResources{
						Resources: []*statepb.PutResource{{Kind: "Source", Namespace: "default", Name: "flipped"}},
					}}})
					if err != nil {
						t.Fatal(err)
					}
					wrong.Apply(index, b)
				}
			}
			right := fingerprint(t, all)
			if right.GetIndex() != compared {
				t.Fatalf("at index %d the last fingerprint is of %d, not of %d", index, right.GetIndex(), compared)
			}
			if f := fingerprint(t, restored); f.GetIndex() == right.GetIndex() && !proto.Equal(f, right) {
				t.Fatalf("at index %d: %v and %v", index, f, right)
			}
			f := fingerprint(t, wrong)
			if same := proto.Equal(f, right); f.GetIndex() != right.GetIndex() || f != nil && same == (flipped > 0 && flipped < f.GetIndex()) {
				t.Fatalf("at index %d, with what was flipped at %d: %v and %v", index, flipped, f, right)
			}
		}
	})
}

func TestFingerprint_IsNotKeptWhereNobodyCompares(t *testing.T) {
	m := state.New()
	for i := range uint64(3) {
		m.Apply(i*1000+1, encode(t, &statepb.Command{Kind: &statepb.Command_AnswerClient{AnswerClient: &statepb.AnswerClient{}}}))
	}
	if f := fingerprint(t, m); f != nil {
		t.Errorf("it is %v", f)
	}
}

func TestDivergences_TellWhoseStateIsWrongWhereAMajorityAgrees(t *testing.T) {
	at := func(index uint64, sum, build string) *statepb.Fingerprint {
		return &statepb.Fingerprint{Index: index, Sum: []byte(sum), Build: build}
	}
	for name, c := range map[string]struct {
		prints []*statepb.Fingerprint
		want   map[string]*state.Divergence
	}{
		"nobody said anything":    {make([]*statepb.Fingerprint, 3), nil},
		"all are the same":        {[]*statepb.Fingerprint{at(5, "x", "b"), at(5, "x", "b"), at(5, "x", "b")}, nil},
		"others are not so far":   {[]*statepb.Fingerprint{at(5, "x", "b"), at(4, "y", "b"), nil}, nil},
		"builds cannot be told":   {[]*statepb.Fingerprint{at(5, "x", "b"), at(5, "y", "c"), at(5, "y", "c")}, nil},
		"one of three is wrong":   {[]*statepb.Fingerprint{at(5, "x", "b"), at(5, "y", "b"), at(5, "x", "b")}, map[string]*state.Divergence{"0": {5, []string{"1"}, false}, "1": {5, []string{"0", "2"}, true}, "2": {5, []string{"1"}, false}}},
		"two differ, one is gone": {[]*statepb.Fingerprint{at(5, "x", "b"), at(5, "y", "b"), nil}, map[string]*state.Divergence{"0": {5, []string{"1"}, false}, "1": {5, []string{"0"}, false}}},
		"all three differ":        {[]*statepb.Fingerprint{at(5, "x", "b"), at(5, "y", "b"), at(5, "z", "b")}, map[string]*state.Divergence{"0": {5, []string{"1", "2"}, false}, "1": {5, []string{"0", "2"}, false}, "2": {5, []string{"0", "1"}, false}}},
	} {
		t.Run(name, func(t *testing.T) {
			v := &state.View{Routers: map[string]*statepb.Router{"9": {Fingerprint: at(5, "of no member", "b")}}}
			var members []string
			for i, f := range c.prints {
				id := fmt.Sprint(i)
				members = append(members, id)
				v.Routers[id] = &statepb.Router{ServerId: id, Fingerprint: f}
			}
			got := v.Divergences(members)
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
