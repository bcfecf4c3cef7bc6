// Package jsontext checks and walks JSON texts without building values. It accepts exactly what encoding/json does, in valid UTF-8.
package jsontext

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// maxDepth is that of encoding/json.
const maxDepth = 10000

// Valid reports whether data is one JSON value in valid UTF-8, and whether it is compact: without space between its tokens.
func Valid(data []byte) (valid, compact bool) {
	s := scanner{data: data, compact: true}
	s.space()
	if !s.value(0) {
		return false, false
	}
	s.space()
	return s.at == len(data) && utf8.Valid(data), s.compact
}

// AppendCompact appends data, which is valid JSON, on one line and without space between its tokens. A text that is compact already may
// be appended as it is.
func AppendCompact(dst, data []byte) []byte {
	b := bytes.NewBuffer(dst)
	// The only error is that of invalid JSON.
	if err := json.Compact(b, data); err != nil {
		return append(dst, data...)
	}
	return b.Bytes()
}

// Object calls member for every member of a valid JSON object, in order; the name is decoded, the value is its text. It reports false
// when data is no object.
func Object(data []byte, member func(name string, value []byte)) bool {
	s := scanner{data: data}
	s.space()
	if s.peek() != '{' {
		return false
	}
	s.at++
	s.space()
	for s.peek() == '"' {
		start := s.at
		if !s.str() {
			return false
		}
		name := unquote(data[start:s.at])
		s.space()
		s.at++ // the colon
		s.space()
		start = s.at
		if !s.value(1) {
			return false
		}
		member(name, data[start:s.at])
		s.space()
		if s.peek() != ',' {
			break
		}
		s.at++
		s.space()
	}
	return s.peek() == '}'
}

// Unquote returns the text of a valid JSON string.
func Unquote(quoted []byte) string { return unquote(quoted) }

func unquote(quoted []byte) string {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner)
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return string(inner)
	}
	return s
}

// AppendString appends text, which is valid UTF-8, as a JSON string.
func AppendString(dst, text []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i, c := range text {
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, text[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, text[from:]...), '"')
}

type scanner struct {
	data    []byte
	at      int
	compact bool
}

// peek returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

func (s *scanner) space() {
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case ' ', '\t', '\n', '\r':
			s.compact = false
			s.at++
		default:
			return
		}
	}
}

func (s *scanner) value(depth int) bool {
	switch c := s.peek(); {
	case c == '"':
		return s.str()
	case c == '{':
		return s.object(depth + 1)
	case c == '[':
		return s.array(depth + 1)
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	}
	return false
}

func (s *scanner) word(w string) bool {
	if len(s.data)-s.at < len(w) || string(s.data[s.at:s.at+len(w)]) != w {
		return false
	}
	s.at += len(w)
	return true
}

// plainInString says of every byte whether it stands for itself within a string.
var plainInString = func() (table [256]bool) {
	for c := range table {
		table[c] = c >= 0x20 && c != '"' && c != '\\'
	}
	return table
}()

func (s *scanner) str() bool {
	at := s.at + 1
	for {
		for at < len(s.data) && plainInString[s.data[at]] {
			at++
		}
		if at >= len(s.data) {
			return false
		}
		switch s.data[at] {
		case '"':
			s.at = at + 1
			return true
		case '\\':
			n := escape(s.data[at+1:])
			if n == 0 {
				return false
			}
			at += 1 + n
		default:
			return false
		}
	}
}

// escape returns the length of what follows a backslash, or 0 when it is wrong.
func escape(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if len(b) < 5 {
			return 0
		}
		for _, c := range b[1:5] {
			if c |= 0x20; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return 0
			}
		}
		return 5
	}
	return 0
}

func (s *scanner) digits() bool {
	from := s.at
	for s.at < len(s.data) && '0' <= s.data[s.at] && s.data[s.at] <= '9' {
		s.at++
	}
	return s.at > from
}

func (s *scanner) number() bool {
	if s.peek() == '-' {
		s.at++
	}
	if s.peek() == '0' {
		s.at++
	} else if !s.digits() {
		return false
	}
	if s.peek() == '.' {
		s.at++
		if !s.digits() {
			return false
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.at++
		if c := s.peek(); c == '+' || c == '-' {
			s.at++
		}
		return s.digits()
	}
	return true
}

func (s *scanner) object(depth int) bool {
	if depth > maxDepth {
		return false
	}
	s.at++
	s.space()
	if s.peek() == '}' {
		s.at++
		return true
	}
	for {
		if s.peek() != '"' || !s.str() {
			return false
		}
		s.space()
		if s.peek() != ':' {
			return false
		}
		s.at++
		s.space()
		if !s.value(depth) {
			return false
		}
		s.space()
		switch s.peek() {
		case ',':
			s.at++
			s.space()
		case '}':
			s.at++
			return true
		default:
			return false
		}
	}
}

func (s *scanner) array(depth int) bool {
	if depth > maxDepth {
		return false
	}
	s.at++
	s.space()
	if s.peek() == ']' {
		s.at++
		return true
	}
	for {
		if !s.value(depth) {
			return false
		}
		s.space()
		switch s.peek() {
		case ',':
			s.at++
			s.space()
		case ']':
			s.at++
			return true
		default:
			return false
		}
	}
}
