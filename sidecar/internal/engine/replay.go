package engine

import (
	"context"
	"fmt"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// verdict is the root of the settlement of one replayed record.
type verdict chan flow.Outcome

func (v verdict) Settle(_ uint64, _ int, o flow.Outcome) { v <- o }

// Inject puts the record of a letter into the stage at which it failed and blocks until it has settled. When it failed again, newLetter is
// the id of its new letter. An error says that the record was not taken, or that ctx ended and its end is not known.
func (e *Engine) Inject(ctx context.Context, letter *controlv1.Letter) (outcome linkv1.Outcome, newLetter uint64, err error) {
	pipeline := letter.GetNamespace() + "/" + letter.GetPipeline()
	var s *stage
	for _, candidate := range e.sorted() {
		if over, _ := candidate.over(); !over && candidate.key.pipeline == pipeline && candidate.key.stage == letter.GetStage() {
			s = candidate // of several generations the newest, since they are sorted
		}
	}
	if s == nil {
		return 0, 0, fmt.Errorf("stage %s of %s does not run on this sidecar", letter.GetStage(), pipeline)
	}
	if _, ok := s.work.(*source); ok {
		return 0, 0, fmt.Errorf("letter %d holds what source %s could not make a record of: correct it where it came from", letter.GetId(), letter.GetStage())
	}
	var w wire.Builder
	if err := w.AppendRecord(letter.GetRecord()); err != nil {
		return 0, 0, fmt.Errorf("letter %d: %w", letter.GetId(), err)
	}
	replay := &flow.Replay{Count: letter.GetReplays() + 1}
	lane := &flow.Lane{
		Pipeline: pipeline, Generation: s.key.generation, Source: letter.GetSource(), Stage: letter.GetStage(),
		Partition: letter.GetPartition(), Epoch: s.epoch, Replay: replay,
	}
	v := make(verdict, 1)
	b := flow.FromRoot(lane, w.Finish(), v, 1, []uint64{1}, []uint64{wire.HashKey(letter.GetRecord().GetKey())})
	b.From = letter.GetEdge()
	s.in.push(b)
	select {
	case o := <-v:
		return o.Proto(), replay.Letter.Load(), nil
	case <-ctx.Done():
		return 0, 0, fmt.Errorf("letter %d: %w", letter.GetId(), context.Cause(ctx))
	case <-s.done:
		return 0, 0, fmt.Errorf("letter %d: stage %s ended meanwhile", letter.GetId(), letter.GetStage())
	}
}
