package dsl

import (
	"strings"

	"github.com/conveyor-etl/conveyor/dsl/internal/yamlsrc"
)

// place remembers where the parts of a resource stand in their text.
type place struct {
	file string
	// values and keys are the nodes of the fields by their path, such as "spec.steps[1]".
	values, keys map[string]*yamlsrc.Node
	text         *yamlsrc.Text
}

// Position returns where a field stands, such as "spec.steps[1]", or the resource itself for "". Line and column count from 1 and are 0 when the
// resource did not come from a text. For a field that is not there it is the place of the part that would hold it.
func (r *Resource) Position(path string) (file string, line, column int) {
	s := r.place.span(path)
	if r.place != nil {
		file = r.place.file
	}
	return file, s.Line, s.Column
}

// has reports whether the text has the field, even one that could not be read.
func (p *place) has(path string) bool {
	if p == nil {
		return false
	}
	_, ok := p.values[path]
	return ok
}

// span is the place of a field's value: for mappings and lists that of its key, and for what is not there that of its parent.
func (p *place) span(path string) yamlsrc.Span {
	if p == nil {
		return yamlsrc.Span{}
	}
	for {
		v, k := p.values[path], p.keys[path]
		switch {
		case k != nil && (v == nil || v.Kind == yamlsrc.Map || v.Kind == yamlsrc.List || v.Kind == yamlsrc.Null):
			return k.Span
		case v != nil:
			return v.Span
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			if path == "" {
				return yamlsrc.Span{}
			}
			path = ""
			continue
		}
		path = path[:cut]
	}
}

// maxDiagnostics bounds the findings about one manifest: nobody reads more, and a hostile text must not cost more.
const maxDiagnostics = 1000

// reporter collects the diagnostics of one resource.
type reporter struct {
	place *place
	diags []Diagnostic
}

// report adds an error at the place of path. The returned pointer is valid until the next call.
func (r *reporter) report(code, path, message string) *Diagnostic {
	return r.reportAt(r.place.span(path), code, path, message)
}

// reportKey adds an error at the place of the key of path.
func (r *reporter) reportKey(code, path, message string) *Diagnostic {
	s := r.place.span(path)
	if r.place != nil {
		if k := r.place.keys[path]; k != nil {
			s = k.Span
		}
	}
	return r.reportAt(s, code, path, message)
}

func (r *reporter) reportAt(s yamlsrc.Span, code, path, message string) *Diagnostic {
	d := Diagnostic{Code: code, Severity: Error, Path: path, Message: message, Line: s.Line, Column: s.Column, EndColumn: s.EndColumn}
	if r.place != nil {
		d.File = r.place.file
	}
	if len(r.diags) >= maxDiagnostics {
		return &d
	}
	r.diags = append(r.diags, d)
	return &r.diags[len(r.diags)-1]
}

// meant suggests a word, and offers it as a fix where the faulty word stands in the text as it is.
func (d *Diagnostic) meant(word string) *Diagnostic {
	if word == "" {
		return d
	}
	d.Suggestion = didYouMean(word)
	return d.fixWith(word)
}

func (d *Diagnostic) fixWith(text string) *Diagnostic {
	if d.Line > 0 {
		d.Fix = &Fix{Line: d.Line, Column: d.Column, EndColumn: d.EndColumn, NewText: text}
	}
	return d
}

// meantValue is meant for a value whose text may be quoted: the quotes stay.
func (r *reporter) meantValue(d *Diagnostic, path, word string) {
	d.meant(word)
	if d.Fix == nil {
		return
	}
	n := r.place.values[path]
	switch {
	case n == nil || !n.Literal:
		d.Fix = nil
	case n.Quoted:
		d.Fix.Column, d.Fix.EndColumn = d.Fix.Column+1, d.Fix.EndColumn-1
	}
}
