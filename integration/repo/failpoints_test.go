package repo_test

import (
	"go/ast"
	"strings"
	"testing"
)

// Failpoints are compiled into binaries of integration/chaos from outside: what users run has nothing in it that could end it.
func TestFailpoints_AreInNothingThatUsersRun(t *testing.T) {
	for _, s := range sources(t) {
		if strings.HasPrefix(s.path, "integration/") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && strings.HasPrefix(strings.ToLower(id.Name), "failpoint") {
				t.Errorf("%s has a failpoint", s.positions.Position(id.Pos()))
			}
			return true
		})
	}
}
