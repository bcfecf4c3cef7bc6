package dsl

// ExprKind says what a CEL expression is for.
type ExprKind string

// The kinds of expression.
const (
	// Condition decides whether a record takes an edge.
	Condition ExprKind = "condition"
	// Filter decides whether a record stays.
	Filter ExprKind = "filter"
	// Map makes a new payload.
	Map ExprKind = "map"
)

// Options of Validate.
type Options struct {
	// MissingReference is the severity of a reference to a service that is not in the set. The default is Warning: it may be applied later.
	MissingReference Severity
	// CheckExpr checks one expression; nil checks none. The function Check of package expr fits. An error that has a method Position() (line, column int)
	// is shown at that place of the expression, both counted from 1.
	CheckExpr func(kind ExprKind, src string) error
}
