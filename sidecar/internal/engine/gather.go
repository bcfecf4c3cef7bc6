package engine

import (
	"context"

	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/dispatch"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// finish lets go on, or settles, inputs that the service is done with.
func (w *service) finish(ctx context.Context, step dispatch.Step) error {
	g := gathering{w: w, answer: step.Request.Response.(*answer)}
	at := 0
	for _, in := range step.Request.Inputs {
		n := in.Len()
		from, to := max(at, step.From), min(at+n, step.To)
		if from < to {
			b, i := in.Batch, in.From+from-at
			if in.Item != nil {
				b, i = in.Item.Batch, in.Item.Index
			}
			if err := g.add(ctx, b, i, from, to); err != nil {
				return err
			}
		}
		at += n
	}
	return g.flush(ctx)
}

// letGo frees the answers of which nothing is left after the steps. It comes behind all of them: several may be about one request.
func letGo(steps []dispatch.Step) {
	for _, step := range steps {
		if step.Kind != dispatch.Finish || step.Request.Open() > 0 {
			continue
		}
		if a := step.Request.Response.(*answer); a.batch != nil {
			a.batch.Free()
			a.batch = nil
		}
	}
}

// gathering puts the outputs of inputs into batches of one lane and one route.
type gathering struct {
	w       *service
	answer  *answer
	lane    *flow.Lane
	route   []string
	builder *flow.Builder
	parts   int      // batches so far
	runs    [][2]int // of the answer's batch
}

// add takes in that the inputs from..to-1 of a request, which are the records of b from index i on, are done.
func (g *gathering) add(ctx context.Context, b *flow.Batch, i, from, to int) error {
	if !g.w.port.passesOn() {
		g.w.s.recordsOut.Add(uint64(to - from))
		b.Settle(i, i+to-from, flow.Acknowledged)
		return nil
	}
	for _, o := range g.answer.outs {
		f, t := max(from, o.from), min(to, o.to)
		if f >= t {
			continue
		}
		k := i + f - from
		if o.filtered {
			b.Settle(k, k+t-f, flow.Filtered)
			continue
		}
		if g.builder != nil && (g.lane != b.Lane || !equal(g.route, o.route)) {
			if err := g.flush(ctx); err != nil {
				return err
			}
		}
		if g.builder == nil {
			room := g.answer.batch.Len() - o.first
			if g.parts > 0 {
				room = (t - f) * o.each // lanes or routes take turns, and may do so at every record
			}
			g.lane, g.route, g.builder = b.Lane, o.route, flow.NewBuilder(b.Lane, room)
		}
		if o.each == 1 {
			g.builder.Same(b, k, k+t-f)
		} else {
			for n := range t - f {
				g.builder.Children(b, k+n, o.each)
			}
		}
		first := o.first + (f-o.from)*o.each
		last := first + (t-f)*o.each
		if n := len(g.runs); n > 0 && g.runs[n-1][1] == first {
			g.runs[n-1][1] = last
		} else {
			g.runs = append(g.runs, [2]int{first, last})
		}
	}
	return nil
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func (g *gathering) flush(ctx context.Context) error {
	if g.builder == nil {
		return nil
	}
	var records *wire.Batch
	if len(g.runs) == 1 {
		records = g.answer.batch.Slice(g.runs[0][0], g.runs[0][1])
	} else {
		var b wire.Builder
		for _, run := range g.runs {
			b.AppendRun(g.answer.batch, run[0], run[1])
		}
		records = b.Finish()
	}
	batch := g.builder.Finish(records)
	g.parts++
	g.builder, g.runs = nil, nil
	return g.w.s.emit(ctx, batch, g.route)
}
