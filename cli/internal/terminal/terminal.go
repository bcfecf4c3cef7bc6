// Package terminal knows what an output can show: colour, a cursor that moves, a width.
package terminal

import (
	"io"
	"os"

	"golang.org/x/term"
)

// DefaultWidth is the width of what is no terminal.
const DefaultWidth = 80

// Terminal is what is known of one output.
type Terminal struct {
	// TTY says that a person looks at it.
	TTY bool
	// Color says that it may be coloured.
	Color bool
	fd    int
}

// New looks at an output. Colour is used on a terminal unless NO_COLOR is set or TERM is dumb.
func New(w any, getenv func(string) string) *Terminal {
	t := &Terminal{fd: -1}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		t.TTY, t.fd = true, int(f.Fd())
	}
	t.Color = t.TTY && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
	return t
}

// Interactive reports whether a person can be asked: questions go to out, answers come from in.
func Interactive(in io.Reader, out *Terminal) bool {
	f, ok := in.(*os.File)
	return ok && out.TTY && term.IsTerminal(int(f.Fd()))
}

// Width is the number of columns.
func (t *Terminal) Width() int {
	if t.fd >= 0 {
		if w, _, err := term.GetSize(t.fd); err == nil && w > 0 {
			return w
		}
	}
	return DefaultWidth
}

// Red marks an error where colour is shown, as the others do their kind of text.
func (t *Terminal) Red(s string) string { return t.style("1;31", s) }

// Yellow marks a warning.
func (t *Terminal) Yellow(s string) string { return t.style("1;33", s) }

// Green marks what is well.
func (t *Terminal) Green(s string) string { return t.style("32", s) }

// Bold marks a heading.
func (t *Terminal) Bold(s string) string { return t.style("1", s) }

func (t *Terminal) style(code, s string) string {
	if !t.Color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}
