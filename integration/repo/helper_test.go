package repo_test

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const prefix = "github.com/conveyor-etl/conveyor/"

// root returns the root of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(append([]string{root(t)}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// module is one line of tools/modules.txt.
type module struct {
	name    string
	allowed []string // the siblings it may import
	why     string   // no others
}

// table returns the modules of tools/modules.txt that exist.
func table(t *testing.T) []module {
	t.Helper()
	var out []module
	var above []string
	for line := range strings.Lines(read(t, "tools", "modules.txt")) {
		columns := strings.Split(strings.TrimSpace(line), "|")
		if len(columns) != 3 {
			continue
		}
		m := module{name: strings.TrimSpace(columns[0]), why: strings.TrimSpace(columns[2])}
		for _, word := range strings.Fields(columns[1]) {
			if word == "*" {
				m.allowed = slices.Clone(above)
			} else if not, ok := strings.CutPrefix(word, "-"); ok {
				m.allowed = slices.DeleteFunc(m.allowed, func(s string) bool { return s == not })
			} else {
				m.allowed = append(m.allowed, word)
			}
		}
		above = append(above, m.name)
		if _, err := os.Stat(filepath.Join(root(t), m.name, "go.mod")); err == nil {
			out = append(out, m)
		}
	}
	if len(out) < 10 {
		t.Fatalf("tools/modules.txt names only %d modules that exist", len(out))
	}
	return out
}

// source is one Go file.
type source struct {
	path      string // below the root, with slashes
	module    string
	test      bool
	generated bool
	lines     int
	file      *ast.File
	positions *token.FileSet
}

// dir returns the folder of the file, which is also its package's import path behind the prefix.
func (s source) dir() string { return path.Dir(s.path) }

func (s source) imports() []string {
	var out []string
	for _, i := range s.file.Imports {
		out = append(out, strings.Trim(i.Path.Value, `"`))
	}
	return out
}

var parsed struct {
	once  sync.Once
	files []source
	err   error
}

// sources returns every Go file of every module, under every build tag. They are parsed once and not to be changed.
func sources(t *testing.T) []source {
	t.Helper()
	modules := table(t)
	parsed.once.Do(func() {
		for _, m := range modules {
			if err := parseModule(root(t), m.name); err != nil {
				parsed.err = err
				return
			}
		}
	})
	if parsed.err != nil {
		t.Fatal(parsed.err)
	}
	return parsed.files
}

// parseModule adds the files of one module to parsed.
func parseModule(root, name string) error {
	return filepath.WalkDir(filepath.Join(root, name), func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "testdata" || strings.HasPrefix(d.Name(), "_") || strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, p, content, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		parsed.files = append(parsed.files, source{
			path: filepath.ToSlash(rel), module: name, test: strings.HasSuffix(p, "_test.go"),
			generated: ast.IsGenerated(file), lines: bytes.Count(content, []byte{'\n'}), file: file, positions: positions,
		})
		return nil
	})
}

// tracked returns the files that git tracks, below the root.
func tracked(t *testing.T) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "-c", "safe.directory=*", "ls-files", "-z")
	cmd.Dir = root(t)
	list, err := cmd.Output()
	if err != nil {
		t.Skipf("this is no git checkout: %v", err)
	}
	var out []string
	files := bufio.NewScanner(bytes.NewReader(list))
	files.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, 0); i >= 0 {
			return i + 1, data[:i], nil
		}
		if atEOF && len(data) > 0 {
			return len(data), data, nil
		}
		return 0, nil, nil
	})
	for files.Scan() {
		out = append(out, files.Text())
	}
	if len(out) < 20 {
		t.Fatalf("git tracks only %d files", len(out))
	}
	return out
}
