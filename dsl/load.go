package dsl

import "io"

// Set is the resources of a Load, in the order of files and documents.
type Set struct {
	Resources []*Resource

	sources map[string][]byte
}

// Lookup returns the first resource of this kind, namespace and name.
func (s *Set) Lookup(kind, namespace, name string) (*Resource, bool) {
	for _, r := range s.Resources {
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
func (s *Set) Source(file string) []byte { return s.sources[file] }

// Loader reads manifests from files.
type Loader struct {
	// Stdin is read for the path "-". Nil refuses that path.
	Stdin io.Reader
}

// Load reads manifests from files and directories with a zero Loader.
func Load(paths []string) (*Set, []Diagnostic) { return Loader{}.Load(paths) }
