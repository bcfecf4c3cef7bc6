package dsl

import (
	"errors"
	"fmt"
	"strings"
)

// Severity says whether a diagnostic stops the work.
type Severity string

// The severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Diagnostic is one finding about a manifest, with its place. Lines and columns count from 1, columns in characters; they are 0 where the manifest did not
// come from a text.
type Diagnostic struct {
	// Code names the kind of finding, such as "CV0107". See Codes.
	Code string `json:"code"`
	// Severity is error or warning.
	Severity Severity `json:"severity"`
	// File is the path of the file as it was given, or "-" for standard input.
	File string `json:"file,omitempty"`
	// Line is the line in File.
	Line int `json:"line,omitempty"`
	// Column is the first column of the faulty text.
	Column int `json:"column,omitempty"`
	// EndColumn is the column after the faulty text.
	EndColumn int `json:"endColumn,omitempty"`
	// Path is the field, such as "spec.steps[1]".
	Path string `json:"path,omitempty"`
	// Message says what is wrong, in one line.
	Message string `json:"message"`
	// Label is shown beside the underlined text; it may be empty.
	Label string `json:"label,omitempty"`
	// Suggestion says what to do about it; it may be empty.
	Suggestion string `json:"suggestion,omitempty"`
	// Related are other places that the finding is about, such as the first of two duplicates.
	Related []Related `json:"related,omitempty"`
	// Fix is an edit that removes the finding, where there is one.
	Fix *Fix `json:"fix,omitempty"`
}

// Related is another place that a diagnostic is about.
type Related struct {
	// File, Line and Column are the place, as in Diagnostic.
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	// Message says what is there.
	Message string `json:"message"`
}

// Fix replaces the text from Column up to EndColumn in a line of the diagnostic's file.
type Fix struct {
	// Line, Column and EndColumn are the text to replace, as in Diagnostic.
	Line      int `json:"line"`
	Column    int `json:"column"`
	EndColumn int `json:"endColumn"`
	// NewText takes its place.
	NewText string `json:"newText"`
}

// Error is the diagnostic in one line, so that a Diagnostic can be returned as an error.
func (d Diagnostic) Error() string {
	var b strings.Builder
	if d.File != "" {
		fmt.Fprintf(&b, "%s:", d.File)
		if d.Line > 0 {
			fmt.Fprintf(&b, "%d:%d:", d.Line, d.Column)
		}
		b.WriteByte(' ')
	}
	fmt.Fprintf(&b, "%s[%s]: %s", d.Severity, d.Code, d.Message)
	if d.Suggestion != "" {
		fmt.Fprintf(&b, " (%s)", d.Suggestion)
	}
	return b.String()
}

// HasErrors reports whether any of the diagnostics is an error.
func HasErrors(diags []Diagnostic) bool {
	for _, d := range diags {
		if d.Severity == Error {
			return true
		}
	}
	return false
}

// Err joins the errors among the diagnostics to one Go error, or returns nil if there is none. Warnings are left out.
func Err(diags []Diagnostic) error {
	var errs []error
	for _, d := range diags {
		if d.Severity == Error {
			errs = append(errs, d)
		}
	}
	return errors.Join(errs...)
}
