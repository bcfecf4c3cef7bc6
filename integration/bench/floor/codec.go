package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc/mem"
)

// record is one record of a batch. What is decoded aliases the received buffer and ends with it.
type record struct {
	key, value []byte
	time       int64
}

// batch is the protobuf message
//
//	message Batch  { uint64 id = 1; repeated Record records = 2; }
//	message Record { bytes key = 1; bytes value = 2; int64 time = 3; }
//
// written and read by hand, without copying the values of what is read.
type batch struct {
	id      uint64
	records []record
	backing mem.Buffer // of a received batch
}

var batches = sync.Pool{New: func() any { return &batch{} }}

func newBatch() *batch { return batches.Get().(*batch) }

// release ends the use of b and of every slice its records held.
func (b *batch) release() {
	if b.backing != nil {
		b.backing.Free()
	}
	clear(b.records)
	*b = batch{records: b.records[:0]}
	batches.Put(b)
}

// frame is a batch that is passed on as it came.
type frame struct {
	id   uint64
	data mem.BufferSlice // owned until it is sent
}

// ack says that every batch up to id has arrived.
type ack struct{ id uint64 }

// codec carries batches, frames and acks; it is forced on every connection, so it needs no registration.
type codec struct{ pool mem.BufferPool }

// Name is protobuf's own, since what travels is protobuf.
func (codec) Name() string { return "proto" }

// Marshal encodes a message; a frame's buffers are handed over, not copied.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *frame:
		data := m.data
		m.data = nil
		return data, nil
	case *batch:
		size := m.size()
		if mem.IsBelowBufferPoolingThreshold(size) {
			return mem.BufferSlice{mem.SliceBuffer(m.append(make([]byte, 0, size)))}, nil
		}
		b := c.pool.Get(size)
		m.append((*b)[:0])
		return mem.BufferSlice{mem.NewBuffer(b, c.pool)}, nil
	case *ack:
		return mem.BufferSlice{mem.SliceBuffer(binary.AppendUvarint([]byte{0x08}, m.id))}, nil
	}
	return nil, fmt.Errorf("no encoding for %T", v)
}

// Unmarshal decodes into v, which keeps a reference to data unless it is an ack.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *frame:
		data.Ref()
		m.data = data
		return m.readID()
	case *batch:
		m.backing = data.MaterializeToBuffer(c.pool)
		return m.parse(m.backing.ReadOnlyData())
	case *ack:
		if len(data) == 1 {
			return m.parse(data[0].ReadOnlyData())
		}
		return m.parse(data.Materialize())
	}
	return fmt.Errorf("no decoding for %T", v)
}

var errMalformed = errors.New("malformed message")

func (a *ack) parse(b []byte) error {
	if len(b) < 2 || b[0] != 0x08 {
		return errMalformed
	}
	id, n := binary.Uvarint(b[1:])
	if n <= 0 {
		return errMalformed
	}
	a.id = id
	return nil
}

// readID reads the first field, all that a sidecar needs to know of a batch.
func (f *frame) readID() error {
	var head ack
	if len(f.data) == 0 {
		return errMalformed
	}
	first := f.data[0].ReadOnlyData()
	if err := head.parse(first[:min(len(first), 1+binary.MaxVarintLen64)]); err != nil {
		return err
	}
	f.id = head.id
	return nil
}

func varintSize(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

func (r *record) size() int {
	return 1 + varintSize(uint64(len(r.key))) + len(r.key) +
		1 + varintSize(uint64(len(r.value))) + len(r.value) +
		1 + varintSize(uint64(r.time))
}

func (b *batch) size() int {
	n := 1 + varintSize(b.id)
	for i := range b.records {
		s := b.records[i].size()
		n += 1 + varintSize(uint64(s)) + s
	}
	return n
}

// append encodes b behind dst.
func (b *batch) append(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, 0x08), b.id)
	for i := range b.records {
		r := &b.records[i]
		dst = binary.AppendUvarint(append(dst, 0x12), uint64(r.size()))
		dst = binary.AppendUvarint(append(dst, 0x0a), uint64(len(r.key)))
		dst = append(dst, r.key...)
		dst = binary.AppendUvarint(append(dst, 0x12), uint64(len(r.value)))
		dst = append(dst, r.value...)
		dst = binary.AppendUvarint(append(dst, 0x18), uint64(r.time))
	}
	return dst
}

// field cuts one length-delimited field of the given tag off the front of b.
func field(b []byte, tag byte) (value, rest []byte, err error) {
	if len(b) < 2 || b[0] != tag {
		return nil, nil, errMalformed
	}
	n, w := uint64(b[1]), 1
	if n >= 0x80 {
		n, w = binary.Uvarint(b[1:])
	}
	if w <= 0 || n > uint64(len(b)-1-w) {
		return nil, nil, errMalformed
	}
	end := 1 + w + int(n)
	return b[1+w : end : end], b[end:], nil
}

func (b *batch) parse(data []byte) error {
	var head ack
	if err := head.parse(data); err != nil {
		return err
	}
	b.id = head.id
	data = data[1+varintSize(b.id):]
	b.records = slices.Grow(b.records[:0], 64)
	for len(data) > 0 {
		body, rest, err := field(data, 0x12)
		if err != nil {
			return err
		}
		data = rest
		var r record
		if r.key, body, err = field(body, 0x0a); err != nil {
			return err
		}
		if r.value, body, err = field(body, 0x12); err != nil {
			return err
		}
		if len(body) < 2 || body[0] != 0x18 {
			return errMalformed
		}
		at, n := binary.Uvarint(body[1:])
		if n <= 0 {
			return errMalformed
		}
		r.time = int64(at)
		b.records = append(b.records, r)
	}
	return nil
}
