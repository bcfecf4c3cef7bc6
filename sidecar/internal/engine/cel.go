package engine

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/conveyor-etl/conveyor/dsl/expr"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/dispatch"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// cel is the work of a stage that filters or maps records by an expression, inside the sidecar.
type cel struct {
	s      *stage
	filter *expr.Program
	mapper *expr.Program
	busy   atomic.Int64
	view   *view
	json   []byte
}

func newCel(s *stage, work *controlv1.CelWork) (*cel, error) {
	w := &cel{s: s, view: newView(s)}
	var err error
	if src := work.GetFilter(); src != "" {
		if w.filter, err = expr.Compile(expr.Filter, src); err != nil {
			return nil, fmt.Errorf("filter of stage %s: %w", s.key.stage, err)
		}
	}
	if src := work.GetMap(); src != "" {
		if w.mapper, err = expr.Compile(expr.Map, src); err != nil {
			return nil, fmt.Errorf("map of stage %s: %w", s.key.stage, err)
		}
	}
	return w, nil
}

func (w *cel) inFlight() int { return int(w.busy.Load() + w.s.burying.Load()) }

func (w *cel) run(ctx context.Context) {
	w.s.setOpen(true)
	for {
		batches := w.s.in.take(&w.busy)
		for _, b := range batches {
			w.s.recordsIn.Add(uint64(b.Len()))
			err := w.process(ctx, b)
			w.busy.Add(-int64(b.Len()))
			if err != nil {
				return
			}
		}
		if len(batches) > 0 {
			continue
		}
		if over, completed := w.s.inputOver(); over {
			if w.s.outputIdle() {
				w.s.finish(ctx, completed)
				return
			}
			if !sleep(ctx, restPoll) {
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-w.s.in.ready:
		}
	}
}

// process evaluates the expression for every record of a batch and hands on what it gives. A record whose evaluation errs is buried.
func (w *cel) process(ctx context.Context, b *flow.Batch) error {
	out := flow.NewBuilder(b.Lane, b.Len())
	var records wire.Builder
	kept := 0 // start of the run of records that go on as they are
	flush := func(to int) {
		if kept < to {
			out.Same(b, kept, to)
			if w.mapper == nil {
				records.AppendRun(b.Records, kept, to)
			}
		}
		kept = to + 1
	}
	dropped := 0 // start of the run of records that the filter dropped
	settle := func(to int) {
		b.Settle(dropped, to, flow.Filtered)
		dropped = to + 1
	}
	for i := range b.Len() {
		keep, err := w.evaluate(b, i, &records)
		switch {
		case err != nil:
			flush(i)
			settle(i)
			f := dispatch.Failure{Class: dispatch.Permanent, Code: "EXPRESSION_FAILED", Message: err.Error()}
			letter := w.s.letter(b, b.Records.Record(i), w.s.key.stage, b.From, f, nil)
			w.s.e.letters.bury(letter, burial{batch: b, index: i, lane: b.Lane, stage: w.s})
		case keep:
			settle(i)
		default:
			flush(i)
		}
	}
	settle(b.Len())
	flush(b.Len())
	if out.Len() == 0 {
		b.Drop()
		return nil
	}
	if w.mapper == nil && out.Len() == b.Len() {
		b.Records.Ref()
		batch := out.Finish(b.Records)
		b.Drop()
		return w.s.emit(ctx, batch, nil)
	}
	b.Drop()
	return w.s.emit(ctx, out.Finish(records.Finish()), nil)
}

// evaluate runs the expression on one record. A map appends the new record.
func (w *cel) evaluate(b *flow.Batch, i int, records *wire.Builder) (keep bool, err error) {
	shown, err := w.view.of(b, i)
	if err != nil {
		return false, err
	}
	if w.filter != nil {
		keep, err = w.filter.Test(shown)
		if err != nil || !keep || w.mapper == nil {
			return keep, err
		}
	}
	if w.json, err = w.mapper.Map(w.json[:0], shown); err != nil {
		return false, err
	}
	r := &w.view.record
	r.Payload, r.ContentType, r.Schema = w.json, "application/json", ""
	if err := records.AppendRecord(r); err != nil {
		return false, err
	}
	return true, nil
}
