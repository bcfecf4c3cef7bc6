package engine

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

// How letters are read for a pipeline's own dead-letter sink.
const (
	lettersAtOnce = 256
	lettersEvery  = 500 * time.Millisecond
)

// newLetterSource returns the source that reads the pipeline's dead letters for its dlq sink: a lane like any other, whose position is the
// id of the last letter.
func newLetterSource(s *stage) *source { return newSource(s, nil) }

// readLetters reads letters until a drain, or until the pipeline has none left and will get no more.
func (w *source) readLetters(ctx context.Context, r *reading) (exhausted bool, err error) {
	namespace, name, _ := strings.Cut(w.s.key.pipeline, "/")
	after := uint64(0)
	if p := r.resume(); len(p) > 0 {
		if after, err = strconv.ParseUint(string(p), 10, 64); err != nil {
			return false, fmt.Errorf("the stored position %q is not the id of a letter: %w", p, err)
		}
	}
	for {
		// The order matters: what ends the lane must have been true before the store was found empty.
		finish := w.s.assignment().GetSpec().GetDeadLetters().GetFinish()
		letters, err := w.s.e.cfg.Control.ReadLetters(ctx, namespace, name, after, lettersAtOnce)
		if err != nil {
			return false, err
		}
		w.s.setOpen(true)
		r.setProblem("")
		var b wire.Builder
		for _, l := range letters {
			after = l.GetId()
			if w.feeds(l.GetStage()) {
				continue // a letter that the sink itself refused: it would only come back
			}
			if err := b.AppendRecord(letterRecord(l)); err != nil {
				return false, fmt.Errorf("letter %d: %w", after, err)
			}
		}
		if b.Len() > 0 {
			if err := r.take(ctx, b.Finish()); err != nil {
				return false, err
			}
		}
		select {
		case <-w.s.drained:
			return false, nil
		default:
		}
		if len(letters) == lettersAtOnce {
			continue
		}
		if len(letters) == 0 && finish {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-w.s.drained:
		case <-time.After(lettersEvery):
		}
	}
}

// feeds reports whether a stage is behind this one.
func (w *source) feeds(stage string) bool {
	return slices.ContainsFunc(w.s.out, func(out *edge) bool { return out.to == stage })
}

// letterRecord is a dead letter as its sink gets it: the record, with what happened to it in its headers.
func letterRecord(l *controlv1.Letter) *conveyorv1.Record {
	r := proto.CloneOf(l.GetRecord())
	r.Position = strconv.AppendUint(nil, l.GetId(), 10)
	for _, h := range [][2]string{
		{"conveyor-letter", strconv.FormatUint(l.GetId(), 10)},
		{"conveyor-pipeline", l.GetNamespace() + "/" + l.GetPipeline()},
		{"conveyor-stage", l.GetStage()},
		{"conveyor-code", l.GetCode()},
		{"conveyor-message", l.GetMessage()},
		{"conveyor-attempts", strconv.Itoa(len(l.GetAttempts()))},
	} {
		r.Headers = append(r.Headers, &conveyorv1.Header{Name: h[0], Value: []byte(h[1])})
	}
	return r
}
