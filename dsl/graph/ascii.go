package graph

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Width is the number of columns that ASCII keeps to.
const Width = 80

// ASCII draws the graphs as text of at most Width columns, each under its name: sources on top, an arrow for every edge, and below the drawing what the
// edges say. A graph that is too wide for boxes, or has a cycle, becomes a list of its stages and what they read from.
func ASCII(w io.Writer, graphs ...*Graph) error {
	var b bytes.Buffer
	for i, g := range graphs {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s\n\n", shorten("pipeline "+g.Pipeline.String(), Width))
		if l, ok := newLayout(g); ok {
			l.draw(&b)
		} else {
			list(&b, g)
		}
		notes(&b, g)
	}
	return write(w, &b)
}

func shorten(s string, width int) string {
	s = oneLine(s)
	if r := []rune(s); len(r) > width {
		return string(r[:max(0, width-3)]) + "..."[:min(3, width)]
	}
	return s
}

func list(b *bytes.Buffer, g *Graph) {
	for i := range g.Nodes {
		n := &g.Nodes[i]
		fmt.Fprintf(b, "  %s\n", shorten(fmt.Sprintf("%s (%s)", n.Name, n.what()), Width-2))
		for _, e := range g.In(n.Name) {
			fmt.Fprintf(b, "    %s\n", shorten("<- "+e.From, Width-4))
		}
	}
}

func notes(b *bytes.Buffer, g *Graph) {
	var lines []string
	for _, e := range g.Edges {
		if c := e.caption(); c != "" {
			lines = append(lines, fmt.Sprintf("%s -> %s: %s", e.From, e.To, c))
		}
	}
	if d := g.DeadLetter; d != nil {
		lines = append(lines, fmt.Sprintf("dead letters -> %s (%s)", d.Name, d.what()))
	}
	if lines != nil {
		b.WriteByte('\n')
	}
	for _, l := range lines {
		fmt.Fprintf(b, "  %s\n", shorten(l, Width-2))
	}
}

// box is a node in a layout, or a bend of an edge that passes a layer.
type box struct {
	name, what string
	bend       bool
	left, size int
	next       []*box
	order      float64
}

func (b *box) center() int { return b.left + b.size/2 }

// layout puts every node below all that feed it.
type layout struct {
	layers [][]*box
	canvas [][]rune
}

const (
	indent    = 2
	gap       = 2
	boxHeight = 4
	minText   = 8
	maxText   = 34
	// maxBends is the number of lines beside a layer from which on nobody can follow them.
	maxBends = 8
)

func newLayout(g *Graph) (*layout, bool) {
	names, ok := g.Order()
	if !ok || len(names) == 0 {
		return nil, false
	}
	depth := map[string]int{}
	deepest := 0
	for _, name := range names {
		for _, e := range g.In(name) {
			depth[name] = max(depth[name], depth[e.From]+1)
		}
		deepest = max(deepest, depth[name])
	}
	l := &layout{layers: make([][]*box, deepest+1)}
	boxes := map[string]*box{}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		boxes[n.Name] = &box{name: n.Name, what: n.what()}
		l.layers[depth[n.Name]] = append(l.layers[depth[n.Name]], boxes[n.Name])
	}
	type passage struct {
		from  string
		layer int
	}
	// All edges of a node that pass a layer pass it as one line.
	bends := map[passage]*box{}
	for _, e := range g.Edges {
		from := boxes[e.From]
		for d := depth[e.From] + 1; d < depth[e.To]; d++ {
			bend := bends[passage{e.From, d}]
			if bend == nil {
				bend = &box{bend: true}
				bends[passage{e.From, d}] = bend
				l.layers[d] = append(l.layers[d], bend)
				from.next = append(from.next, bend)
			}
			from = bend
		}
		if !slices.Contains(from.next, boxes[e.To]) {
			from.next = append(from.next, boxes[e.To])
		}
	}
	l.arrange()
	return l, l.place()
}

// arrange orders each layer by the mean place of its neighbours, which keeps most edges from crossing.
func (l *layout) arrange() {
	for sweep := range 8 {
		for i := 1; i < len(l.layers); i++ {
			if down := sweep%2 == 0; down {
				sortBy(l.layers[i], l.layers[i-1], func(below, above *box) bool { return slices.Contains(above.next, below) })
			} else {
				at := len(l.layers) - 1 - i
				sortBy(l.layers[at], l.layers[at+1], func(above, below *box) bool { return slices.Contains(above.next, below) })
			}
		}
	}
}

func sortBy(layer, fixed []*box, linked func(b, neighbour *box) bool) {
	for i, b := range layer {
		sum, count := 0, 0
		for j, f := range fixed {
			if linked(b, f) {
				sum, count = sum+j, count+1
			}
		}
		b.order = float64(i)
		if count > 0 {
			b.order = float64(sum) / float64(count)
		}
	}
	slices.SortStableFunc(layer, func(a, b *box) int {
		switch {
		case a.order < b.order:
			return -1
		case a.order > b.order:
			return 1
		}
		return 0
	})
}

// place gives each box its columns, layers centred; it reports false when a layer is too wide.
func (l *layout) place() bool {
	widest := 0
	widths := make([]int, len(l.layers))
	for i, layer := range l.layers {
		bends := 0
		for _, b := range layer {
			if b.bend {
				bends++
			}
		}
		text := maxText
		if n := len(layer) - bends; n > 0 {
			text = min(maxText, (Width-indent-bends-gap*(len(layer)-1))/n-4)
		}
		if text < minText {
			return false
		}
		x := 0
		for _, b := range layer {
			b.left, b.size = x, 1
			if !b.bend {
				b.name, b.what = shorten(b.name, text), shorten(b.what, text)
				b.size = 4 + max(utf8.RuneCountInString(b.name), utf8.RuneCountInString(b.what))
			}
			x += b.size + gap
		}
		if widths[i] = x - gap; widths[i] > Width-indent || bends > maxBends {
			return false
		}
		widest = max(widest, widths[i])
	}
	for i, layer := range l.layers {
		for _, b := range layer {
			b.left += (widest - widths[i]) / 2
		}
	}
	// A line that is one column off looks like a mistake.
	for i := 1; i < len(l.layers); i++ {
		for _, above := range l.layers[i-1] {
			if len(above.next) == 1 && len(l.layers[i]) == 1 && len(l.layers[i-1]) == 1 {
				below := above.next[0]
				if d := above.center() - below.center(); abs(d) == 1 && below.left+d >= 0 && below.left+d+below.size <= Width-indent {
					below.left += d
				}
			}
		}
	}
	return true
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}

func (l *layout) draw(b *bytes.Buffer) {
	y := 0
	for i, layer := range l.layers {
		for _, bx := range layer {
			l.box(bx, y)
		}
		y += boxHeight
		if i+1 < len(l.layers) {
			y = l.links(layer, y)
		}
	}
	for _, row := range l.canvas {
		b.WriteString(strings.TrimRight(strings.Repeat(" ", indent)+string(row), " "))
		b.WriteByte('\n')
	}
}

func (l *layout) set(x, y int, r rune) {
	for len(l.canvas) <= y {
		l.canvas = append(l.canvas, nil)
	}
	for len(l.canvas[y]) <= x {
		l.canvas[y] = append(l.canvas[y], ' ')
	}
	l.canvas[y][x] = r
}

func (l *layout) text(x, y int, s string) {
	for _, r := range s {
		l.set(x, y, r)
		x++
	}
}

func (l *layout) box(b *box, y int) {
	if b.bend {
		for i := range boxHeight {
			l.set(b.left, y+i, '|')
		}
		return
	}
	border := "+" + strings.Repeat("-", b.size-2) + "+"
	l.text(b.left, y, border)
	for i, s := range []string{b.name, b.what} {
		l.text(b.left, y+1+i, fmt.Sprintf("| %s%s |", s, strings.Repeat(" ", b.size-4-utf8.RuneCountInString(s))))
	}
	l.text(b.left, y+3, border)
}

// links draws the edges below a layer, each box's on a row of its own, and returns the row where the next layer begins.
func (l *layout) links(layer []*box, y int) int {
	rows := trackOrder(layer)
	bottom := y + len(rows) + 1
	type joint struct{ x, y int }
	var joints []joint
	row := func(b *box) int { return y + 1 + slices.Index(rows, b) }
	for _, b := range rows {
		at := row(b)
		low, high := b.center(), b.center()
		for _, n := range b.next {
			low, high = min(low, n.center()), max(high, n.center())
			joints = append(joints, joint{n.center(), at})
		}
		for x := low; x <= high; x++ {
			l.set(x, at, '-')
		}
		joints = append(joints, joint{b.center(), at})
	}
	for _, b := range layer {
		straight := !slices.Contains(rows, b)
		for _, n := range b.next {
			from := y
			if !straight {
				from = row(b) + 1
			}
			for at := from; at <= bottom; at++ {
				l.set(n.center(), at, '|')
			}
			if !n.bend {
				l.set(n.center(), bottom, 'v')
			}
		}
		for at := y; !straight && at < row(b); at++ {
			l.set(b.center(), at, '|')
		}
	}
	for _, j := range joints {
		l.set(j.x, j.y, '+')
	}
	return bottom + 1
}

// trackOrder lists the boxes whose edges need a row, so that no line runs down through the column where another one turns towards the same column.
func trackOrder(layer []*box) []*box {
	var open []*box
	for _, b := range layer {
		if len(b.next) > 1 || len(b.next) == 1 && b.next[0].center() != b.center() {
			open = append(open, b)
		}
	}
	var rows []*box
	for len(open) > 0 {
		pick := slices.IndexFunc(open, func(b *box) bool {
			return !slices.ContainsFunc(open, func(other *box) bool {
				return other != b && slices.ContainsFunc(b.next, func(n *box) bool {
					return n.center() == other.center() && !slices.Contains(other.next, n)
				})
			})
		})
		pick = max(pick, 0)
		rows = append(rows, open[pick])
		open = slices.Delete(open, pick, pick+1)
	}
	return rows
}
