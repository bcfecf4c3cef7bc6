package cli

import (
	"time"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
)

// progressEvery is how often a line is printed where it cannot be drawn again.
const progressEvery = 5 * time.Second

// progress shows how far something is: on a terminal as lines that are drawn again, elsewhere as lines every few seconds.
type progress struct {
	app  *app
	last time.Time
}

func (a *app) newProgress() *progress { return &progress{app: a, last: time.Now()} }

// show replaces what is shown by these lines.
func (p *progress) show(lines ...string) {
	if p.app.err.TTY {
		width := p.app.err.Width()
		cut := make([]string, len(lines))
		for i, l := range lines {
			cut[i] = output.Cut(l, width-1)
		}
		p.app.screen.draw(cut...)
		return
	}
	if time.Since(p.last) < progressEvery {
		return
	}
	p.last = time.Now()
	for _, l := range lines {
		say(p.app.env.Stderr, "%s", l)
	}
}

// end takes away what was drawn.
func (p *progress) end() { p.app.screen.draw() }
