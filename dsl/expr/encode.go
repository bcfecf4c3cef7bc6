package expr

import (
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// appendJSON appends a CEL value as compact JSON.
func appendJSON(dst []byte, v ref.Val) ([]byte, error) {
	switch v := v.(type) {
	case types.String:
		return appendString(dst, string(v)), nil
	case types.Int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case types.Uint:
		return strconv.AppendUint(dst, uint64(v), 10), nil
	case types.Bool:
		return strconv.AppendBool(dst, bool(v)), nil
	case types.Null:
		return append(dst, "null"...), nil
	case types.Double:
		return appendDouble(dst, float64(v))
	case types.Bytes:
		dst = base64.StdEncoding.AppendEncode(append(dst, '"'), v)
		return append(dst, '"'), nil
	case types.Timestamp:
		dst = v.UTC().AppendFormat(append(dst, '"'), time.RFC3339Nano)
		return append(dst, '"'), nil
	case types.Duration:
		return appendString(dst, strconv.FormatFloat(v.Seconds(), 'f', -1, 64)+"s"), nil
	case mapping:
		if o, ok := v.finder.(*object); ok {
			return o.appendTo(dst), nil
		}
		return appendMap(dst, v, v.keys())
	case *list:
		return compact(dst, v.raw), nil
	case traits.Mapper:
		// CEL's own maps have no order of their own.
		var keys []ref.Val
		for it := v.Iterator(); it.HasNext() == types.True; {
			keys = append(keys, it.Next())
		}
		slices.SortFunc(keys, func(a, b ref.Val) int { return strings.Compare(keyText(a), keyText(b)) })
		return appendMap(dst, v, keys)
	case traits.Lister:
		return appendList(dst, v)
	case *types.Err:
		return dst, v
	}
	return dst, fmt.Errorf("a value of type %s has no form in JSON", v.Type().TypeName())
}

func (o *object) appendTo(dst []byte) []byte {
	start := 0
	for o.raw[start] != '{' {
		start++
	}
	return compact(dst, o.raw[start:])
}

func keyText(k ref.Val) string { return fmt.Sprint(k.Value()) }

func appendMap(dst []byte, m traits.Mapper, keys []ref.Val) ([]byte, error) {
	dst = append(dst, '{')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, keyText(k)), ':')
		var err error
		if dst, err = appendJSON(dst, m.Get(k)); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}

func appendList(dst []byte, l traits.Lister) ([]byte, error) {
	dst = append(dst, '[')
	for it, i := l.Iterator(), 0; it.HasNext() == types.True; i++ {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendJSON(dst, it.Next()); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

// appendDouble writes the shortest digits that read back as the same double, and never the form of an integer: the next stage must see a double too.
func appendDouble(dst []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return dst, fmt.Errorf("the number %v has no form in JSON", f)
	}
	start, format := len(dst), byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	if format == 'f' && !slices.Contains(dst[start:], '.') {
		dst = append(dst, ".0"...)
	}
	return dst, nil
}

const hexDigits = "0123456789abcdef"

func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[start:i]...), "\uFFFD"...)
				start = i + 1
			}
			i += size
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

// compact appends checked JSON without the space between its parts.
func compact(dst, raw []byte) []byte {
	s := scanner{data: raw}
	for i := 0; i < len(raw); {
		switch raw[i] {
		case ' ', '\n', '\t', '\r':
			i++
		case '"':
			end, _ := s.str(i)
			dst = append(dst, raw[i:end]...)
			i = end
		default:
			dst = append(dst, raw[i])
			i++
		}
	}
	return dst
}
