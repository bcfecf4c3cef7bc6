package dsl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/conveyor-etl/conveyor/dsl/internal/yamlsrc"
)

// Limits on manifests.
const (
	// MaxFileBytes is the largest size of one file.
	MaxFileBytes = 1 << 20
	// maxItems is the largest length of a list, such as the stages of a pipeline.
	maxItems = 256
)

// Parse reads the resources of one text, which may hold several documents. name is shown in diagnostics; a name that ends in .json is read as JSON.
// Every fault is reported, not only the first; a resource with an error is left out. What the resources refer to is checked by Validate.
func Parse(name string, data []byte) ([]*Resource, []Diagnostic) {
	rs, diags := parseAll(name, data)
	return slices.DeleteFunc(rs, isFaulty), diags
}

func isFaulty(r *Resource) bool { return r.faulty }

// parseAll is Parse that also returns the resources with errors, as far as they could be read.
func parseAll(name string, data []byte) ([]*Resource, []Diagnostic) {
	if len(data) > MaxFileBytes {
		return nil, []Diagnostic{{
			Code: CodeTooLarge, Severity: Error, File: name,
			Message: fmt.Sprintf("the text has %d bytes, at most %d are read", len(data), MaxFileBytes), Suggestion: "split it into several files",
		}}
	}
	read := yamlsrc.ParseYAML
	if strings.EqualFold(filepath.Ext(name), ".json") {
		read = yamlsrc.ParseJSON
	}
	docs, problems := read(data)
	return resources(name, yamlsrc.NewText(data), docs, problems)
}

// FromJSON reads one resource from JSON, as strictly as Parse. Its diagnostics name fields, not lines.
func FromJSON(data []byte) (*Resource, []Diagnostic) {
	if len(data) > MaxFileBytes {
		_, diags := Parse("", data)
		return nil, diags
	}
	docs, problems := yamlsrc.ParseJSON(data)
	rs, diags := resources("", nil, docs, problems)
	if len(rs) != 1 && len(diags) == 0 {
		diags = append(diags, Diagnostic{Code: CodeNoManifests, Severity: Error, Message: fmt.Sprintf("the text holds %d manifests, want one", len(rs))})
	}
	for i := range diags {
		diags[i].Line, diags[i].Column, diags[i].EndColumn, diags[i].Fix, diags[i].Related = 0, 0, 0, nil, nil
	}
	if len(diags) > 0 {
		return nil, diags
	}
	rs[0].place = nil
	return rs[0], nil
}

// UnmarshalJSON reads a resource as FromJSON does. The error joins its diagnostics.
func (r *Resource) UnmarshalJSON(data []byte) error {
	read, diags := FromJSON(data)
	if err := Err(diags); err != nil {
		return err
	}
	*r = *read
	return nil
}

// CanonicalJSON is the resource as compact JSON: manifests that mean the same, defaults included, make the same bytes, and FromJSON reads them back.
func (r *Resource) CanonicalJSON() ([]byte, error) {
	if r == nil || r.Spec == nil {
		return nil, errors.New("encode manifest: it has no spec")
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, fmt.Errorf("encode %s: %w", r, err)
	}
	// Through the reader, so that configurations built by hand have the one spelling too.
	docs, problems := yamlsrc.ParseJSON(b.Bytes())
	if len(problems) > 0 || len(docs) != 1 {
		return nil, fmt.Errorf("encode %s: its configuration is not a JSON object", r)
	}
	return yamlsrc.AppendJSON(nil, docs[0]), nil
}

func resources(file string, text *yamlsrc.Text, docs []*yamlsrc.Node, problems []yamlsrc.Problem) ([]*Resource, []Diagnostic) {
	var out []*Resource
	var diags []Diagnostic
	for _, p := range problems {
		diags = append(diags, fromProblem(file, p))
	}
	for _, doc := range unfold(docs) {
		d := &decoder{guessed: map[string]bool{}}
		d.place = &place{file: file, text: text, values: map[string]*yamlsrc.Node{}, keys: map[string]*yamlsrc.Node{}}
		r := d.resource(doc)
		if r != nil {
			r.faulty = len(d.diags) > 0 || len(problems) > 0
			out = append(out, r)
		}
		diags = append(diags, d.diags...)
	}
	slices.SortStableFunc(diags, byPlace)
	return out, diags
}

func byPlace(a, b Diagnostic) int {
	if a.File != b.File {
		return 0
	}
	if a.Line != b.Line {
		return a.Line - b.Line
	}
	return a.Column - b.Column
}

// unfold replaces lists of manifests, as the get command prints them, by their items.
func unfold(docs []*yamlsrc.Node) []*yamlsrc.Node {
	var out []*yamlsrc.Node
	for _, doc := range docs {
		kind, items := doc.Get("kind"), doc.Get("items")
		if kind == nil || items == nil || items.Kind != yamlsrc.List || !strings.HasSuffix(kind.Text, "List") || doc.Get("spec") != nil {
			out = append(out, doc)
			continue
		}
		out = append(out, items.Items...)
	}
	return out
}

func fromProblem(file string, p yamlsrc.Problem) Diagnostic {
	code := map[yamlsrc.Fault]string{
		yamlsrc.Syntax: CodeSyntax, yamlsrc.TooDeep: CodeTooDeep, yamlsrc.TooManyDocuments: CodeTooManyDocuments, yamlsrc.Anchor: CodeAnchor,
		yamlsrc.DuplicateKey: CodeDuplicateKey, yamlsrc.Unsupported: CodeUnsupportedYAML, yamlsrc.NotUTF8: CodeNotUTF8,
	}[p.Fault]
	d := Diagnostic{
		Code: code, Severity: Error, File: file, Line: p.Line, Column: p.Column, EndColumn: p.EndColumn, Message: p.Message,
	}
	if p.Fault == yamlsrc.DuplicateKey {
		d.Suggestion = "remove one of them"
		d.Related = []Related{{File: file, Line: p.First.Line, Column: p.First.Column, Message: "the first one is here"}}
	}
	return d
}

// resource reads one manifest, with all its faults.
func (d *decoder) resource(n *yamlsrc.Node) *Resource {
	d.place.values[""] = n
	if n.Kind != yamlsrc.Map {
		d.report(CodeWrongType, "", fmt.Sprintf("a manifest is a mapping with apiVersion, kind, metadata and spec, this is %s", n.Kind))
		return nil
	}
	r := &Resource{place: d.place}
	known := []string{"apiVersion", "kind", "metadata", "spec"}
	for i, k := range n.Keys {
		d.place.keys[k.Text], d.place.values[k.Text] = k, n.Items[i]
		if !slices.Contains(known, k.Text) {
			d.unknownField(k.Text, k.Text, known)
		}
	}
	d.header(r, n)
	if m := n.Get("metadata"); m != nil {
		d.decode(m, reflect.ValueOf(&r.Metadata).Elem(), "metadata", "")
	}
	if !d.place.has("metadata.namespace") {
		r.Metadata.Namespace = DefaultNamespace
	}
	d.checkMetadata(r)
	spec := n.Get("spec")
	switch {
	case IsServiceKind(r.Kind):
		r.Spec = &ServiceSpec{}
	case r.Kind == KindPipeline:
		r.Spec = &PipelineSpec{}
	case r.Kind == KindCluster:
		r.Spec = &ClusterSpec{}
	default:
		return r
	}
	if spec == nil {
		if r.Kind != KindCluster {
			d.missing("spec", "the manifest has no spec")
			return r
		}
	} else {
		d.decode(spec, reflect.ValueOf(r.Spec).Elem(), "spec", "")
		if spec.Kind != yamlsrc.Map {
			return r
		}
	}
	switch s := r.Spec.(type) {
	case *ServiceSpec:
		d.checkService(r.Kind, s)
	case *PipelineSpec:
		d.checkPipeline(s)
	case *ClusterSpec:
		d.checkCluster(s)
	}
	r.Spec.setDefaults(r.Kind)
	return r
}

func (d *decoder) header(r *Resource, n *yamlsrc.Node) {
	text := func(field string, into *string) bool {
		v := n.Get(field)
		if v == nil {
			d.missing(field, "the manifest has no "+field)
			return false
		}
		return d.decode(v, reflect.ValueOf(into).Elem(), field, "")
	}
	if text("apiVersion", &r.APIVersion) && r.APIVersion != APIVersion {
		diag := d.report(CodeAPIVersion, "apiVersion", fmt.Sprintf("unknown apiVersion %q", r.APIVersion))
		diag.Label = "want " + APIVersion
		d.meantValue(diag, "apiVersion", APIVersion)
	}
	if text("kind", &r.Kind) && !slices.Contains(Kinds(), r.Kind) {
		diag := d.report(CodeUnknownKind, "kind", fmt.Sprintf("unknown kind %q", r.Kind))
		diag.Label = "want " + listOf(Kinds())
		d.meantValue(diag, "kind", closest(r.Kind, Kinds()))
	}
}

// missing reports a field that is not there, at the part that should hold it.
func (d *decoder) missing(path, message string) {
	if !d.guessed[path] {
		d.report(CodeMissingField, path, message)
	}
}
