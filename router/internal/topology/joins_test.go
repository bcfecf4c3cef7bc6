package topology_test

import (
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
	"github.com/conveyor-etl/conveyor/router/internal/topology"
)

func TestJoins_WhereTheArmsOfAFanOutMeet(t *testing.T) {
	for name, c := range map[string]struct{ edges, joins string }{
		"a chain":                            {"in>a a>out", ""},
		"a fan-out that does not meet":       {"in>a in>b a>x b>y", ""},
		"two sources that meet":              {"in>a other>b a>out b>out", ""},
		"a diamond":                          {"in>a in>b a>out b>out", "a>out b>out"},
		"an arm without a stage of its own":  {"in>a in>out a>out", "in>out a>out"},
		"arms that meet later":               {"in>a in>b a>c c>out b>out", "c>out b>out"},
		"behind the join nothing meets":      {"in>a in>b a>c b>c c>out", "a>c b>c"},
		"a source beside the arms is no arm": {"in>a in>b a>out b>out other>out", "a>out b>out"},
	} {
		t.Run(name, func(t *testing.T) {
			plan := &statepb.Plan{}
			for _, edge := range strings.Fields(c.edges) {
				from, to, _ := strings.Cut(edge, ">")
				plan.Edges = append(plan.Edges, &statepb.Edge{From: from, To: to})
			}
			for _, e := range plan.Edges {
				edge := e.GetFrom() + ">" + e.GetTo()
				want := strings.Contains(" "+c.joins+" ", " "+edge+" ")
				if got := topology.Joins(plan, e); got != want {
					t.Errorf("%s of %q joins: %v, want %v", edge, c.edges, got, want)
				}
			}
		})
	}
}
