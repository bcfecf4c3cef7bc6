package expr

import (
	"errors"
	"fmt"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// Uses reports whether the expression reads the variable, such as "headers": a caller may leave unset what it does not read.
func (p *Program) Uses(variable string) bool { return p.uses[variable] }

// Test runs a condition or a filter. An error is a fault of the record together with the expression, such as a field that is not there: the same record
// gives it again.
func (p *Program) Test(rec *Record) (bool, error) {
	if p.kind == Map {
		return false, errors.New("test record: the expression is a map")
	}
	s := p.take(rec)
	defer p.put(s)
	out, err := p.run(s)
	if err != nil {
		return false, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("evaluate %s: %w but of type %s", p.kind, errNotBool, out.Type().TypeName())
	}
	return bool(b), nil
}

// Map runs a map and appends its result to dst as compact JSON. On error, which is as for Test, dst is returned as it was.
func (p *Program) Map(dst []byte, rec *Record) ([]byte, error) {
	if p.kind != Map {
		return dst, fmt.Errorf("map record: the expression is a %s", p.kind)
	}
	s := p.take(rec)
	defer p.put(s)
	out, err := p.run(s)
	if err != nil {
		return dst, err
	}
	grown, err := appendJSON(dst, out)
	if err != nil {
		return dst, fmt.Errorf("evaluate map: %w", plainError(err))
	}
	return grown, nil
}

func (p *Program) take(rec *Record) *state {
	s := p.pool.Get().(*state)
	s.reset(rec)
	return s
}

func (p *Program) put(s *state) {
	s.reset(nil)
	p.pool.Put(s)
}

func (p *Program) run(s *state) (ref.Val, error) {
	out, _, err := p.prog.Eval(s)
	if err != nil {
		return nil, fmt.Errorf("evaluate %s: %w", p.kind, plainError(err))
	}
	return out, nil
}

// plainError keeps the text of an error only: CEL's errors hold on to values, and those to the record.
func plainError(err error) error { return errors.New(err.Error()) }

// ResolveName gives CEL the variables.
func (s *state) ResolveName(name string) (any, bool) {
	switch name {
	case "value":
		if !s.known {
			s.value, s.known = s.payload(), true
		}
		return s.value, true
	case "key":
		if s.rec.Key == nil {
			return types.NullValue, true
		}
		return textOrBytes(s.rec.Key), true
	case "headers":
		return mapping{headers(s.rec.Headers)}, true
	case "time":
		if s.rec.Time.IsZero() {
			return types.NullValue, true
		}
		return types.Timestamp{Time: s.rec.Time}, true
	case "op":
		return types.String(s.rec.Op), true
	case "meta":
		return mapping{metaMap{&s.rec.Meta}}, true
	}
	return nil, false
}

// Parent is nil: there are no other variables.
func (s *state) Parent() interpreter.Activation { return nil }
