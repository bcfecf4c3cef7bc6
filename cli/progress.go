package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/cli/internal/terminal"
)

// progressEvery is how often a line is printed where it cannot be drawn again.
const progressEvery = 5 * time.Second

// progress shows how far something is: on a terminal as lines that are drawn again, elsewhere as lines every few seconds.
type progress struct {
	w     io.Writer
	term  *terminal.Terminal
	drawn int
	last  time.Time
}

func newProgress(w io.Writer, term *terminal.Terminal) *progress {
	return &progress{w: w, term: term, last: time.Now()}
}

// show replaces what is shown by these lines.
func (p *progress) show(lines ...string) {
	if !p.term.TTY {
		if time.Since(p.last) < progressEvery {
			return
		}
		p.last = time.Now()
		for _, l := range lines {
			say(p.w, "%s", l)
		}
		return
	}
	var b strings.Builder
	p.erase(&b)
	width := p.term.Width()
	for _, l := range lines {
		b.WriteString(output.Cut(l, width-1) + "\n")
	}
	p.drawn = len(lines)
	_, _ = io.WriteString(p.w, b.String())
}

// end takes away what was drawn.
func (p *progress) end() {
	var b strings.Builder
	p.erase(&b)
	p.drawn = 0
	_, _ = io.WriteString(p.w, b.String())
}

func (p *progress) erase(b *strings.Builder) {
	if p.drawn > 0 {
		fmt.Fprintf(b, "\x1b[%dA\x1b[J", p.drawn)
	}
}
