// Package yamlsrc reads YAML and JSON into one tree whose every node knows its place in the text.
package yamlsrc

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits on one text.
const (
	// MaxDepth is the largest nesting of mappings and sequences.
	MaxDepth = 64
	// MaxDocuments is the largest number of documents.
	MaxDocuments = 1000
)

// Kind is the type of a node's value.
type Kind int

// The kinds of value.
const (
	Null Kind = iota
	Bool
	Int
	Float
	String
	List
	Map
)

// String is the kind in the words of a message, such as "a list".
func (k Kind) String() string {
	return [...]string{"empty", "a boolean", "an integer", "a number", "a string", "a list", "a mapping"}[k]
}

// Span is a piece of one line. Line and columns count from 1, columns in characters; EndColumn is the column after the piece.
type Span struct {
	Line, Column, EndColumn int
}

// Node is one value with its place.
type Node struct {
	Kind Kind
	// Text is a scalar's value: a string without quotes and escapes, a number or a boolean in JSON's spelling.
	Text string
	// Literal says that Text stands in the file as it is, from the place's first column on, or one further when Quoted.
	Literal, Quoted bool
	// Block says that Text begins on the line after the place.
	Block bool
	Span
	// Keys are the keys of a mapping, each unique and a string; Items are its values, or the items of a list.
	Keys  []*Node
	Items []*Node
}

// Get returns the value of a key of a mapping, or nil.
func (n *Node) Get(key string) *Node {
	if n == nil {
		return nil
	}
	for i, k := range n.Keys {
		if k.Text == key {
			return n.Items[i]
		}
	}
	return nil
}

// Fault is what kind of problem a text has.
type Fault int

// The faults.
const (
	Syntax Fault = iota
	TooDeep
	TooManyDocuments
	Anchor
	DuplicateKey
	Unsupported
	NotUTF8
)

// Problem is one fault of a text.
type Problem struct {
	Fault Fault
	Span
	Message string
	// First is the place of the first of two duplicate keys.
	First Span
}

// Text gives access to the lines of a text. Line may be called by several goroutines.
type Text struct {
	lines []string

	// The place that after was last asked for: it goes on from there, so that a text on one line is read once and not once for each of its parts.
	line, column int
	rest         string
}

// NewText splits data into lines.
func NewText(data []byte) *Text {
	lines := strings.Split(string(data), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSuffix(l, "\r")
	}
	return &Text{lines: lines}
}

// Line returns a line, counted from 1, or "" beyond the text.
func (t *Text) Line(n int) string {
	if n < 1 || n > len(t.lines) {
		return ""
	}
	return t.lines[n-1]
}

// after returns the rest of a line from a column on.
func (t *Text) after(line, column int) string {
	if line != t.line || column < t.column {
		t.line, t.column, t.rest = line, 1, t.Line(line)
	}
	for ; t.column < column && t.rest != ""; t.column++ {
		_, size := utf8.DecodeRuneInString(t.rest)
		t.rest = t.rest[size:]
	}
	return t.rest
}

func checkUTF8(t *Text) []Problem {
	for i, l := range t.lines {
		if utf8.ValidString(l) {
			continue
		}
		col := 1
		for _, r := range l {
			if r == utf8.RuneError {
				break
			}
			col++
		}
		return []Problem{{Fault: NotUTF8, Span: Span{i + 1, col, col + 1}, Message: "the text is not valid UTF-8"}}
	}
	return nil
}

func tooMany(s Span) Problem {
	return Problem{Fault: TooManyDocuments, Span: s, Message: fmt.Sprintf("more than %d documents", MaxDocuments)}
}

func tooDeep(s Span) Problem {
	return Problem{Fault: TooDeep, Span: s, Message: fmt.Sprintf("nested deeper than %d levels", MaxDepth)}
}
