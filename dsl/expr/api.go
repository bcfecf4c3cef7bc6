package expr

import "errors"

// Program is a compiled expression. It is safe for concurrent use.
type Program struct{}

var errUnready = errors.New("expressions are not built in yet")

// Compile parses and type-checks an expression. The error is a *SyntaxError when the text is at fault.
func Compile(kind Kind, src string) (*Program, error) { return nil, errUnready }

// Check reports what is wrong with an expression. It fits dsl.Options.CheckExpr.
func Check(kind Kind, src string) error { return errUnready }

// Uses reports whether the expression reads the variable, such as "headers": a caller may leave unset what it does not read.
func (p *Program) Uses(variable string) bool { return true }

// Test runs a condition or a filter.
func (p *Program) Test(rec *Record) (bool, error) { return false, errUnready }

// Map runs a map and appends its result to dst as compact JSON.
func (p *Program) Map(dst []byte, rec *Record) ([]byte, error) { return nil, errUnready }
