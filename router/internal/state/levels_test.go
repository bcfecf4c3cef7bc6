package state_test

import (
	"testing"

	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/state"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

func TestLevel_EveryCommandThatIsAppliedHasALevelThatThisVersionHas(t *testing.T) {
	kinds := (&statepb.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range kinds.Len() {
		kind := kinds.Get(i)
		c := &statepb.Command{}
		c.ProtoReflect().Set(kind, c.ProtoReflect().NewField(kind))
		if got := state.Level(c); got < 1 || got > state.FeatureLevel {
			t.Errorf("%s has level %d, and this version level %d", kind.Name(), got, state.FeatureLevel)
		}
		if halt, ok := state.New().Apply(1, encode(t, c)).(raftstore.Halt); ok {
			t.Errorf("%s stops this router: %s", kind.Name(), halt.Reason)
		}
	}
	if got := state.Level(&statepb.Command{}); got <= state.FeatureLevel {
		t.Errorf("a command without a kind has level %d", got)
	}
}

func TestCommonLevel_IsTheLowestOfTheMembers(t *testing.T) {
	v := &state.View{Routers: map[string]*statepb.Router{
		"same":  {FeatureLevel: state.FeatureLevel},
		"newer": {FeatureLevel: state.FeatureLevel + 1},
		"older": {FeatureLevel: state.FeatureLevel - 1},
		"left":  {FeatureLevel: 0},
	}}
	const lowest = 1
	for _, c := range []struct {
		name    string
		members []string
		want    uint32
	}{
		{"alone", []string{"self"}, state.FeatureLevel},
		{"with newer ones", []string{"self", "same", "newer"}, state.FeatureLevel},
		{"with an older one", []string{"self", "same", "older"}, max(state.FeatureLevel-1, lowest)},
		{"with one that has said nothing yet", []string{"self", "unheard"}, lowest},
	} {
		if got := v.CommonLevel(c.members, "self"); got != c.want {
			t.Errorf("%s: level %d, want %d", c.name, got, c.want)
		}
	}
}
