package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Template is a jsonpath template in the manner of kubectl: text, {.field.list[0].list[*]['a.b']}, {"text with \n"}, and {range PATH}...{end}.
// Filters, unions, slices and recursive descent are refused.
type Template struct{ nodes []tnode }

type tnode struct {
	text  string
	steps []step
	path  bool
	body  []tnode // of a range
	loop  bool
}

type step struct {
	field string
	index int
	kind  stepKind
}

type stepKind int

const (
	fieldStep stepKind = iota
	indexStep
	everyStep
)

// ParseTemplate reads a template. One without braces is taken as one path.
func ParseTemplate(src string) (*Template, error) {
	if strings.TrimSpace(src) == "" {
		return nil, errors.New("jsonpath needs a template, such as jsonpath={.items[*].metadata.name}")
	}
	if !strings.Contains(src, "{") {
		src = "{." + strings.TrimPrefix(src, ".") + "}"
	}
	nodes, rest, ended, err := parseNodes(src)
	if err != nil {
		return nil, fmt.Errorf("jsonpath: %w", err)
	}
	if ended || rest != "" {
		return nil, errors.New("jsonpath: {end} without {range}")
	}
	return &Template{nodes}, nil
}

func parseNodes(src string) (nodes []tnode, rest string, ended bool, err error) {
	for src != "" {
		text, after, found := strings.Cut(src, "{")
		if text != "" {
			nodes = append(nodes, tnode{text: text})
		}
		if !found {
			break
		}
		expr, after, err := untilBrace(after)
		if err != nil {
			return nil, "", false, err
		}
		src = after
		expr = strings.TrimSpace(expr)
		switch {
		case expr == "end":
			return nodes, src, true, nil
		case expr == "range" || strings.HasPrefix(expr, "range "):
			steps, err := parsePath(strings.TrimSpace(strings.TrimPrefix(expr, "range")))
			if err != nil {
				return nil, "", false, err
			}
			body, after, ended, err := parseNodes(src)
			if err != nil {
				return nil, "", false, err
			}
			if !ended {
				return nil, "", false, errors.New("{range} without {end}")
			}
			src = after
			nodes = append(nodes, tnode{loop: true, steps: steps, body: body})
		case strings.HasPrefix(expr, `"`), strings.HasPrefix(expr, `'`):
			s, err := unquote(expr)
			if err != nil {
				return nil, "", false, fmt.Errorf("text %s: %w", expr, err)
			}
			nodes = append(nodes, tnode{text: s})
		default:
			steps, err := parsePath(expr)
			if err != nil {
				return nil, "", false, err
			}
			nodes = append(nodes, tnode{path: true, steps: steps})
		}
	}
	return nodes, "", false, nil
}

// untilBrace cuts at the closing brace that is not inside quotes.
func untilBrace(s string) (expr, rest string, err error) {
	var quote byte
	for i := 0; i < len(s); i++ {
		switch {
		case quote != 0 && s[i] == '\\':
			i++
		case quote != 0:
			if s[i] == quote {
				quote = 0
			}
		case s[i] == '"' || s[i] == '\'':
			quote = s[i]
		case s[i] == '}':
			return s[:i], s[i+1:], nil
		}
	}
	return "", "", fmt.Errorf("{%s has no closing brace", s)
}

func unquote(s string) (string, error) {
	if len(s) >= 2 && s[0] == '\'' && s[len(s)-1] == '\'' {
		s = `"` + strings.ReplaceAll(strings.ReplaceAll(s[1:len(s)-1], `\'`, `'`), `"`, `\"`) + `"`
	}
	return strconv.Unquote(s)
}

func parsePath(s string) ([]step, error) {
	whole := s
	s = strings.TrimPrefix(strings.TrimPrefix(s, "$"), "@")
	var steps []step
	for s != "" {
		switch {
		case strings.HasPrefix(s, ".."):
			return nil, fmt.Errorf("path %s: recursive descent is not supported", whole)
		case strings.HasPrefix(s, ".["):
			s = s[1:]
		case s[0] == '.':
			end := strings.IndexAny(s[1:], ".[")
			if end < 0 {
				end = len(s) - 1
			}
			name := s[1 : 1+end]
			s = s[1+end:]
			switch name {
			case "":
			case "*":
				steps = append(steps, step{kind: everyStep})
			default:
				steps = append(steps, step{field: name})
			}
		case s[0] == '[':
			inner, rest, found := cutBracket(s[1:])
			if !found {
				return nil, fmt.Errorf("path %s: [ is not closed", whole)
			}
			st, err := bracket(inner)
			if err != nil {
				return nil, fmt.Errorf("path %s: %w", whole, err)
			}
			steps, s = append(steps, st), rest
		default:
			return nil, fmt.Errorf("path %s must begin with a dot", whole)
		}
	}
	return steps, nil
}

func cutBracket(s string) (inner, rest string, found bool) {
	if s != "" && (s[0] == '\'' || s[0] == '"') {
		if end := strings.Index(s[1:], s[:1]+"]"); end >= 0 {
			return s[:end+2], s[end+3:], true
		}
		return "", "", false
	}
	return strings.Cut(s, "]")
}

func bracket(inner string) (step, error) {
	switch {
	case inner == "*":
		return step{kind: everyStep}, nil
	case len(inner) >= 2 && (inner[0] == '\'' || inner[0] == '"'):
		return step{field: inner[1 : len(inner)-1]}, nil
	}
	n, err := strconv.Atoi(inner)
	if err != nil {
		return step{}, fmt.Errorf("[%s] is not supported: want [N], [*] or ['name']", inner)
	}
	return step{kind: indexStep, index: n}, nil
}

// Execute writes the template filled in with a JSON object. A field that does not exist writes nothing.
func (t *Template) Execute(w io.Writer, object []byte) error {
	dec := json.NewDecoder(bytes.NewReader(object))
	dec.UseNumber()
	var root any
	if err := dec.Decode(&root); err != nil {
		return fmt.Errorf("read the object: %w", err)
	}
	var b strings.Builder
	if err := run(&b, t.nodes, root); err != nil {
		return err
	}
	if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") {
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func run(b *strings.Builder, nodes []tnode, at any) error {
	for _, n := range nodes {
		switch {
		case n.loop:
			for _, v := range walk([]any{at}, n.steps) {
				if err := run(b, n.body, v); err != nil {
					return err
				}
			}
		case n.path:
			for i, v := range walk([]any{at}, n.steps) {
				if i > 0 {
					b.WriteByte(' ')
				}
				if err := write(b, v); err != nil {
					return err
				}
			}
		default:
			b.WriteString(n.text)
		}
	}
	return nil
}

func walk(values []any, steps []step) []any {
	for _, s := range steps {
		var next []any
		for _, v := range values {
			next = append(next, s.take(v)...)
		}
		values = next
	}
	return values
}

func (s step) take(v any) []any {
	switch v := v.(type) {
	case map[string]any:
		if s.kind == everyStep {
			var out []any
			for _, k := range sortedKeys(v) {
				out = append(out, v[k])
			}
			return out
		}
		if x, ok := v[s.field]; ok && s.kind == fieldStep {
			return []any{x}
		}
	case []any:
		switch s.kind {
		case everyStep:
			return v
		case indexStep:
			i := s.index
			if i < 0 {
				i += len(v)
			}
			if i >= 0 && i < len(v) {
				return v[i : i+1]
			}
		}
	}
	return nil
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func write(b *strings.Builder, v any) error {
	switch v := v.(type) {
	case string:
		b.WriteString(v)
	case nil:
	default:
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("write a value: %w", err)
		}
		b.Write(text)
	}
	return nil
}
