package dsl

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/conveyor-etl/conveyor/dsl/graph"
)

type place struct{}

func joinErrors(errs []error) error { return errors.Join(errs...) }

func unready() []Diagnostic {
	return []Diagnostic{{Code: "CV0001", Severity: Error, Message: "reading manifests is not built in yet"}}
}

// Load reads manifests from files, directories and, for "-", standard input.
func (l Loader) Load(paths []string) (*Set, []Diagnostic) { return &Set{}, unready() }

// Parse reads the resources of one text. name is shown in diagnostics; a name that ends in .json is read as JSON.
func Parse(name string, data []byte) ([]*Resource, []Diagnostic) { return nil, unready() }

// FromJSON reads one resource from JSON, as strictly as Parse.
func FromJSON(data []byte) (*Resource, []Diagnostic) { return nil, unready() }

// CanonicalJSON is the resource as deterministic JSON: equal manifests make equal bytes.
func (r *Resource) CanonicalJSON() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(r)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// Validate reports what is wrong between the resources of a set.
func Validate(set *Set, opts Options) []Diagnostic { return unready() }

// Compile turns a Pipeline of either shape into its graph.
func Compile(lookup func(kind, namespace, name string) (*Resource, bool), pipeline *Resource) (*graph.Graph, []Diagnostic) {
	return nil, unready()
}

// Render writes diagnostics for people, each with its source line underlined.
func Render(w io.Writer, diags []Diagnostic, source func(file string) []byte, color bool) error {
	for _, d := range diags {
		if _, err := io.WriteString(w, d.Error()+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// CodeInfo explains one diagnostic code.
type CodeInfo struct {
	Code        string `json:"code"`
	Title       string `json:"title"`
	Explanation string `json:"explanation"`
}

// Codes lists every diagnostic code, in order.
func Codes() []CodeInfo { return nil }
