package yamlsrc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ParseJSON reads all values of a JSON text, as strictly as ParseYAML.
func ParseJSON(data []byte) ([]*Node, []Problem) {
	r := &jsonReader{data: data, text: NewText(data)}
	if p := checkUTF8(r.text); p != nil {
		return nil, p
	}
	r.dec = json.NewDecoder(bytes.NewReader(data))
	r.dec.UseNumber()
	var docs []*Node
	for {
		n, err := r.value(1)
		if errors.Is(err, io.EOF) && n == nil {
			return docs, r.problems
		}
		if err != nil {
			r.syntax(err)
			return docs, r.problems
		}
		if len(docs) == MaxDocuments {
			r.problems = append(r.problems, tooMany(n.Span))
			return docs, r.problems
		}
		docs = append(docs, n)
	}
}

type jsonReader struct {
	data     []byte
	text     *Text
	dec      *json.Decoder
	problems []Problem

	// line and column are the place of offset, counted from 0. They only grow, so that finding places stays linear.
	line, column, offset int
}

func (r *jsonReader) syntax(err error) {
	if e := (deepError{}); errors.As(err, &e) {
		r.problems = append(r.problems, tooDeep(e.Span))
		return
	}
	// The decoder stands behind the last good token; the fault is in what comes next.
	offset, msg := r.skip(int(r.dec.InputOffset())), err.Error()
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		offset, msg = len(bytes.TrimRight(r.data, " \t\r\n")), "the text ends in the middle of a value"
	}
	offset = min(max(offset, 0), len(r.data))
	r.problems = append(r.problems, Problem{Fault: Syntax, Span: r.span(offset, offset+1), Message: msg})
}

type deepError struct{ Span }

func (deepError) Error() string { return "nested too deep" }

// token reads one token and the place where it begins.
func (r *jsonReader) token() (json.Token, Span, error) {
	start := int(r.dec.InputOffset())
	tok, err := r.dec.Token()
	if err != nil {
		return nil, Span{}, err
	}
	start = r.skip(start)
	end := int(r.dec.InputOffset())
	if _, ok := tok.(json.Delim); ok {
		end = start + 1
	}
	return tok, r.span(start, end), nil
}

// skip passes what stands between tokens.
func (r *jsonReader) skip(i int) int {
	for i < len(r.data) && strings.IndexByte(" \t\r\n,:", r.data[i]) >= 0 {
		i++
	}
	return i
}

func (r *jsonReader) span(start, end int) Span {
	for {
		i := bytes.IndexByte(r.data[r.offset:start], '\n')
		if i < 0 {
			break
		}
		r.line, r.column = r.line+1, 0
		r.offset += i + 1
	}
	r.column += utf8.RuneCount(r.data[r.offset:start])
	r.offset = start
	col := 1 + r.column
	return Span{r.line + 1, col, col + max(1, utf8.RuneCount(r.data[start:min(end, len(r.data))]))}
}

func (r *jsonReader) value(depth int) (*Node, error) {
	tok, span, err := r.token()
	if err != nil {
		return nil, err
	}
	n := &Node{Span: span}
	switch t := tok.(type) {
	case json.Delim:
		if depth > MaxDepth {
			return nil, deepError{span}
		}
		n.Kind = Map
		if t == '[' {
			n.Kind = List
		}
		return n, r.children(n, depth)
	case string:
		n.Kind, n.Text, n.Quoted = String, t, true
		n.Literal = strings.HasPrefix(r.text.after(span.Line, span.Column+1), t)
	case bool:
		n.Kind, n.Text = Bool, strconv.FormatBool(t)
	case json.Number:
		r.number(n, string(t))
	}
	return n, nil
}

func (r *jsonReader) number(n *Node, text string) {
	n.Kind, n.Text = Int, text
	if text == "-0" {
		n.Text = "0"
	}
	if !strings.ContainsAny(text, ".eE") {
		return
	}
	n.Kind = Float
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		r.problems = append(r.problems, Problem{Fault: Unsupported, Span: n.Span, Message: text + " is out of the range of numbers"})
	}
	n.Text = formatFloat(f)
}

func (r *jsonReader) children(n *Node, depth int) error {
	seen := map[string]Span{}
	for r.dec.More() {
		var key *Node
		if n.Kind == Map {
			tok, span, err := r.token()
			if err != nil {
				return noEOF(err)
			}
			text, _ := tok.(string)
			key = &Node{Kind: String, Text: text, Span: span}
		}
		item, err := r.value(depth + 1)
		if err != nil {
			return noEOF(err)
		}
		if key != nil {
			if first, dup := seen[key.Text]; dup {
				r.problems = append(r.problems, Problem{
					Fault: DuplicateKey, Span: key.Span, First: first,
					Message: "the key " + strconv.Quote(key.Text) + " stands here twice",
				})
				continue
			}
			seen[key.Text] = key.Span
			n.Keys = append(n.Keys, key)
		}
		n.Items = append(n.Items, item)
	}
	_, _, err := r.token()
	return noEOF(err)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
