package sidecar_test

import (
	"strings"
	"testing"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/sidecar"
	"github.com/conveyor-etl/conveyor/sidecar/internal/statefile"
)

func TestWhatWasAssignedElsewhereIsNotUsedWithoutARouter(t *testing.T) {
	here := statefile.Place{Address: "a:1", Routers: []string{"r1:1", "r2:1"}}
	for name, c := range map[string]struct {
		id     string
		place  statefile.Place
		signed bool
		want   string // in the reason; empty when it is used
	}{
		"the same place":      {"s", here, false, ""},
		"one router is known": {"s", statefile.Place{Address: "a:1", Routers: []string{"r0:1", "r2:1"}}, false, ""},
		"another address":     {"s", statefile.Place{Address: "a:2", Routers: here.Routers}, false, "another address"},
		"another cluster":     {"s", statefile.Place{Address: "a:1", Routers: []string{"x:1"}}, false, "another cluster"},
		"a place unknown":     {"s", statefile.Place{}, false, "another address"},
		"no signatures":       {"s", here, true, "does not sign"},
		"another sidecar":     {"t", here, false, "another sidecar"},
	} {
		st := statefile.State{
			SidecarID: "s", Registration: &controlv1.RegisterResponse{Session: &controlv1.Session{SidecarId: c.id, Epoch: 5}}, Place: c.place,
		}
		if got := sidecar.Unfit(st, here, c.signed); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
