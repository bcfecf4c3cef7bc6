package dsl

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Set is the resources of a Load, in the order of files and documents. The zero Set is empty. It may be read by several goroutines.
type Set struct {
	// Resources are the resources without errors of their own.
	Resources []*Resource

	// faulty are those with errors: they are no good, but a reference to them is not missing.
	faulty []*Resource
	texts  map[string][]byte
}

// Lookup returns the first resource of this kind, namespace and name.
func (s *Set) Lookup(kind, namespace, name string) (*Resource, bool) {
	return find(s.Resources, kind, namespace, name)
}

func find(rs []*Resource, kind, namespace, name string) (*Resource, bool) {
	for _, r := range rs {
		if r.Kind == kind && r.Metadata.Namespace == namespace && r.Metadata.Name == name {
			return r, true
		}
	}
	return nil, false
}

// Pipelines returns the Pipeline resources, in order.
func (s *Set) Pipelines() []*Resource {
	var out []*Resource
	for _, r := range s.Resources {
		if r.Kind == KindPipeline {
			out = append(out, r)
		}
	}
	return out
}

// Source returns the text of a loaded file, or nil. It fits Render.
func (s *Set) Source(file string) []byte { return s.texts[file] }

// Loader reads manifests from files.
type Loader struct {
	// Stdin is read for the path "-". Nil refuses that path.
	Stdin io.Reader
}

// Load reads manifests from files and directories. It is Loader{}.Load, which does not read standard input.
func Load(paths []string) (*Set, []Diagnostic) { return Loader{}.Load(paths) }

// Load reads manifests from files, from directories (all *.yaml, *.yml and *.json below them, in the order of their paths) and, for "-", from Stdin.
// It returns what it could read together with every fault; a file that two paths name is read once. It does no Validate.
func (l Loader) Load(paths []string) (*Set, []Diagnostic) {
	set := &Set{texts: map[string][]byte{}}
	var diags []Diagnostic
	for _, path := range paths {
		diags = append(diags, l.path(set, path)...)
	}
	if len(set.Resources) == 0 && len(set.faulty) == 0 && len(diags) == 0 {
		names := make([]string, len(paths))
		for i, p := range paths {
			if names[i] = p; p == "-" {
				names[i] = "standard input"
			}
		}
		d := Diagnostic{Code: CodeNoManifests, Severity: Error, Message: "no manifests in " + strings.Join(names, ", ")}
		if slices.ContainsFunc(paths, isDir) {
			d.Suggestion = "directories are searched for *.yaml, *.yml and *.json"
		}
		diags = append(diags, d)
	}
	return set, diags
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (l Loader) path(set *Set, path string) []Diagnostic {
	if path == "-" {
		if _, again := set.texts[path]; again {
			return nil
		}
		if l.Stdin == nil {
			return []Diagnostic{unreadable(path, errors.New("standard input is not available here"))}
		}
		return set.read(path, l.Stdin)
	}
	info, err := os.Stat(path)
	if err != nil {
		return []Diagnostic{unreadable(path, err)}
	}
	if !info.IsDir() {
		return set.file(path)
	}
	var diags []Diagnostic
	err = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			diags = append(diags, unreadable(p, err))
		case e.IsDir() && p != path && strings.HasPrefix(e.Name(), "."):
			return fs.SkipDir
		case !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(p))):
			diags = append(diags, set.file(p)...)
		}
		return nil
	})
	if err != nil {
		diags = append(diags, unreadable(path, err))
	}
	return diags
}

func (s *Set) file(path string) []Diagnostic {
	path = filepath.Clean(path)
	if _, again := s.texts[path]; again {
		return nil
	}
	// A pipe or a device could block for ever.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return []Diagnostic{unreadable(path, errors.New("it is not a regular file"))}
	}
	f, err := os.Open(path)
	if err != nil {
		return []Diagnostic{unreadable(path, err)}
	}
	defer func() { _ = f.Close() }() // it was only read
	return s.read(path, f)
}

func (s *Set) read(name string, r io.Reader) []Diagnostic {
	data, err := io.ReadAll(io.LimitReader(r, MaxFileBytes+1))
	if err != nil {
		return []Diagnostic{unreadable(name, err)}
	}
	s.texts[name] = data
	rs, diags := parseAll(name, data)
	for _, r := range rs {
		if r.faulty {
			s.faulty = append(s.faulty, r)
		} else {
			s.Resources = append(s.Resources, r)
		}
	}
	return diags
}

func unreadable(path string, err error) Diagnostic {
	if e := new(fs.PathError); errors.As(err, &e) {
		err = e.Err
	}
	return Diagnostic{Code: CodeUnreadable, Severity: Error, File: path, Message: fmt.Sprintf("read %s: %v", path, err)}
}
