package yamlsrc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// ParseYAML reads all documents of a YAML text. After a syntax error it goes on at the next document. Empty documents are left out.
func ParseYAML(data []byte) ([]*Node, []Problem) {
	r := &reader{text: NewText(data)}
	if p := checkUTF8(r.text); p != nil {
		return nil, p
	}
	for start := 0; start >= 0; {
		start = r.stream(data, start)
	}
	return r.docs, r.problems
}

type reader struct {
	text     *Text
	docs     []*Node
	problems []Problem
	count    int
}

// errDepth ends the composition of a tree that is too deep, before it costs memory.
var errDepth = errors.New("nested too deep")

// stream reads documents from the line after start on and returns the line index to go on at after a syntax error, or -1. The lines before are
// replaced by empty ones, which keeps the positions true.
func (r *reader) stream(data []byte, start int) int {
	if start > 0 {
		data = []byte(strings.Repeat("\n", start) + strings.Join(r.text.lines[start:], "\n"))
	}
	limit := loaderlimits.New(loaderlimits.DepthFunc(func(depth int, _ *yaml.DepthContext) error {
		if depth > 2*MaxDepth {
			return errDepth
		}
		return nil
	}))
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(limit))
	if err != nil {
		r.problems = append(r.problems, Problem{Message: err.Error()})
		return -1
	}
	for {
		var doc yaml.Node
		err := loader.Load(&doc)
		if errors.Is(err, io.EOF) {
			return -1
		}
		if err != nil {
			return r.syntax(err, start)
		}
		if r.count++; r.count > MaxDocuments {
			r.problems = append(r.problems, tooMany(Span{doc.Line, doc.Column, doc.Column + 1}))
			return -1
		}
		node := &doc
		if doc.Kind == yaml.DocumentNode {
			if len(doc.Content) == 0 {
				continue
			}
			node = doc.Content[0]
		}
		if n := r.node(node, 1); n != nil && n.Kind != Null {
			r.docs = append(r.docs, n)
		}
	}
}

func (r *reader) syntax(err error, start int) int {
	p := Problem{Fault: Syntax, Message: err.Error(), Span: Span{max(start, 1), 1, 2}}
	if e := new(yaml.LoadError); errors.As(err, &e) {
		p.Message = e.Message
		if e.Mark.Line > 0 {
			p.Span = Span{e.Mark.Line, max(e.Mark.Column, 1), max(e.Mark.Column, 1) + 1}
		}
		if e.ContextMsg != "" {
			p.Message += " " + e.ContextMsg
		}
	}
	if errors.Is(err, errDepth) || strings.Contains(p.Message, errDepth.Error()) {
		p = tooDeep(p.Span)
	}
	if p.Line > len(r.text.lines) {
		p.Span = Span{len(r.text.lines), 1, 2}
	}
	// The line of the fault may itself begin the next document, or be the one that cannot be read: then it comes a second time.
	if n := len(r.problems); n == 0 || r.problems[n-1].Span != p.Span {
		r.problems = append(r.problems, p)
	}
	if len(r.problems) > 100 {
		return -1
	}
	for i := max(p.Line-1, start+1); i < len(r.text.lines); i++ {
		if strings.HasPrefix(r.text.lines[i], "---") {
			return i
		}
	}
	return -1
}

func (r *reader) node(y *yaml.Node, depth int) *Node {
	n := &Node{Span: r.span(y)}
	switch {
	case depth > MaxDepth:
		r.problems = append(r.problems, tooDeep(n.Span))
		return nil
	case y.Kind == yaml.AliasNode:
		r.fault(Anchor, n.Span, "an alias (*"+y.Value+") is not allowed; write the value out")
		return nil
	case y.Anchor != "":
		r.fault(Anchor, n.Span, "an anchor (&"+y.Anchor+") is not allowed; write the value out where it is used")
	}
	tag := y.ShortTag()
	switch y.Kind {
	case yaml.MappingNode:
		n.Kind = Map
		if tag != "!!map" {
			r.fault(Unsupported, n.Span, "the tag "+tag+" is not supported")
		}
		r.mapping(y, n, depth)
	case yaml.SequenceNode:
		n.Kind = List
		if tag != "!!seq" {
			r.fault(Unsupported, n.Span, "the tag "+tag+" is not supported")
		}
		for _, c := range y.Content {
			if item := r.node(c, depth+1); item != nil {
				n.Items = append(n.Items, item)
			}
		}
	default:
		r.scalar(y, n, tag)
	}
	return n
}

func (r *reader) mapping(y *yaml.Node, n *Node, depth int) {
	seen := make(map[string]Span, len(y.Content)/2)
	for i := 0; i+1 < len(y.Content); i += 2 {
		key := &Node{Kind: String, Text: y.Content[i].Value, Span: r.span(y.Content[i])}
		if y.Content[i].Kind != yaml.ScalarNode {
			r.fault(Unsupported, key.Span, "a key must be a string")
			continue
		}
		if y.Content[i].Anchor != "" {
			r.fault(Anchor, key.Span, "an anchor (&"+y.Content[i].Anchor+") is not allowed")
		}
		value := r.node(y.Content[i+1], depth+1)
		if first, dup := seen[key.Text]; dup {
			r.problems = append(r.problems, Problem{
				Fault: DuplicateKey, Span: key.Span, First: first,
				Message: "the key " + strconv.Quote(key.Text) + " stands here twice",
			})
			continue
		}
		seen[key.Text] = key.Span
		if value != nil {
			n.Keys, n.Items = append(n.Keys, key), append(n.Items, value)
		}
	}
}

func (r *reader) scalar(y *yaml.Node, n *Node, tag string) {
	n.Text = y.Value
	n.Quoted = y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0
	n.Block = y.Style&yaml.LiteralStyle != 0
	after := r.text.after(n.Line, n.Column)
	if n.Quoted && after != "" {
		after = after[1:]
	}
	n.Literal = !n.Block && y.Style&yaml.FoldedStyle == 0 && strings.HasPrefix(after, y.Value)
	switch tag {
	case "!!str", "!!timestamp", "!!merge":
		n.Kind = String
	case "!!null":
		n.Kind, n.Text = Null, ""
	case "!!bool":
		n.Kind, n.Text = Bool, strings.ToLower(y.Value)
	case "!!int":
		n.Kind = Int
		i, ok := new(big.Int).SetString(strings.ReplaceAll(strings.TrimPrefix(y.Value, "+"), "_", ""), 0)
		if !ok {
			r.fault(Unsupported, n.Span, strconv.Quote(y.Value)+" is not a number")
			return
		}
		n.Text = i.String()
	case "!!float":
		n.Kind = Float
		f, err := strconv.ParseFloat(strings.ReplaceAll(y.Value, "_", ""), 64)
		if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			r.fault(Unsupported, n.Span, strconv.Quote(y.Value)+" has no form in JSON")
			return
		}
		n.Text = formatFloat(f)
	default:
		n.Kind = String
		r.fault(Unsupported, n.Span, "the tag "+tag+" is not supported")
	}
}

// formatFloat spells a number as encoding/json does, so that equal numbers have one spelling.
func formatFloat(f float64) string {
	b, err := json.Marshal(f)
	if err != nil {
		return "0"
	}
	return string(b)
}

func (r *reader) fault(f Fault, s Span, msg string) {
	r.problems = append(r.problems, Problem{Fault: f, Span: s, Message: msg})
}

// span is the place of a node: all of a scalar that ends on its line, one character of everything else.
func (r *reader) span(y *yaml.Node) Span {
	s := Span{y.Line, y.Column, y.Column + 1}
	if y.Kind == yaml.AliasNode {
		s.EndColumn = s.Column + 1 + utf8.RuneCountInString(y.Value)
	}
	if y.Kind != yaml.ScalarNode {
		return s
	}
	rest := r.text.after(y.Line, y.Column)
	switch {
	case y.Style&yaml.DoubleQuotedStyle != 0:
		s.EndColumn += closing(rest, '"', '\\')
	case y.Style&yaml.SingleQuotedStyle != 0:
		s.EndColumn += closing(rest, '\'', '\'')
	case strings.HasPrefix(rest, y.Value):
		s.EndColumn = s.Column + max(1, utf8.RuneCountInString(y.Value))
	}
	return s
}

// closing counts the characters after the opening quote up to and including the closing one. It reads no further, since lines can be long.
func closing(rest string, quote, escape rune) int {
	count, skip := 0, false
	for i, r := range rest {
		switch {
		case i == 0:
			continue
		case skip:
			skip = false
		case r == escape && (escape != quote || strings.HasPrefix(rest[i+utf8.RuneLen(r):], string(quote))):
			skip = true
		case r == quote:
			return count + 1
		}
		count++
	}
	return count
}
