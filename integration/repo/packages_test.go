package repo_test

import (
	"go/ast"
	"go/doc"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestPackages_SayInOneSentenceWhatTheyAre(t *testing.T) {
	packages := map[string][]source{}
	for _, s := range sources(t) {
		if !s.test {
			packages[s.dir()] = append(packages[s.dir()], s)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		files := packages[dir]
		if !slices.ContainsFunc(files, func(s source) bool { return !s.generated }) {
			continue
		}
		var documented []string
		for _, s := range files {
			if s.file.Doc == nil || s.generated {
				continue
			}
			documented = append(documented, s.path)
			text := s.file.Doc.Text()
			want := "Package " + s.file.Name.Name + " "
			if s.file.Name.Name == "main" {
				want = "Command "
			}
			if !strings.HasPrefix(text, want) {
				t.Errorf("%s: the package comment begins with %q, want %q", s.path, firstWords(text), want)
			}
			if sentence := new(doc.Package).Synopsis(text); !strings.HasSuffix(sentence, ".") {
				t.Errorf("%s: the package comment does not begin with a whole sentence: %q", s.path, sentence)
			}
		}
		if len(documented) != 1 {
			t.Errorf("%s: %d package comments %v, want one", dir, len(documented), documented)
		}
	}
}

func firstWords(text string) string {
	words := strings.Fields(text)
	return strings.Join(words[:min(4, len(words))], " ")
}

func TestFiles_HaveOneIdeaAndSoAnEnd(t *testing.T) {
	const limit, testLimit = 600, 1000
	for _, s := range sources(t) {
		switch {
		case s.generated:
		case s.test && s.lines > testLimit, !s.test && s.lines > limit:
			t.Errorf("%s has %d lines: where does its second idea begin?", s.path, s.lines)
		case !s.test && s.lines > 500:
			t.Logf("%s has %d lines, which is near the limit of %d", s.path, s.lines, limit)
		}
	}
}

// TestTests_DoNotSleepToWait finds time.Sleep outside of synctest bubbles, where it would make a test slow or flaky.
func TestTests_DoNotSleepToWait(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test || slices.Contains(s.imports(), "testing/synctest") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			selector, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || selector.Sel.Name != "Sleep" {
				return true
			}
			if pkg, ok := selector.X.(*ast.Ident); ok && pkg.Name == "time" {
				line := s.positions.Position(call.Pos()).Line
				t.Errorf("%s: time.Sleep: wait for what is to happen, or use testing/synctest", s.path+":"+strconv.Itoa(line))
			}
			return true
		})
	}
}

func TestMains_HoldNoLogic(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.file.Name.Name != "main" {
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil || f.Name.Name != "main" {
				continue
			}
			lines := s.positions.Position(f.End()).Line - s.positions.Position(f.Pos()).Line + 1
			if lines > 15 {
				t.Errorf("%s: main has %d lines, want at most 15: it wires, and Run is tested", s.path, lines)
			}
		}
	}
}
