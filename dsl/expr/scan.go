package expr

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// maxDepth is the nesting at which encoding/json gives up too.
const maxDepth = 10000

// field is one key of a JSON object and its value, as offsets into the text.
type field struct {
	key, keyEnd int // without the quotes
	val, valEnd int
	escaped     bool // the key has a backslash
}

// scanError is a place in a text that is not JSON.
type scanError struct {
	offset int
	what   string
}

func (e *scanError) Error() string {
	return fmt.Sprintf("payload is not valid JSON: %s at byte %d", e.what, e.offset)
}

// scanner checks JSON without building anything. It accepts exactly what encoding/json does.
type scanner struct {
	data []byte
	err  *scanError
}

func (s *scanner) fail(i int, what string) int {
	if s.err == nil {
		if i >= len(s.data) {
			what = "unexpected end"
		}
		s.err = &scanError{i, what}
	}
	return -1
}

// scanDocument checks a whole text and returns its one value, without the space around it.
func scanDocument(data []byte, each func(field)) (start, end int, err error) {
	s := scanner{data: data}
	start = s.space(0)
	end = s.value(start, 0, each)
	if end < 0 {
		return 0, 0, s.err
	}
	if rest := s.space(end); rest != len(data) {
		s.fail(rest, "text after the value")
		return 0, 0, s.err
	}
	return start, end, nil
}

func (s *scanner) space(i int) int {
	for i < len(s.data) && (s.data[i] == ' ' || s.data[i] == '\n' || s.data[i] == '\t' || s.data[i] == '\r') {
		i++
	}
	return i
}

// value checks the value that begins at i and returns its end, or -1. each, which may be nil, is called with the fields of the value itself when it is an
// object, and with its items, without key, when it is a list.
func (s *scanner) value(i, depth int, each func(field)) int {
	if i >= len(s.data) {
		return s.fail(i, "")
	}
	switch c := s.data[i]; {
	case c == '"':
		end, _ := s.str(i)
		return end
	case c == '{':
		return s.object(i, depth+1, each)
	case c == '[':
		return s.array(i, depth+1, each)
	case c == '-' || '0' <= c && c <= '9':
		return s.number(i)
	case c == 't':
		return s.word(i, "true")
	case c == 'f':
		return s.word(i, "false")
	case c == 'n':
		return s.word(i, "null")
	}
	return s.fail(i, "unexpected character")
}

func (s *scanner) word(i int, w string) int {
	for j := range len(w) {
		if i+j >= len(s.data) || s.data[i+j] != w[j] {
			return s.fail(i+j, "unexpected character")
		}
	}
	return i + len(w)
}

func (s *scanner) object(i, depth int, each func(field)) int {
	if depth > maxDepth {
		return s.fail(i, "nested too deep")
	}
	i = s.space(i + 1)
	if i < len(s.data) && s.data[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(s.data) || s.data[i] != '"' {
			return s.fail(i, "expected a key")
		}
		f := field{key: i + 1}
		end, escaped := s.str(i)
		if end < 0 {
			return -1
		}
		f.keyEnd, f.escaped = end-1, escaped
		i = s.space(end)
		if i >= len(s.data) || s.data[i] != ':' {
			return s.fail(i, "expected a colon")
		}
		f.val = s.space(i + 1)
		if f.valEnd = s.value(f.val, depth, nil); f.valEnd < 0 {
			return -1
		}
		if each != nil {
			each(f)
		}
		i = s.space(f.valEnd)
		switch {
		case i < len(s.data) && s.data[i] == ',':
			i = s.space(i + 1)
		case i < len(s.data) && s.data[i] == '}':
			return i + 1
		default:
			return s.fail(i, "expected a comma or a brace")
		}
	}
}

func (s *scanner) array(i, depth int, each func(field)) int {
	if depth > maxDepth {
		return s.fail(i, "nested too deep")
	}
	i = s.space(i + 1)
	if i < len(s.data) && s.data[i] == ']' {
		return i + 1
	}
	for {
		end := s.value(i, depth, nil)
		if end < 0 {
			return -1
		}
		if each != nil {
			each(field{val: i, valEnd: end})
		}
		i = s.space(end)
		switch {
		case i < len(s.data) && s.data[i] == ',':
			i = s.space(i + 1)
		case i < len(s.data) && s.data[i] == ']':
			return i + 1
		default:
			return s.fail(i, "expected a comma or a bracket")
		}
	}
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain returns the index of the first byte from i on that needs a look in a string: a quote, a backslash or a control character.
func plain(data []byte, i int) int {
	for i+8 <= len(data) {
		x := binary.LittleEndian.Uint64(data[i:])
		quote, slash := x^(ones*'"'), x^(ones*'\\')
		// A borrow can mark bytes above a true hit, never below: the lowest mark is right.
		if hit := ((x-ones*0x20)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & highs; hit != 0 {
			return i + bits.TrailingZeros64(hit)/8
		}
		i += 8
	}
	for i < len(data) && data[i] != '"' && data[i] != '\\' && data[i] >= 0x20 {
		i++
	}
	return i
}

func (s *scanner) str(i int) (end int, escaped bool) {
	for i++; ; {
		i = plain(s.data, i)
		if i >= len(s.data) {
			return s.fail(i, ""), escaped
		}
		switch s.data[i] {
		case '"':
			return i + 1, escaped
		case '\\':
			escaped = true
			if i = s.escape(i + 1); i < 0 {
				return -1, escaped
			}
		default:
			return s.fail(i, "control character in a string"), escaped
		}
	}
}

func (s *scanner) escape(i int) int {
	if i >= len(s.data) {
		return s.fail(i, "")
	}
	switch s.data[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		for j := i + 1; j <= i+4; j++ {
			if j >= len(s.data) || !isHex(s.data[j]) {
				return s.fail(j, "bad escape in a string")
			}
		}
		return i + 5
	}
	return s.fail(i, "bad escape in a string")
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func (s *scanner) number(i int) int {
	if s.data[i] == '-' {
		i++
	}
	if i < len(s.data) && s.data[i] == '0' {
		i++
	} else if i = s.digits(i); i < 0 {
		return -1
	}
	if i < len(s.data) && s.data[i] == '.' {
		if i = s.digits(i + 1); i < 0 {
			return -1
		}
	}
	if i < len(s.data) && (s.data[i] == 'e' || s.data[i] == 'E') {
		i++
		if i < len(s.data) && (s.data[i] == '+' || s.data[i] == '-') {
			i++
		}
		return s.digits(i)
	}
	return i
}

func (s *scanner) digits(i int) int {
	start := i
	for i < len(s.data) && '0' <= s.data[i] && s.data[i] <= '9' {
		i++
	}
	if i == start {
		return s.fail(i, "expected a digit")
	}
	return i
}
