package dsl

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/conveyor-etl/conveyor/dsl/internal/yamlsrc"
)

// Render writes diagnostics for people, each with its source line underlined. source gives the text of a file, or nil where there is none (Set.Source fits).
// color adds terminal colours. Whatever the files hold, nothing but printable text is written.
func Render(w io.Writer, diags []Diagnostic, source func(file string) []byte, color bool) error {
	r := renderer{texts: map[string]*yamlsrc.Text{}, source: source, color: color}
	for i, d := range diags {
		if i > 0 {
			r.b.WriteByte('\n')
		}
		r.diagnostic(d)
	}
	if _, err := w.Write(r.b.Bytes()); err != nil {
		return fmt.Errorf("write diagnostics: %w", err)
	}
	return nil
}

type renderer struct {
	b      bytes.Buffer
	texts  map[string]*yamlsrc.Text
	source func(file string) []byte
	color  bool
	// line is the last line that was shown, and runes is what of it can be printed: findings share lines, and lines can be long.
	line  string
	runes []rune
}

const (
	red    = "\x1b[1;31m"
	yellow = "\x1b[1;33m"
	blue   = "\x1b[1;34m"
	bold   = "\x1b[1m"
	reset  = "\x1b[0m"
)

func (r *renderer) paint(color, s string) string {
	if !r.color || s == "" {
		return s
	}
	return color + s + reset
}

func (r *renderer) diagnostic(d Diagnostic) {
	tone := red
	if d.Severity == Warning {
		tone = yellow
	}
	fmt.Fprintf(&r.b, "%s%s\n", r.paint(tone, fmt.Sprintf("%s[%s]", d.Severity, d.Code)), r.paint(bold, ": "+printable(d.Message)))
	line := ""
	if d.Line > 0 {
		line = r.text(d.File).Line(d.Line)
	}
	gutter := strings.Repeat(" ", len(fmt.Sprint(d.Line)))
	switch {
	case d.File != "" && d.Line > 0:
		fmt.Fprintf(&r.b, "%s %s:%d:%d\n", r.paint(blue, gutter+"-->"), printable(d.File), d.Line, d.Column)
	case d.File != "":
		fmt.Fprintf(&r.b, "%s %s\n", r.paint(blue, gutter+"-->"), printable(d.File))
	case d.Path != "":
		fmt.Fprintf(&r.b, "%s %s\n", r.paint(blue, gutter+"-->"), printable(d.Path))
	}
	if line != "" {
		if line != r.line {
			r.line, r.runes = line, []rune(printable(line))
		}
		shown, column, width := window(r.runes, d.Column, d.EndColumn)
		fmt.Fprintf(&r.b, "%s %s\n", r.paint(blue, fmt.Sprintf("%d |", d.Line)), shown)
		mark := strings.Repeat("^", width)
		if d.Label != "" {
			mark += " " + printable(d.Label)
		}
		fmt.Fprintf(&r.b, "%s %s%s\n", r.paint(blue, gutter+" |"), strings.Repeat(" ", column), r.paint(tone, mark))
	} else if d.Label != "" {
		fmt.Fprintf(&r.b, "%s %s\n", r.paint(blue, gutter+" ="), printable(d.Label))
	}
	for _, rel := range d.Related {
		at := ""
		if rel.Line > 0 {
			at = fmt.Sprintf("%s:%d:%d: ", printable(rel.File), rel.Line, rel.Column)
		}
		fmt.Fprintf(&r.b, "%s note: %s%s\n", r.paint(blue, gutter+" ="), at, printable(rel.Message))
	}
	if d.Suggestion != "" {
		fmt.Fprintf(&r.b, "%s help: %s\n", r.paint(blue, gutter+" ="), printable(d.Suggestion))
	}
}

func (r *renderer) text(file string) *yamlsrc.Text {
	t, ok := r.texts[file]
	if !ok {
		var data []byte
		if r.source != nil {
			data = r.source(file)
		}
		t = yamlsrc.NewText(data)
		r.texts[file] = t
	}
	return t
}

const windowWidth = 160

// window cuts a long line to the part around the marked columns. It returns that part, the marks' offset in it and their width.
func window(runes []rune, column, end int) (shown string, offset, width int) {
	start := min(max(column-1, 0), len(runes))
	width = max(1, min(end-1, len(runes))-start)
	if len(runes) <= windowWidth {
		return string(runes), start, width
	}
	from := max(0, start-windowWidth/3)
	to := min(len(runes), from+windowWidth)
	shown, offset = string(runes[from:to]), start-from
	if from > 0 {
		shown, offset = "…"+shown, offset+1
	}
	if to < len(runes) {
		shown += "…"
	}
	return shown, offset, min(width, max(1, utf8.RuneCountInString(shown)-offset))
}

// printable replaces what a terminal would act on, character by character.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || unicode.Is(unicode.Zs, r):
			return ' '
		case !unicode.IsPrint(r):
			return '\uFFFD'
		}
		return r
	}, s)
}
