package repo_test

import (
	"go/ast"
	"regexp"
	"testing"
)

// docs/failures.md is believed because of the tests that it names.
func TestFailures_EveryTestThatTheDocumentNamesExists(t *testing.T) {
	exists := map[string]bool{}
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test {
				exists[s.dir()+"."+f.Name.Name] = true
			}
		}
	}
	named := regexp.MustCompile("`([a-z/]+\\.Test[A-Za-z0-9_]+)`").FindAllStringSubmatch(read(t, "docs", "failures.md"), -1)
	if len(named) == 0 {
		t.Fatal("docs/failures.md names no test")
	}
	for _, n := range named {
		if !exists[n[1]] {
			t.Errorf("docs/failures.md names %s, which is no test of that package", n[1])
		}
	}
}
