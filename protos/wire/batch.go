package wire

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// MaxRecordBytes is the size that no encoded record may exceed.
const MaxRecordBytes = 4 << 20

// MaxBatchRecords is the number of records that no received batch may exceed: finding a record costs memory however small it is.
const MaxBatchRecords = 64 << 10

// keepSpans is how many records' places a batch in the pool may hold.
const keepSpans = 8 << 10

// ErrTooLarge is returned when a record is larger than the limit.
var ErrTooLarge = errors.New("record is larger than the limit")

// span is where one record lies in a batch's data: the framing begins at head, the record is data[body:end].
type span struct{ head, body, end uint32 }

// Batch is encoded records in one buffer from a pool. It is read-only and may be read by many goroutines. It lives until every reference
// is freed: a holder calls Ref before it hands the batch to somebody who will call Free.
type Batch struct {
	data  *[]byte
	pool  mem.BufferPool
	spans []span
	bytes int
	refs  atomic.Int32
	whole *Batch // of which this one shows a part; its memory is that one's
}

var batches = sync.Pool{New: func() any { return new(Batch) }}

func newBatch(data *[]byte, pool mem.BufferPool) *Batch {
	b := batches.Get().(*Batch)
	b.data, b.pool, b.bytes = data, pool, 0
	b.spans = b.spans[:0]
	b.refs.Store(1)
	return b
}

// Len returns the number of records.
func (b *Batch) Len() int { return len(b.spans) }

// Bytes returns the size of all encoded records without framing, which is what credit counts.
func (b *Batch) Bytes() int { return b.bytes }

// Size returns the size of record i, encoded, without framing.
func (b *Batch) Size(i int) int { return int(b.spans[i].end - b.spans[i].body) }

// Record returns record i, encoded. It is valid until the batch is freed and must not be changed.
func (b *Batch) Record(i int) []byte {
	s := b.spans[i]
	return (*b.data)[s.body:s.end:s.end]
}

// framed returns records from..to-1 with their framing.
func (b *Batch) framed(from, to int) []byte {
	return (*b.data)[b.spans[from].head:b.spans[to-1].end]
}

// contiguous reports whether nothing lies between the records from..to-1.
func (b *Batch) contiguous(from, to int) bool {
	for i := from + 1; i < to; i++ {
		if b.spans[i].head != b.spans[i-1].end {
			return false
		}
	}
	return true
}

// Ref adds a reference.
func (b *Batch) Ref() { b.refs.Add(1) }

// Free drops a reference; the last one gives the buffer back.
func (b *Batch) Free() {
	switch n := b.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("wire: batch freed too often")
	}
	if b.whole != nil {
		b.whole.Free()
		return
	}
	b.pool.Put(b.data)
	b.data, b.pool = nil, nil
	if cap(b.spans) > keepSpans {
		b.spans = nil // one huge batch must not fill the pool for ever
	}
	batches.Put(b)
}

// freeOnPut gives a batch back when gRPC has written it.
type freeOnPut struct{ b *Batch }

func (freeOnPut) Get(int) *[]byte { panic("wire: not a pool to get from") }

func (f freeOnPut) Put(*[]byte) { f.b.Free() }

// recordTag is the tag of RecordBatch.records: field 1, length-delimited.
const recordTag = 1<<3 | 2

// scan finds the records in b.data[from:to], the encoding of a RecordBatch.
func (b *Batch) scan(from, to int) error {
	data := (*b.data)[:to]
	for at := from; at < to; {
		head := at
		tag, n := uvarint(data[at:])
		if n <= 0 {
			return fmt.Errorf("batch at byte %d: %w", at-from, errMalformed)
		}
		at += n
		if tag>>3 == 0 {
			return fmt.Errorf("batch at byte %d: %w", at-from, errMalformed)
		}
		if tag != recordTag {
			n, err := skip(data[at:], tag)
			if err != nil {
				return fmt.Errorf("batch at byte %d: %w", at-from, err)
			}
			at += n
			continue
		}
		size, n := uvarint(data[at:])
		if n <= 0 || size > uint64(to-at-n) {
			return fmt.Errorf("record %d of a batch: %w", len(b.spans), errMalformed)
		}
		if size > MaxRecordBytes {
			return fmt.Errorf("record %d of a batch has %d bytes: %w", len(b.spans), size, ErrTooLarge)
		}
		if len(b.spans) == MaxBatchRecords {
			return fmt.Errorf("batch of more than %d records", MaxBatchRecords)
		}
		at += n
		b.spans = append(b.spans, span{uint32(head), uint32(at), uint32(at) + uint32(size)})
		b.bytes += int(size)
		at += int(size)
	}
	return nil
}

// minBuffer is the smallest buffer of a batch that is being made.
const minBuffer = 4 << 10

// Builder makes a batch. The zero value takes buffers from the shared pool. It is not safe for concurrent use.
type Builder struct {
	b *Batch
	// last is the size of the batch before, or the expected one: the next is likely to be like it, and then never moves while it grows.
	last int
}

// Expect says how many bytes the next batch will have, framing included, so that it does not move while it grows. It is a guess: a batch may
// become larger, and one that becomes much smaller holds no more memory for it.
func (w *Builder) Expect(bytes int) { w.last = bytes }

// FramingBytes is the most that surrounds a record in a batch.
const FramingBytes = 6

// reserve returns room for n more bytes at the end of the data.
func (w *Builder) reserve(n int) []byte {
	if w.b == nil {
		buf := shared.Get(max(n, min(w.last, 1<<maxClass), minBuffer))
		*buf = (*buf)[:0]
		w.b = newBatch(buf, &shared)
	}
	data := *w.b.data
	if len(data)+n > cap(data) {
		bigger := shared.Get(max(2*cap(data), len(data)+n))
		*bigger = (*bigger)[:copy(*bigger, data)]
		shared.Put(w.b.data)
		w.b.data = bigger
		data = *bigger
	}
	at := len(data)
	*w.b.data = data[:at+n]
	return data[at : at+n]
}

// grow appends the framing for a record of n bytes and returns room for it.
func (w *Builder) grow(n int) []byte {
	framing := 1 + uvarintLen(uint64(n))
	room := w.reserve(framing + n)
	room[0] = recordTag
	putUvarint(room[1:], uint64(n))
	end := uint32(len(*w.b.data))
	body := end - uint32(n)
	w.b.spans = append(w.b.spans, span{body - uint32(framing), body, end})
	w.b.bytes += n
	return room[framing:]
}

// AppendRecord encodes a record at the end. It keeps no reference to it.
func (w *Builder) AppendRecord(r *conveyorv1.Record) error {
	n := r.SizeVT()
	if n > MaxRecordBytes {
		return fmt.Errorf("record %q has %d bytes: %w", r.GetId(), n, ErrTooLarge)
	}
	if _, err := r.MarshalToSizedBufferVT(w.grow(n)); err != nil {
		return fmt.Errorf("encode record %q: %w", r.GetId(), err)
	}
	return nil
}

// AppendEncoded copies an encoded record to the end.
func (w *Builder) AppendEncoded(record []byte) { copy(w.grow(len(record)), record) }

// AppendRun copies records from..to-1 of another batch to the end.
func (w *Builder) AppendRun(b *Batch, from, to int) {
	if from >= to {
		return
	}
	if !b.contiguous(from, to) {
		for i := from; i < to; i++ {
			w.AppendEncoded(b.Record(i))
		}
		return
	}
	run := b.framed(from, to)
	copy(w.reserve(len(run)), run)
	shift := uint32(len(*w.b.data)-len(run)) - b.spans[from].head
	for _, s := range b.spans[from:to] {
		w.b.spans = append(w.b.spans, span{s.head + shift, s.body + shift, s.end + shift})
		w.b.bytes += int(s.end - s.body)
	}
}

// Len returns the number of records appended so far.
func (w *Builder) Len() int {
	if w.b == nil {
		return 0
	}
	return len(w.b.spans)
}

// Bytes returns the size of the records appended so far, without framing.
func (w *Builder) Bytes() int {
	if w.b == nil {
		return 0
	}
	return w.b.bytes
}

// Finish returns the batch, which the caller owns, and leaves the builder empty. It returns nil when nothing was appended.
func (w *Builder) Finish() *Batch {
	b := w.b
	if b == nil {
		return nil
	}
	w.b, w.last = nil, len(*b.data)
	// A batch is paid for by its bytes, so it must not hold much more memory than those.
	if cap(*b.data) > minBuffer && 2*w.last < cap(*b.data) {
		small := shared.Get(w.last)
		copy(*small, *b.data)
		shared.Put(b.data)
		b.data = small
	}
	return b
}

// Slice returns a batch of records from..to-1 of b, in the same memory, of which it holds a reference; nil when from..to-1 is empty and not
// the whole. The caller owns it.
func (b *Batch) Slice(from, to int) *Batch {
	if from == 0 && to == len(b.spans) {
		b.Ref()
		return b
	}
	if from >= to {
		return nil
	}
	b.Ref()
	part := &Batch{data: b.data, spans: b.spans[from:to:to], whole: b}
	for _, s := range part.spans {
		part.bytes += int(s.end - s.body)
	}
	part.refs.Store(1)
	return part
}

// AppendWithID copies an encoded record that has no id to the end and gives it one: a field of protobuf may stand anywhere.
func (w *Builder) AppendWithID(record []byte, id string) {
	const idTag = 1<<3 | 2
	n := 1 + uvarintLen(uint64(len(id))) + len(id)
	room := w.grow(n + len(record))
	room[0] = idTag
	at := 1 + putUvarint(room[1:], uint64(len(id)))
	at += copy(room[at:], id)
	copy(room[at:], record)
}
