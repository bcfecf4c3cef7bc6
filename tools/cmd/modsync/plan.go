package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

const (
	modulePrefix = "github.com/conveyor-etl/conveyor/"
	goVersion    = "1.26.0"
)

// licences are kept in every module too: cmd/go packs a module's own folder, and would otherwise add the root's file
// to the archive at publication, whose hash then differs from the one computed here.
var licences = []string{"LICENSE", "LICENSE-APACHE", "LICENSE-MIT"}

type file struct {
	path    string // below the root
	content []byte
}

// plan returns every file that follows from the table as it should be.
func plan(root string) ([]file, error) {
	modules, err := loadTable(root)
	if err != nil {
		return nil, err
	}
	files := []file{{path: "go.work", content: goWork(modules)}}
	for _, m := range modules {
		path := filepath.Join(m.name, "go.mod")
		old, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return nil, err
		}
		versions := map[string]string{}
		for _, s := range modules {
			versions[s.name] = s.version
		}
		content, err := goMod(path, old, m, versions)
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: path, content: content})
	}
	for _, l := range licences {
		content, err := os.ReadFile(filepath.Join(root, l))
		if err != nil {
			return nil, err
		}
		for _, m := range modules {
			files = append(files, file{path: filepath.Join(m.name, l), content: content})
		}
		files = append(files, file{path: filepath.Join("tools", l), content: content})
	}
	return files, nil
}

func goWork(modules []module) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "go %s\n\nuse (\n", goVersion)
	names := make([]string, 0, len(modules))
	for _, m := range modules {
		names = append(names, m.name)
	}
	slices.Sort(names)
	for _, n := range names {
		fmt.Fprintf(&b, "\t./%s\n", n)
	}
	b.WriteString(")\n")
	return []byte(b.String())
}

// goMod returns the go.mod of m with the right go line, the sibling versions of versions.yaml on the require lines
// that are there, and one replace for every sibling that m may reach. Which siblings are required is left to
// `go mod tidy`: it alone knows what the code imports.
func goMod(path string, old []byte, m module, versions map[string]string) ([]byte, error) {
	f, err := modfile.Parse(path, old, nil)
	if err != nil {
		return nil, err
	}
	if f.Module == nil || f.Module.Mod.Path != modulePrefix+m.name {
		return nil, fmt.Errorf("%s: the module is not called %s", path, modulePrefix+m.name)
	}
	if err := f.AddGoStmt(goVersion); err != nil {
		return nil, err
	}
	f.DropToolchainStmt()
	for _, r := range f.Require {
		name, ok := strings.CutPrefix(r.Mod.Path, modulePrefix)
		if !ok {
			continue
		}
		if !slices.Contains(m.siblings, name) {
			return nil, fmt.Errorf("%s: requires %s, which the table in tools/modules.txt does not allow", path, name)
		}
		if r.Mod.Version != versions[name] {
			if err := f.AddRequire(r.Mod.Path, versions[name]); err != nil {
				return nil, err
			}
		}
	}
	if !slices.Equal(replaced(f), m.siblings) {
		return withReplaces(path, f, m)
	}
	f.Cleanup()
	return f.Format()
}

// replaced returns the names of the siblings that f replaces by their folder, sorted;
// any other replace line, which no importer would see, is in the result by its full text and so never accepted.
func replaced(f *modfile.File) []string {
	names := []string{}
	for _, r := range f.Replace {
		name, ok := strings.CutPrefix(r.Old.Path, modulePrefix)
		if !ok || r.Old.Version != "" || r.New.Path != "../"+name || r.New.Version != "" {
			name = r.Old.String() + " => " + r.New.String()
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// withReplaces returns f with one replace line for each sibling of m and no others.
func withReplaces(path string, f *modfile.File, m module) ([]byte, error) {
	for _, r := range slices.Clone(f.Replace) {
		if err := f.DropReplace(r.Old.Path, r.Old.Version); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	f.Cleanup()
	content, err := f.Format()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString(strings.TrimRight(string(content), "\n"))
	b.WriteString("\n\nreplace (\n")
	for _, s := range m.siblings {
		fmt.Fprintf(&b, "\t%s%s => ../%s\n", modulePrefix, s, s)
	}
	b.WriteString(")\n")
	// Parsing again proves that what is written is a module file; Cleanup gives a block of one line its usual form.
	again, err := modfile.Parse(path, []byte(b.String()), nil)
	if err != nil {
		return nil, err
	}
	again.Cleanup()
	return again.Format()
}
