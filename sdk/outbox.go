package sdk

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

const (
	// targetBytes is the size at which a batch is sent without waiting for more.
	targetBytes = 224 << 10
	// maxBatchBytes is the most of a batch of more than one record, framing included.
	maxBatchBytes   = 1 << 20
	maxBatchRecords = 4096
	// linger is how long after a batch the next one gathers records; a lone record goes at once.
	linger = time.Millisecond
	// maxSealed batches wait for the sender while the reader fills the next one.
	maxSealed = 2
	// maxConfirmations wait for the sender before the receiver waits.
	maxConfirmations = 64
)

var errBoxClosed = errors.New("outbox closed")

// outgoing is a batch or any other response.
type outgoing struct {
	batch    *wire.Batch
	response *conveyorv1.PullResponse
}

// outbox holds what a reader made until the sender takes it. It gathers records to batches as large as credit and patience allow, and
// blocks the reader when there is no credit. One reader, one sender and one receiver use it at once.
type outbox struct {
	identity *identity // of the reader

	mu       sync.Mutex
	changed  sync.Cond // of any field below
	builder  wire.Builder
	sealed   []outgoing
	confirms []outgoing
	scratch  conveyorv1.Record

	windowRecords, windowBytes uint64 // the most credit that was ever open
	grantedRecords, sentCount  uint64
	grantedBytes, sentBytes    uint64

	lastSent time.Time
	hurry    bool // the reader waits for credit: nothing more will gather
	timer    *time.Timer

	dropped bool // the peer wants no more records
	ended   bool // the reader ended
	endSent bool
	exhaust bool
	readErr error // ends the stream behind the records
	err     error // ends the stream at once; io.EOF when the peer closed it
	closed  bool
}

func newOutbox(id *identity) *outbox {
	b := &outbox{identity: id}
	b.changed.L = &b.mu
	return b
}

// append takes a record when there is credit for it. It keeps no reference to it.
func (b *outbox) append(r *Record) error {
	id := b.identity.of(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	r.ToProto(&b.scratch)
	b.scratch.Id = id
	size := b.scratch.SizeVT()
	if size > wire.MaxRecordBytes {
		return b.tooLarge(r, size)
	}
	if n := b.builder.Len(); n > 0 &&
		(n >= maxBatchRecords || b.builder.Bytes()+wire.FramingBytes*(n+1)+size > maxBatchBytes) {
		b.seal()
	}
	if err := b.await(uint64(size)); err != nil {
		return err
	}
	if err := b.builder.AppendRecord(&b.scratch); err != nil {
		return fmt.Errorf("encode record %q: %w", b.scratch.Id, err)
	}
	switch n := b.builder.Len(); {
	case b.builder.Bytes() >= targetBytes || n >= maxBatchRecords:
		b.seal()
	case n == 1:
		b.changed.Broadcast()
	}
	return nil
}

// tooLarge answers a record of impossible size like any other bad input, without its payload.
func (b *outbox) tooLarge(r *Record, size int) error {
	small := *r
	small.Payload, small.Headers = nil, nil
	err := fmt.Errorf("the record has %d bytes, %d are allowed", size, wire.MaxRecordBytes)
	return b.failed(&small, b.scratch.Id, Permanent(Code(CodeRecordTooBig, err)))
}

func (b *outbox) appendFailed(bad *BadRecord) error {
	id := b.identity.of(&bad.Record)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed(&bad.Record, id, bad.Err)
}

func (b *outbox) failed(r *Record, id string, cause error) error {
	failure := FailureOf(cause)
	failure.Class = ClassPermanent
	if failure.Code == CodeHandlerError {
		failure.Code = CodeBadRecord
	}
	kept := r.Clone()
	record := &conveyorv1.Record{}
	kept.ToProto(record)
	record.Id = string([]byte(id))
	size := record.SizeVT()
	if size > wire.MaxRecordBytes {
		return fmt.Errorf("bad record %q has %d bytes, what is known of bad input must be small", record.Id, size)
	}
	b.seal()
	if err := b.await(uint64(size)); err != nil {
		return err
	}
	b.sealed = append(b.sealed, outgoing{response: &conveyorv1.PullResponse{Response: &conveyorv1.PullResponse_Failed{
		Failed: &conveyorv1.PullFailed{Record: record, Failure: failure.proto()},
	}}})
	b.changed.Broadcast()
	return nil
}

// seal closes the batch in the making, if there is one.
func (b *outbox) seal() {
	if batch := b.builder.Finish(); batch != nil {
		b.sealed = append(b.sealed, outgoing{batch: batch})
		b.changed.Broadcast()
	}
}

// await blocks until there is room and credit for a record, and takes the credit.
func (b *outbox) await(size uint64) error {
	for {
		switch {
		case b.closed || b.dropped || b.err != nil:
			return errBoxClosed
		case len(b.sealed) >= maxSealed:
		case b.affordable(size):
			b.hurry = false
			b.sentCount++
			b.sentBytes += size
			return nil
		case !b.hurry:
			b.hurry = true
			b.changed.Broadcast()
		}
		b.changed.Wait()
	}
}

// affordable reports whether a record may be sent. One record may overdraw the bytes when everything sent is answered for, which shows in
// as much credit being open as ever was.
func (b *outbox) affordable(size uint64) bool {
	if b.sentCount >= b.grantedRecords {
		return false
	}
	if b.sentBytes+size <= b.grantedBytes {
		return true
	}
	return b.grantedRecords >= b.windowRecords+b.sentCount && b.grantedBytes >= b.windowBytes+b.sentBytes
}

func (b *outbox) grant(records, bytes uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grantedRecords, b.grantedBytes = max(b.grantedRecords, records), max(b.grantedBytes, bytes)
	b.windowRecords = max(b.windowRecords, b.grantedRecords-min(b.sentCount, b.grantedRecords))
	b.windowBytes = max(b.windowBytes, b.grantedBytes-min(b.sentBytes, b.grantedBytes))
	b.changed.Broadcast()
}

// confirm queues the answer to a commit.
func (b *outbox) confirm(position []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.confirms) >= maxConfirmations && !b.closed && b.err == nil {
		b.changed.Wait()
	}
	b.confirms = append(b.confirms, outgoing{response: &conveyorv1.PullResponse{Response: &conveyorv1.PullResponse_Committed{
		Committed: &conveyorv1.PullCommitted{Position: position},
	}}})
	b.changed.Broadcast()
}

// end says that the reader has no more.
func (b *outbox) end(exhausted bool) { b.finish(exhausted, nil) }

// endWith says that the reader broke; what it made before is still sent.
func (b *outbox) endWith(err error) { b.finish(false, err) }

func (b *outbox) finish(exhausted bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seal()
	b.ended, b.exhaust, b.readErr = true, exhausted, err
	b.changed.Broadcast()
}

// drop forgets the records that were not sent and refuses more: the peer does not want them.
func (b *outbox) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropped = true
	b.freeLocked()
	b.changed.Broadcast()
}

// fail ends the sender at once.
func (b *outbox) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.changed.Broadcast()
}

// close releases everybody who waits.
func (b *outbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
	}
	b.changed.Broadcast()
}

// free gives back the memory of what was not sent. Nobody else may use the outbox any more, except that confirm and fail do no harm.
func (b *outbox) free() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.freeLocked()
}

func (b *outbox) freeLocked() {
	if batch := b.builder.Finish(); batch != nil {
		batch.Free()
	}
	for _, out := range b.sealed {
		if out.batch != nil {
			out.batch.Free()
		}
	}
	b.sealed = nil
}

// next blocks until there is something to send. The caller owns the batch. It returns io.EOF when the peer closed the stream.
func (b *outbox) next() (outgoing, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.closed:
			return outgoing{}, errBoxClosed
		case b.err != nil && !errors.Is(b.err, io.EOF):
			return outgoing{}, b.err
		case len(b.confirms) > 0:
			out := b.confirms[0]
			b.confirms = b.confirms[1:]
			b.changed.Broadcast()
			return out, nil
		case b.err != nil:
			return outgoing{}, b.err
		case len(b.sealed) > 0:
			return b.take(), nil
		case b.builder.Len() > 0 && b.patienceOver():
			b.seal()
			return b.take(), nil
		case b.builder.Len() == 0 && b.ended && b.readErr != nil:
			return outgoing{}, b.readErr
		case b.builder.Len() == 0 && b.ended && !b.endSent:
			b.endSent = true
			return outgoing{response: &conveyorv1.PullResponse{Response: &conveyorv1.PullResponse_End{
				End: &conveyorv1.PullEnd{Exhausted: b.exhaust && !b.dropped},
			}}}, nil
		}
		b.changed.Wait()
	}
}

func (b *outbox) take() outgoing {
	out := b.sealed[0]
	b.sealed[0] = outgoing{}
	b.sealed = b.sealed[1:]
	b.lastSent = time.Now()
	b.changed.Broadcast()
	return out
}

// patienceOver reports whether the batch in the making should go now, and otherwise sees to it that the sender wakes when it should.
func (b *outbox) patienceOver() bool {
	if b.hurry || b.ended {
		return true
	}
	wait := linger - time.Since(b.lastSent)
	if wait <= 0 {
		return true
	}
	if b.timer == nil {
		b.timer = time.AfterFunc(wait, b.wake)
	} else {
		b.timer.Reset(wait)
	}
	return false
}

func (b *outbox) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed.Broadcast()
}
