// Package expr compiles and runs the CEL expressions of manifests over records.
package expr

import (
	"fmt"

	"github.com/conveyor-etl/conveyor/dsl"
)

// Kind says what an expression is for; it decides which types its result may have.
type Kind = dsl.ExprKind

// The kinds of expression.
const (
	Condition = dsl.Condition
	Filter    = dsl.Filter
	Map       = dsl.Map
)

// SyntaxError is a fault in the text of an expression.
type SyntaxError struct {
	// Line and Column are the place in the text, counted from 1, columns in characters.
	Line, Column int
	// Msg says what is wrong, in one line.
	Msg string
}

// Error is the message with its place.
func (e *SyntaxError) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Msg) }

// Message is the message without the place.
func (e *SyntaxError) Message() string { return e.Msg }

// Position is the place of the fault, counted from 1.
func (e *SyntaxError) Position() (line, column int) { return e.Line, e.Column }
