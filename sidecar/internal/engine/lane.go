package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/dispatch"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
	"github.com/conveyor-etl/conveyor/sidecar/internal/lane"
)

// errFenced ends a lane that has a newer owner.
var errFenced = errors.New("the lane has a newer owner")

// reading is one lane that is read here: it numbers what comes, hands it to the stage's edges, and has its checkpoints stored.
type reading struct {
	s         *stage
	partition string
	lane      *flow.Lane
	tracker   *lane.Tracker
	cancel    context.CancelCauseFunc
	moved     chan struct{} // something settled or was stored
	saved     chan struct{} // there is something new to commit

	mu sync.Mutex
	// start is the position up to which everything had settled when the reading began.
	start []byte
	// opened is the position that the source chose to begin at, until it is stored.
	opened []byte
	// storedPosition and storedSequence are those of the last checkpoint that the router took.
	storedPosition []byte
	storedSequence uint64
	// finishing says that nothing more is read: the last checkpoint closes the lane, for good if exhausted.
	finishing bool
	exhausted bool
	// closed says that the last checkpoint is stored.
	closed   bool
	problem  string
	unstored bool // the problem is that the router does not take checkpoints
	// precede and ordinal number the records without position, which lie inside a larger unit.
	precede []byte
	ordinal int
}

// newReading makes the reading of a lane that begins at a checkpoint; resumed says that an earlier process has read it in the same epoch.
func newReading(s *stage, partition string, start *controlv1.Checkpoint, resumed bool) *reading {
	r := &reading{
		s: s, partition: partition, moved: make(chan struct{}, 1), saved: make(chan struct{}, 1), start: start.GetPosition(), storedPosition: start.GetPosition(),
		lane: &flow.Lane{
			Pipeline: s.key.pipeline, Generation: s.key.generation, Source: s.spec.GetService(), Stage: s.key.stage, Partition: partition, Epoch: s.epoch,
		},
	}
	base := uint64(0)
	if resumed {
		base = lane.Base(s.e.cfg.Boot) // I25: no sequence twice in an epoch.
	}
	r.tracker = lane.NewTracker(base, func() {
		s.e.checkpoints.report(r)
		signal(r.moved)
	})
	return r
}

// resume returns the position behind which to read on: the last one up to which everything has settled.
func (r *reading) resume() []byte {
	if p := r.tracker.Last(); len(p.Position) > 0 {
		return p.Position
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.opened) > 0 {
		return r.opened
	}
	return r.start
}

// begin makes the position at which the source begins durable, before anything read behind it goes on: "latest" must not move when this
// sidecar dies.
func (r *reading) begin(ctx context.Context, position []byte) error {
	if len(position) > maxPosition {
		return fmt.Errorf("the position at which it begins has %d bytes, at most %d are allowed", len(position), maxPosition)
	}
	// Inside a unit that is read again the ordinals, and with them the ids, are the same again.
	r.precede, r.ordinal = bytes.Clone(r.resume()), 0
	// I5: stored before anything leaves.
	if len(position) == 0 || bytes.Equal(position, r.precede) {
		return nil
	}
	r.precede = bytes.Clone(position)
	r.mu.Lock()
	r.opened, r.start = position, position
	r.mu.Unlock()
	r.s.e.checkpoints.hurry(r)
	for {
		r.mu.Lock()
		stored := r.opened == nil
		r.mu.Unlock()
		if stored {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.moved:
		}
	}
}

// take numbers the records of a batch from the source, whose reference it takes over, and hands them on. It blocks while the edges have no
// credit, and while the lane is as far ahead of its oldest unsettled record as it may be.
func (r *reading) take(ctx context.Context, records *wire.Batch) error {
	n := records.Len()
	positions := make([]byte, 0, 32*n)
	ends := make([]uint32, n)
	seqs := make([]uint64, n)
	var keys []uint64
	var rename map[int]string
	for i := range n {
		f, err := scanned(records.Record(i))
		if err != nil {
			records.Free()
			return fmt.Errorf("record %d of a batch from source %s: %w", i, r.lane.Source, err)
		}
		positions = append(positions, f.Position...)
		ends[i] = uint32(len(positions))
		if h := wire.HashKey(f.Key); h != 0 {
			if keys == nil {
				keys = make([]uint64, n)
			}
			keys[i] = h
		}
		if id := r.name(f); id != "" {
			if rename == nil {
				rename = make(map[int]string)
			}
			rename[i] = id
		}
	}
	if rename != nil {
		records = withIDs(records, rename)
	}
	first := r.tracker.Read(positions, ends)
	for i := range seqs {
		seqs[i] = first + uint64(i)
	}
	r.s.recordsIn.Add(uint64(n))
	b := flow.FromRoot(r.lane, records, r.tracker, first, seqs, keys)
	b, tooLarge := r.sift(b)
	for _, i := range tooLarge {
		f := dispatch.Failure{
			Class: dispatch.Permanent, Code: "RECORD_TOO_LARGE",
			Message: fmt.Sprintf("the record has %d bytes, the pipeline allows %d", b.Bytes(i, i+1), r.maxRecordBytes()),
		}
		letter := r.s.letter(b, b.Records.Record(i), r.s.key.stage, "", f, nil)
		if err := r.s.buryPaid(ctx, letter, burial{batch: b, index: i, lane: r.lane, stage: r.s}); err != nil {
			return err
		}
	}
	if len(tooLarge) > 0 {
		takes := make([]bool, b.Len())
		for i := range takes {
			takes[i] = true
		}
		for _, i := range tooLarge {
			takes[i] = false
		}
		rest := pickRecords(b, takes)
		b.Drop()
		if rest == nil {
			return nil
		}
		b = rest
	}
	if err := r.s.emit(ctx, b, nil); err != nil {
		return err
	}
	return r.awaitSpan(ctx)
}

// maxPosition is the size that no position may exceed: a lane remembers those of all records in flight.
const maxPosition = 4 << 10

func scanned(record []byte) (wire.Fields, error) {
	f, err := wire.Scan(record)
	if err == nil && len(f.Position) > maxPosition {
		err = fmt.Errorf("its position has %d bytes, at most %d are allowed", len(f.Position), maxPosition)
	}
	return f, err
}

// name follows the positions of the records in their order, and returns the id for one that has none.
func (r *reading) name(f wire.Fields) (id string) {
	if len(f.Position) == 0 {
		r.ordinal++
		if len(f.ID) == 0 {
			return wire.InsideID(r.lane.Source, r.partition, r.precede, r.ordinal)
		}
		return ""
	}
	if len(f.ID) == 0 {
		id = wire.RecordID(r.lane.Source, r.partition, f.Position)
	}
	r.precede, r.ordinal = append(r.precede[:0], f.Position...), 0
	return id
}

func (r *reading) maxRecordBytes() int64 {
	if n := r.s.spec.GetLimits().GetMaxRecordBytes(); n > 0 {
		return int64(n)
	}
	return defaultRecordBytes
}

// sift returns the indexes of the records that are larger than the pipeline allows. What Conveyor itself adds to a record is allowed on top.
func (r *reading) sift(b *flow.Batch) (*flow.Batch, []int) {
	var tooLarge []int
	limit := r.maxRecordBytes() + 8<<10
	for i := range b.Len() {
		if b.Bytes(i, i+1) > limit {
			tooLarge = append(tooLarge, i)
		}
	}
	return b, tooLarge
}

// withIDs gives ids to records that have none, by index.
func withIDs(records *wire.Batch, ids map[int]string) *wire.Batch {
	var w wire.Builder
	for i := range records.Len() {
		if id, ok := ids[i]; ok {
			w.AppendWithID(records.Record(i), id)
		} else {
			w.AppendEncoded(records.Record(i))
		}
	}
	records.Free()
	return w.Finish()
}

// takeFailed buries what the source could not make a record of, in its place in the lane.
func (r *reading) takeFailed(ctx context.Context, record []byte, f dispatch.Failure) error {
	fields, err := scanned(record)
	if err == nil && len(record) > wire.MaxRecordBytes {
		err = fmt.Errorf("it has %d bytes: %w", len(record), wire.ErrTooLarge)
	}
	if err != nil {
		return fmt.Errorf("failed record of source %s: %w", r.lane.Source, err)
	}
	var w wire.Builder
	if id := r.name(fields); id != "" {
		w.AppendWithID(record, id)
	} else {
		w.AppendEncoded(record)
	}
	records := w.Finish()
	position := append([]byte(nil), fields.Position...)
	first := r.tracker.Read(position, []uint32{uint32(len(position))})
	r.s.recordsIn.Add(1)
	b := flow.FromRoot(r.lane, records, r.tracker, first, []uint64{first}, nil)
	defer b.Drop()
	return r.s.buryPaid(ctx, r.s.letter(b, records.Record(0), r.s.key.stage, "", f, nil), burial{batch: b, lane: r.lane, stage: r.s})
}

// awaitSpan blocks while the lane is too far ahead of its oldest unsettled record.
func (r *reading) awaitSpan(ctx context.Context) error {
	limit := uint64(defaultMaxSpan)
	if n := r.s.spec.GetLimits().GetMaxSpan(); n > 0 {
		limit = uint64(n)
	}
	for r.tracker.Span() >= limit {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.moved:
		}
	}
	return nil
}

// finish closes the lane after everything that was read has settled, and blocks until the last checkpoint is stored.
func (r *reading) finish(ctx context.Context, exhausted bool) error {
	for !r.tracker.Idle() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.moved:
		}
	}
	r.mu.Lock()
	r.finishing, r.exhausted = true, exhausted
	r.mu.Unlock()
	r.s.e.checkpoints.hurry(r)
	for {
		r.mu.Lock()
		closed := r.closed
		r.mu.Unlock()
		if closed {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.moved:
		}
	}
}

// checkpoint returns what should be stored now.
func (r *reading) checkpoint() *controlv1.Checkpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	c := &controlv1.Checkpoint{
		Pipeline: r.lane.Pipeline, SourceStage: r.lane.Stage, Partition: r.partition, Generation: r.lane.Generation, Epoch: epochProto(r.lane.Epoch),
	}
	switch {
	case r.opened != nil:
		// Nothing read behind it has gone on yet.
		c.Sequence, c.Position = r.tracker.SettledThrough(), r.opened
	case r.finishing:
		c.Sequence, c.Position, c.Ended = r.tracker.SettledThrough(), r.tracker.Last().Position, r.exhausted
		r.tracker.Checkpoint()
		if c.Position == nil {
			c.Position = r.start
		}
	default:
		p, ok := r.tracker.Checkpoint()
		if !ok {
			return nil
		}
		c.Sequence, c.Position = p.Sequence, p.Position
	}
	return c
}

// stored tells what became of a checkpoint. Only after the router has it may the source hear of it: never commit what is not durable.
func (r *reading) stored(c *controlv1.Checkpoint, result controlv1.CheckpointResult, err error) {
	r.mu.Lock()
	switch result {
	case controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED:
		// I3: commit only what is checkpointed.
		r.storedSequence = c.GetSequence()
		if len(c.GetPosition()) > 0 {
			r.storedPosition = c.GetPosition()
		}
		if r.opened != nil && bytes.Equal(r.opened, c.GetPosition()) {
			r.opened = nil
		}
		if r.finishing && c.GetSequence() == r.tracker.SettledThrough() && c.GetEnded() == r.exhausted {
			r.closed = true
		}
		if r.unstored {
			r.unstored, r.problem = false, ""
		}
		r.mu.Unlock()
		signal(r.saved)
	case controlv1.CheckpointResult_CHECKPOINT_RESULT_FENCED, controlv1.CheckpointResult_CHECKPOINT_RESULT_STALE:
		r.problem = fmt.Sprintf("the router refused the checkpoint at sequence %d: %s", c.GetSequence(), result)
		r.mu.Unlock()
		r.s.fenced.Add(1)
		r.cancel(errFenced) // I14: a fenced lane stops.
	default:
		if err != nil && (r.problem == "" || r.unstored) { // what keeps it from reading is the larger problem
			r.unstored, r.problem = true, "checkpoints are not stored: "+err.Error()
		}
		r.mu.Unlock()
		r.tracker.Restore(lane.Point{Sequence: c.GetSequence(), Position: c.GetPosition()})
		r.s.e.checkpoints.report(r)
		return
	}
	signal(r.moved)
}

// pause notes that the lane pauses for want of a router, or goes on.
func (r *reading) pause(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case on:
		r.problem, r.unstored = noRouters, false
	case r.problem == noRouters:
		r.problem = ""
	}
}

// setProblem notes why the lane does not read, or with "" that it does, which says nothing of its checkpoints.
func (r *reading) setProblem(p string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p == "" && r.unstored {
		return
	}
	r.problem, r.unstored = p, false
}

// committable returns the position of the last stored checkpoint.
func (r *reading) committable() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.storedPosition
}

func (r *reading) status() *controlv1.LaneStatus {
	c := r.tracker.Counts()
	st := &controlv1.LaneStatus{
		Source: r.lane.Source, SourceStage: r.lane.Stage, Partition: r.partition, SidecarId: r.s.e.cfg.SidecarID,
		SettledThrough: r.tracker.SettledThrough(),
		Counts: &controlv1.Counts{
			Read: c.Read, Acknowledged: c.Outcomes[flow.Acknowledged], Dead: c.Outcomes[flow.Dead], Filtered: c.Outcomes[flow.Filtered],
			Unrouted: c.Outcomes[flow.Unrouted], Shed: c.Outcomes[flow.Shed], InFlight: c.InFlight(),
		},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	st.CheckpointedThrough, st.Position, st.Problem = r.storedSequence, r.storedPosition, r.problem
	st.ReadsOn = r.unstored && r.opened == nil // I5: before the first is stored, no record leaves
	st.Ended = r.closed && r.exhausted
	return st
}
