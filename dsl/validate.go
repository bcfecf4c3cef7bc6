package dsl

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/conveyor-etl/conveyor/dsl/internal/yamlsrc"
)

// ExprKind says what a CEL expression is for.
type ExprKind string

// The kinds of expression.
const (
	// Condition decides whether a record takes an edge.
	Condition ExprKind = "condition"
	// Filter decides whether a record stays.
	Filter ExprKind = "filter"
	// Map makes a new payload.
	Map ExprKind = "map"
)

// Options of Validate.
type Options struct {
	// MissingReference is the severity of a reference to a service that is not in the set. The default is Warning: it may be applied later.
	MissingReference Severity
	// CheckExpr checks one expression; nil checks none. The function Check of package expr fits. An error that has methods Position() (line, column int) and Message() string
	// is shown at that place of the expression, both counted from 1.
	CheckExpr func(kind ExprKind, src string) error
	// CheckConnector checks a connector and its config; nil checks none. An unknown connector is of the severity MissingReference.
	CheckConnector func(kind, connector string, config []byte) []ConnectorFault
}

// ConnectorFault is one thing that is wrong with a connector.
type ConnectorFault struct {
	// Unknown says that there is no such connector, and Known which there are.
	Unknown bool
	Known   []string
	// Field is the path of the faulty field from the root of the config, or "".
	Field string
	// Message says what is wrong with it.
	Message string
}

// Validate reports what Parse cannot see in one manifest: two manifests of one name, references that lead nowhere or to the wrong kind, and faulty
// expressions. It reports nothing that Load or Parse did, so their diagnostics and these together are everything. set may hold resources of any origin.
func Validate(set *Set, opts Options) []Diagnostic {
	if opts.MissingReference == "" {
		opts.MissingReference = Warning
	}
	v := &validator{opts: opts, all: slices.Concat(set.Resources, set.faulty)}
	seen := map[string]*Resource{}
	for _, r := range v.all {
		v.duplicate(seen, r)
	}
	for _, r := range v.all {
		v.reporter.place = r.place
		switch s := r.Spec.(type) {
		case *ServiceSpec:
			v.cel("spec.cel", s.CEL)
			v.connector(r.Kind, s.Connector)
		case *PipelineSpec:
			v.pipeline(r.Metadata.Namespace, s)
		}
	}
	return v.diags
}

type validator struct {
	reporter
	opts Options
	all  []*Resource
}

func (v *validator) duplicate(seen map[string]*Resource, r *Resource) {
	if r.Metadata.Name == "" || r.Kind == "" {
		return
	}
	first, dup := seen[r.String()]
	if !dup {
		seen[r.String()] = r
		return
	}
	v.reporter.place = r.place
	d := v.report(CodeDuplicateResource, "metadata.name", fmt.Sprintf("the %s %q is there twice", r.Kind, r.Ref()))
	file, line, column := first.Position("metadata.name")
	d.Related = []Related{{File: file, Line: line, Column: column, Message: "the first one is here"}}
	d.Suggestion = "rename or remove one of them"
}

func (v *validator) pipeline(namespace string, s *PipelineSpec) {
	v.reference(KindSource, namespace, s.Source, "spec.source")
	for i, name := range s.Sources {
		v.reference(KindSource, namespace, name, fmt.Sprintf("spec.sources[%d]", i))
	}
	for i, name := range s.Steps {
		v.reference(KindTransform, namespace, name, fmt.Sprintf("spec.steps[%d]", i))
	}
	v.reference(KindSink, namespace, s.Sink, "spec.sink")
	for i, sink := range s.Sinks {
		path := fmt.Sprintf("spec.sinks[%d]", i)
		v.reference(KindSink, namespace, sink.Name, path+".name")
		v.expression(Condition, path+".when", sink.When)
	}
	for i, st := range s.Stages {
		path := stagePath(i)
		v.reference(KindSource, namespace, st.Source, path+".source")
		v.reference(KindTransform, namespace, st.Transform, path+".transform")
		v.reference(KindSink, namespace, st.Sink, path+".sink")
		v.cel(path+".cel", st.CEL)
		v.expression(Condition, path+".when", st.When)
	}
	v.reference(KindSink, namespace, s.DeadLetterSink(), "spec.dlq.sink")
}

// reference checks that a service is there. Badly formed names were reported when the manifest was read.
func (v *validator) reference(kind, namespace, name, path string) {
	if !ValidName(name) {
		return
	}
	if _, ok := find(v.all, kind, namespace, name); ok {
		return
	}
	for _, other := range []string{KindSource, KindTransform, KindSink} {
		r, ok := find(v.all, other, namespace, name)
		if !ok {
			continue
		}
		d := v.report(CodeWrongKind, path, fmt.Sprintf("%q is a %s, not a %s", name, other, kind))
		d.Label = fmt.Sprintf("this place takes a %s", kind)
		file, line, column := r.Position("kind")
		d.Related = []Related{{File: file, Line: line, Column: column, Message: fmt.Sprintf("the %s is here", other)}}
		return
	}
	d := v.report(CodeMissingReference, path, fmt.Sprintf("unknown %s %q", kind, name))
	d.Severity, d.Label = v.opts.MissingReference, missingLabel(kind, namespace)
	var names []string
	for _, r := range v.all {
		switch {
		case r.Kind != kind:
		case r.Metadata.Namespace == namespace:
			names = append(names, r.Metadata.Name)
		case r.Metadata.Name == name:
			d.Suggestion = fmt.Sprintf("there is one in namespace %q, but a pipeline uses services of its own namespace", r.Metadata.Namespace)
		}
	}
	word := closest(name, names)
	if word == "" {
		if d.Suggestion == "" && d.Severity == Warning {
			d.Suggestion = "the pipeline waits until it is applied"
		} else if d.Suggestion == "" {
			d.Suggestion = "give its manifest too"
		}
		return
	}
	v.meantValue(d, path, word)
	if r, ok := find(v.all, kind, namespace, word); ok {
		if file, line, _ := r.Position("metadata.name"); line > 0 {
			d.Suggestion = fmt.Sprintf("did you mean %q (%s:%d)?", word, file, line)
		}
	}
}

func (v *validator) cel(path string, c *CELSpec) {
	if c == nil {
		return
	}
	v.expression(Filter, path+".filter", c.Filter)
	v.expression(Map, path+".map", c.Map)
}

func (v *validator) connector(kind string, c *ConnectorSpec) {
	if c == nil || !ValidName(c.Type) || v.opts.CheckConnector == nil {
		return
	}
	for _, f := range v.opts.CheckConnector(kind, c.Type, c.Config) {
		if f.Unknown {
			const path = "spec.connector.type"
			d := v.report(CodeUnknownConnector, path, fmt.Sprintf("there is no ready-made %s of type %q", strings.ToLower(kind), c.Type))
			d.Severity = v.opts.MissingReference
			if len(f.Known) > 0 {
				d.Label = "want " + listOf(f.Known)
			}
			v.meantValue(d, path, closest(c.Type, f.Known))
			continue
		}
		path := "spec.connector.config"
		message := f.Message
		if f.Field != "" {
			path += "." + f.Field
			message = f.Field + ": " + message
		}
		v.reportKey(CodeBadConfig, path, fmt.Sprintf("config of connector %s: %s", c.Type, message))
	}
}

func (v *validator) expression(kind ExprKind, path, src string) {
	if src == "" || v.opts.CheckExpr == nil {
		return
	}
	err := v.opts.CheckExpr(kind, src)
	if err == nil {
		return
	}
	message := err.Error()
	span := v.place.span(path)
	if at, ok := errors.AsType[interface {
		error
		Position() (line, column int)
		Message() string
	}](err); ok {
		line, column := at.Position()
		span, message = v.within(path, src, line, column), at.Message()
	}
	v.reportAt(span, CodeBadExpression, path, fmt.Sprintf("%s: %s", lastField(path), message))
}

// within is the place in the file of a place in an expression, or the whole expression where the text of the file differs from it.
func (v *validator) within(path, src string, line, column int) yamlsrc.Span {
	whole := v.place.span(path)
	if v.place == nil {
		return whole
	}
	n := v.place.values[path]
	lines := strings.Split(src, "\n")
	switch {
	case n == nil || line < 1 || line > len(lines):
		return whole
	case n.Literal && line == 1:
		start := n.Column
		if n.Quoted {
			start++
		}
		column = max(1, min(column, utf8.RuneCountInString(lines[0])))
		return yamlsrc.Span{Line: n.Line, Column: start + column - 1, EndColumn: start + column - 1 + word(lines[0], column)}
	case n.Block && v.place.text != nil:
		raw := v.place.text.Line(n.Line + line)
		if indent := strings.Index(raw, lines[line-1]); indent >= 0 && lines[line-1] != "" {
			start := utf8.RuneCountInString(raw[:indent])
			return yamlsrc.Span{Line: n.Line + line, Column: start + column, EndColumn: start + column + word(lines[line-1], column)}
		}
	}
	return whole
}

// word is the length of the word at a column of a line, or 1.
func word(line string, column int) int {
	n := 0
	for i, r := range []rune(line) {
		if i+1 < column {
			continue
		}
		if r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			break
		}
		n++
	}
	return max(1, n)
}
