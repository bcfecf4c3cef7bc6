package engine

import (
	"context"
	"slices"
	"time"

	"github.com/conveyor-etl/conveyor/dsl/expr"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/dispatch"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// emit hands a batch to the edges of the stage that take its records, and blocks while they have no credit. The stage gives the batch up.
// Records that no edge takes are settled as unrouted. route, if not empty, names the only stages that are offered the records. On an error,
// which says that ctx has ended, part of the batch has not been handed on and will not settle.
func (s *stage) emit(ctx context.Context, b *flow.Batch, route []string) error {
	s.recordsOut.Add(uint64(b.Len()))
	if len(s.out) == 1 && s.out[0].when == nil && len(route) == 0 {
		out := s.out[0]
		err := out.put(ctx, b)
		return err
	}
	takers, failed := s.takers(b, route)
	defer b.Drop()
	n := b.Len()
	for i := range n {
		count := 0
		for _, t := range takers {
			if t[i] {
				count++
			}
		}
		switch {
		case failed[i] != nil:
			// Every edge whose condition failed buries the record by itself.
			if extra := count + len(failed[i]) - 1; extra > 0 {
				b.Branch(i, extra)
			}
		case count == 0:
			b.Settle(i, i+1, flow.Unrouted)
		case count > 1:
			b.Branch(i, count-1)
		}
	}
	for i, faults := range failed {
		for _, f := range faults {
			letter := s.letter(b, b.Records.Record(i), f.to, s.key.stage, f.failure, nil)
			if err := s.buryPaid(ctx, letter, burial{batch: b, index: i, lane: b.Lane, stage: s}); err != nil {
				return err
			}
		}
	}
	for k, out := range s.out {
		if part := pickRecords(b, takers[k]); part != nil {
			if err := out.put(ctx, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// fault is a condition that could not be evaluated, and the stage behind it.
type fault struct {
	to      string
	failure dispatch.Failure
}

// takers evaluates the conditions of the edges: which edge takes which record.
func (s *stage) takers(b *flow.Batch, route []string) (takers [][]bool, failed map[int][]fault) {
	takers = make([][]bool, len(s.out))
	failed = make(map[int][]fault)
	var view *view
	for k, out := range s.out {
		takes := make([]bool, b.Len())
		takers[k] = takes
		if len(route) > 0 && !slices.Contains(route, out.to) {
			continue
		}
		for i := range takes {
			if out.when == nil {
				takes[i] = true
				continue
			}
			if view == nil {
				view = newView(s)
			}
			rec, err := view.of(b, i)
			if err == nil {
				takes[i], err = out.when.Test(rec)
			}
			if err != nil {
				failed[i] = append(failed[i], fault{out.to, dispatch.Failure{Class: dispatch.Permanent, Code: "CONDITION_FAILED", Message: err.Error()}})
			}
		}
	}
	return takers, failed
}

// pickRecords returns the batch of the records of b that are taken: under a node of its own, with the same memory if all are; nil if none.
func pickRecords(b *flow.Batch, takes []bool) *flow.Batch {
	w := flow.NewBuilder(b.Lane, b.Len())
	var records wire.Builder
	for from := 0; from < len(takes); {
		if !takes[from] {
			from++
			continue
		}
		to := from + 1
		for to < len(takes) && takes[to] {
			to++
		}
		w.Same(b, from, to)
		if to-from == len(takes) {
			b.Records.Ref()
			return w.Finish(b.Records)
		}
		records.AppendRun(b.Records, from, to)
		from = to
	}
	if w.Len() == 0 {
		return nil
	}
	return w.Finish(records.Finish())
}

// view shows encoded records to expressions. It is not safe for concurrent use.
type view struct {
	record conveyorv1.Record
	shown  expr.Record
}

func newView(s *stage) *view {
	return &view{shown: expr.Record{Meta: expr.Meta{Pipeline: s.key.pipeline, Stage: s.key.stage}}}
}

// of decodes record i of a batch. What it returns is valid until the next call or until the batch is dropped.
func (v *view) of(b *flow.Batch, i int) (*expr.Record, error) {
	if err := v.decode(b.Records.Record(i)); err != nil {
		return nil, err
	}
	r := &v.record
	v.shown.Payload, v.shown.ContentType, v.shown.Key = r.Payload, r.ContentType, r.Key
	v.shown.Headers = v.shown.Headers[:0]
	for _, h := range r.Headers {
		v.shown.Headers = append(v.shown.Headers, expr.Header{Key: h.Name, Value: h.Value})
	}
	v.shown.Time = time.Time{}
	if r.EventTimeUnixNano != 0 {
		v.shown.Time = time.Unix(0, r.EventTimeUnixNano).UTC()
	}
	v.shown.Op = operations[r.Operation]
	v.shown.Meta.ID = r.Id
	v.shown.Meta.Lane = b.Lane.Source + "/" + b.Lane.Partition
	return &v.shown, nil
}

func (v *view) decode(record []byte) error {
	v.record.Reset()
	return v.record.UnmarshalVTUnsafe(record)
}

var operations = map[conveyorv1.Operation]string{
	conveyorv1.Operation_OPERATION_CREATE:   "create",
	conveyorv1.Operation_OPERATION_UPDATE:   "update",
	conveyorv1.Operation_OPERATION_DELETE:   "delete",
	conveyorv1.Operation_OPERATION_SNAPSHOT: "snapshot",
}
