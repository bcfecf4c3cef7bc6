package expr

import (
	"errors"
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

var errNative = errors.New("the value has no form in Go")

// finder is what differs between our kinds of CEL map.
type finder interface {
	// find returns the value of a key, or nil.
	find(key ref.Val) ref.Val
	// keys returns the distinct keys in the order of their first appearance.
	keys() []ref.Val
}

// mapping makes a CEL map of a finder.
type mapping struct{ finder }

var _ traits.Mapper = mapping{}

func (m mapping) Find(key ref.Val) (ref.Val, bool) {
	v := m.find(key)
	if v == nil {
		return nil, false
	}
	return v, !types.IsError(v)
}

func (m mapping) Get(key ref.Val) ref.Val {
	if v := m.find(key); v != nil {
		return v
	}
	return types.NewErr("no such key: %v", key)
}

func (m mapping) Contains(key ref.Val) ref.Val {
	return types.Bool(m.find(key) != nil)
}

func (m mapping) Size() ref.Val { return types.Int(len(m.keys())) }

func (m mapping) Iterator() traits.Iterator { return &iterator{items: m.keys()} }

func (m mapping) Equal(other ref.Val) ref.Val {
	o, ok := other.(traits.Mapper)
	if !ok {
		return types.False
	}
	keys := m.keys()
	if o.Size() != types.Int(len(keys)) {
		return types.False
	}
	for _, k := range keys {
		v, found := o.Find(k)
		if !found || types.Equal(m.find(k), v) != types.True {
			return types.False
		}
	}
	return types.True
}

func (m mapping) Type() ref.Type { return types.MapType }

func (m mapping) Value() any { return m.finder }

func (m mapping) ConvertToNative(reflect.Type) (any, error) { return nil, errNative }

func (m mapping) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.MapType:
		return m
	case types.TypeType:
		return types.MapType
	}
	return types.NewErr("a map does not convert to %s", t.TypeName())
}

// iterator walks over values.
type iterator struct {
	items []ref.Val
	next  int
}

func (it *iterator) HasNext() ref.Val { return types.Bool(it.next < len(it.items)) }

func (it *iterator) Next() ref.Val {
	it.next++
	return it.items[it.next-1]
}

func (it *iterator) Type() ref.Type                            { return types.IteratorType }
func (it *iterator) Value() any                                { return nil }
func (it *iterator) Equal(ref.Val) ref.Val                     { return types.False }
func (it *iterator) ConvertToNative(reflect.Type) (any, error) { return nil, errNative }
func (it *iterator) ConvertToType(ref.Type) ref.Val {
	return types.NewErr("an iterator does not convert")
}

// literal is a map that an expression wrote down, in its order.
type literal struct{ names, values []ref.Val }

func (l literal) find(key ref.Val) ref.Val {
	for i, k := range l.names {
		if types.Equal(k, key) == types.True {
			return l.values[i]
		}
	}
	return nil
}

func (l literal) keys() []ref.Val { return l.names }

// headers is the variable headers.
type headers []Header

func (h headers) find(key ref.Val) ref.Val {
	name, ok := key.(types.String)
	if !ok {
		return nil
	}
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].Key == string(name) {
			return textOrBytes(h[i].Value)
		}
	}
	return nil
}

func (h headers) keys() []ref.Val {
	var out []ref.Val
	seen := map[string]bool{}
	for _, x := range h {
		if !seen[x.Key] {
			seen[x.Key] = true
			out = append(out, types.String(x.Key))
		}
	}
	return out
}

// metaFields are the fields of the variable meta, in order.
var metaFields = []string{"pipeline", "stage", "lane", "id"}

// metaMap is the variable meta.
type metaMap struct{ m *Meta }

func (m metaMap) find(key ref.Val) ref.Val {
	switch key {
	case types.String("pipeline"):
		return types.String(m.m.Pipeline)
	case types.String("stage"):
		return types.String(m.m.Stage)
	case types.String("lane"):
		return types.String(m.m.Lane)
	case types.String("id"):
		return types.String(m.m.ID)
	}
	return nil
}

func (m metaMap) keys() []ref.Val {
	out := make([]ref.Val, len(metaFields))
	for i, f := range metaFields {
		out[i] = types.String(f)
	}
	return out
}
