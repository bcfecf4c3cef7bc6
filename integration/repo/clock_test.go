package repo_test

import (
	"go/ast"
	"strings"
	"testing"
)

// wallClock are the files in which a time of the wall clock leaves the process or enters it, and what for. A time within a process has a monotonic part, which a clock that is
// set does not move; what is written down or sent has not.
var wallClock = map[string]string{
	"router/internal/control/controller.go": "commands carry the leader's time for people, and a cluster the time at which it was founded",
	"router/internal/api/admin.go":          "shows those times",
	"sidecar/metrics.go":                    "shows when a router last answered, and when the certificate ends",
	"router/ops.go":                         "shows when the certificate ends",
	"sidecar/internal/engine/emit.go":       "the time of an event, which is the user's",
	"raftstore/wire.go":                     "the library's measure of how long entries wait",
	"dlq/envelope.go":                       "when a letter was stored, for people",
	"cli/internal/output/table.go":          "shows ages",
	"cli/internal/view/letter.go":           "the time of an event, which is the user's",
	"sdk/record.go":                         "the time of an event, which is the user's",
	"sdk/sdktest/suite.go":                  "makes a name",
}

// Nothing is decided by the wall clock but whether a certificate is valid, and which of two clusters was founded later: it may jump.
func TestClock_ItsTimesAreKeptOrSentOnlyWherePeopleSeeThem(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || strings.HasPrefix(s.path, "integration/") || strings.HasPrefix(s.path, "tools/") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			switch sel.Sel.Name {
			case "Unix", "UnixNano", "UnixMilli", "UnixMicro":
				used[s.path] = true
				if wallClock[s.path] == "" {
					t.Errorf("%s uses %s: compare times of one process, or say in this test for whom it is", s.path, sel.Sel.Name)
				}
			}
			return true
		})
	}
	for path := range wallClock {
		if !used[path] {
			t.Errorf("%s is listed and has no such time", path)
		}
	}
}
