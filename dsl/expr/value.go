package expr

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// decode makes a CEL value of JSON that was checked. Objects and lists stay text until an expression looks into them.
func decode(raw []byte) ref.Val {
	switch raw[0] {
	case '{':
		return mapping{&object{raw: raw}}
	case '[':
		return &list{raw: raw}
	case '"':
		return types.String(unquote(raw[1:len(raw)-1], bytes.IndexByte(raw, '\\') >= 0))
	case 't':
		return types.True
	case 'f':
		return types.False
	case 'n':
		return types.NullValue
	}
	return number(raw)
}

func number(raw []byte) ref.Val {
	if bytes.ContainsAny(raw, ".eE") {
		f, err := strconv.ParseFloat(string(raw), 64)
		if err != nil {
			return types.NewErr("the number %s is outside the range of a double", clip(raw))
		}
		return types.Double(f)
	}
	i, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return types.NewErr("the integer %s is outside the range of 64 bits", clip(raw))
	}
	return types.Int(i)
}

func clip(raw []byte) string {
	if len(raw) > 40 {
		return string(raw[:37]) + "..."
	}
	return string(raw)
}

// unquote decodes the inside of a JSON string.
func unquote(raw []byte, escaped bool) string {
	if !escaped {
		return string(raw)
	}
	quoted := make([]byte, 0, len(raw)+2)
	quoted = append(append(append(quoted, '"'), raw...), '"')
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return string(raw)
	}
	return s
}

// object is a JSON object.
type object struct {
	raw []byte
	// fields is the index of raw, made when it is worth it: for the payload itself as it is checked, for other objects when they are walked.
	fields  []field
	indexed bool
}

func (o *object) matches(f field, name string) bool {
	key := o.raw[f.key:f.keyEnd]
	if f.escaped {
		return unquote(key, true) == name
	}
	return string(key) == name
}

func (o *object) find(key ref.Val) ref.Val {
	name, ok := key.(types.String)
	if !ok {
		return nil
	}
	var last field
	if o.indexed {
		for i := len(o.fields) - 1; i >= 0 && last.valEnd == 0; i-- {
			if o.matches(o.fields[i], string(name)) {
				last = o.fields[i]
			}
		}
	} else {
		s := scanner{data: o.raw}
		s.object(0, 0, func(f field) {
			if o.matches(f, string(name)) {
				last = f
			}
		})
	}
	if last.valEnd == 0 {
		return nil
	}
	return decode(o.raw[last.val:last.valEnd])
}

func (o *object) keys() []ref.Val {
	if !o.indexed {
		s := scanner{data: o.raw}
		s.object(0, 0, func(f field) { o.fields = append(o.fields, f) })
		o.indexed = true
	}
	out := make([]ref.Val, 0, len(o.fields))
	seen := make(map[string]struct{}, len(o.fields))
	for _, f := range o.fields {
		name := unquote(o.raw[f.key:f.keyEnd], f.escaped)
		if _, again := seen[name]; !again {
			seen[name] = struct{}{}
			out = append(out, types.String(name))
		}
	}
	return out
}

// list is a JSON list.
type list struct {
	raw     []byte
	items   []ref.Val
	indexed bool
}

var _ traits.Lister = (*list)(nil)

func (l *list) all() []ref.Val {
	if !l.indexed {
		s := scanner{data: l.raw}
		s.array(0, 0, func(f field) { l.items = append(l.items, decode(l.raw[f.val:f.valEnd])) })
		l.indexed = true
	}
	return l.items
}

// plain is the list as CEL's own, for what it does better.
func (l *list) plain() traits.Lister {
	return types.NewRefValList(types.DefaultTypeAdapter, l.all())
}

func (l *list) Get(index ref.Val) ref.Val        { return l.plain().Get(index) }
func (l *list) Add(other ref.Val) ref.Val        { return l.plain().Add(other) }
func (l *list) Contains(v ref.Val) ref.Val       { return l.plain().Contains(v) }
func (l *list) Equal(other ref.Val) ref.Val      { return l.plain().Equal(other) }
func (l *list) Size() ref.Val                    { return types.Int(len(l.all())) }
func (l *list) Iterator() traits.Iterator        { return &iterator{items: l.all()} }
func (l *list) Type() ref.Type                   { return types.ListType }
func (l *list) Value() any                       { return l.plain().Value() }
func (l *list) ConvertToType(t ref.Type) ref.Val { return l.plain().ConvertToType(t) }
func (l *list) ConvertToNative(t reflect.Type) (any, error) {
	return l.plain().ConvertToNative(t)
}

// state is the variables of one evaluation. It is used for one record at a time.
type state struct {
	rec    *Record
	value  ref.Val
	root   object
	fields []field
	// known says that value was made.
	known bool
}

func (s *state) reset(rec *Record) {
	fields := s.fields
	if cap(fields) > 4096 {
		fields = nil
	}
	*s = state{rec: rec, fields: fields[:0]}
}

// payload decodes the payload by its content type.
func (s *state) payload() ref.Val {
	switch kindOf(s.rec.ContentType) {
	case bytesContent:
		return types.Bytes(s.rec.Payload)
	case textContent:
		if !utf8.Valid(s.rec.Payload) {
			return types.NewErr("payload is not valid UTF-8")
		}
		return types.String(s.rec.Payload)
	}
	data := s.rec.Payload
	start, end, err := scanDocument(data, func(f field) { s.fields = append(s.fields, f) })
	if err != nil {
		return types.WrapErr(err)
	}
	if !utf8.Valid(data) {
		return types.NewErr("payload is not valid UTF-8")
	}
	if data[start] == '{' {
		// The offsets count from the start of the payload.
		s.root = object{raw: data[:end], fields: s.fields, indexed: true}
		return mapping{&s.root}
	}
	return decode(data[start:end])
}

type contentKind int

const (
	bytesContent contentKind = iota
	textContent
	jsonContent
)

func kindOf(contentType string) contentKind {
	if contentType == "application/json" {
		return jsonContent
	}
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	switch {
	case media == "application/json", strings.HasSuffix(media, "+json"), media == "text/json":
		return jsonContent
	case strings.HasPrefix(media, "text/"):
		return textContent
	}
	return bytesContent
}

func textOrBytes(b []byte) ref.Val {
	if utf8.Valid(b) {
		return types.String(b)
	}
	return types.Bytes(b)
}
