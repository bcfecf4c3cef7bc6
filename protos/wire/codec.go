package wire

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto" // registers the codec that Codec falls back to
	"google.golang.org/grpc/mem"
)

// Head is a generated message without its batch.
type Head interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
	Reset()
}

// Message is a stream message whose batch stays encoded. Send it with the batch field of Head empty. After it was received, Head holds
// all other fields, and Batch, if not nil, belongs to the receiver, who frees it.
//
// SendMsg takes a reference of the batch of its own: the sender still frees the one it has.
type Message struct {
	Head  Head
	Batch *Batch
}

// batchTag is the tag of the batch in every message that has one: field 2, length-delimited.
const batchTag = 2<<3 | 2

var errTwoBatches = errors.New("message with two batches")

func (m *Message) marshal() (mem.BufferSlice, error) {
	size := m.Head.SizeVT()
	if m.Batch == nil {
		buf := shared.Get(size)
		if _, err := m.Head.MarshalToSizedBufferVT(*buf); err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.NewBuffer(buf, &shared)}, nil
	}
	records := m.Batch.encodedLen()
	head := shared.Get(size + 1 + uvarintLen(uint64(records)))
	if _, err := m.Head.MarshalToSizedBufferVT((*head)[:size]); err != nil {
		return nil, err
	}
	(*head)[size] = batchTag
	putUvarint((*head)[size+1:], uint64(records))
	return mem.BufferSlice{mem.NewBuffer(head, &shared), m.Batch.buffer()}, nil
}

// encodedLen is the length of the records with their framing.
func (b *Batch) encodedLen() int {
	n := 0
	for _, s := range b.spans {
		n += int(s.end - s.head)
	}
	return n
}

// buffer returns the records with their framing: the batch's own memory under a new reference when they lie together.
func (b *Batch) buffer() mem.Buffer {
	n := len(b.spans)
	if n == 0 {
		return mem.SliceBuffer(nil)
	}
	if b.contiguous(0, n) {
		all := b.framed(0, n)
		if !mem.IsBelowBufferPoolingThreshold(cap(all)) {
			b.Ref()
			return mem.NewBuffer(&all, freeOnPut{b})
		}
	}
	buf := shared.Get(b.encodedLen())
	at := 0
	for _, s := range b.spans {
		at += copy((*buf)[at:], (*b.data)[s.head:s.end])
	}
	return mem.NewBuffer(buf, &shared)
}

func (m *Message) unmarshal(data mem.BufferSlice) error {
	m.Batch = nil
	m.Head.Reset()
	buf := shared.Get(data.Len())
	data.CopyTo(*buf)
	from, to, err := m.split(*buf)
	if err != nil {
		shared.Put(buf)
		return err
	}
	if to < 0 {
		shared.Put(buf)
		return nil
	}
	b := newBatch(buf, &shared)
	if err := b.scan(from, to); err != nil {
		b.Free()
		return err
	}
	m.Batch = b
	return nil
}

// split decodes everything but the batch into Head and returns where the batch lies; to is negative when there is none.
func (m *Message) split(data []byte) (from, to int, err error) {
	from, to = 0, -1
	head := 0 // start of the bytes that belong to Head and are not decoded yet
	for at := 0; at < len(data); {
		start := at
		tag, n := uvarint(data[at:])
		if n <= 0 {
			return 0, 0, errMalformed
		}
		at += n
		length, err := skip(data[at:], tag)
		if err != nil {
			return 0, 0, err
		}
		if tag == batchTag {
			if to >= 0 {
				return 0, 0, errTwoBatches
			}
			_, prefix := uvarint(data[at:])
			from, to = at+prefix, at+length
			if start > head {
				if err := m.Head.UnmarshalVT(data[head:start]); err != nil {
					return 0, 0, err
				}
			}
			head = at + length
		}
		at += length
	}
	if head < len(data) {
		if err := m.Head.UnmarshalVT(data[head:]); err != nil {
			return 0, 0, err
		}
	}
	return from, to, nil
}

// Codec is gRPC's codec for protobuf with two additions: a [Message] keeps its batch encoded, and messages with generated fast paths use
// them. On the wire it is the ordinary one. It copies what it decodes, except the records of a Message.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

// Name is "proto", since the bytes are the same.
func (Codec) Name() string { return proto.Name }

// Marshal encodes v: a *Message, or a protobuf message.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *Message:
		data, err := m.marshal()
		if err != nil {
			return nil, fmt.Errorf("encode %T: %w", m.Head, err)
		}
		return data, nil
	case Head:
		buf := shared.Get(m.SizeVT())
		if _, err := m.MarshalToSizedBufferVT(*buf); err != nil {
			return nil, fmt.Errorf("encode %T: %w", v, err)
		}
		return mem.BufferSlice{mem.NewBuffer(buf, &shared)}, nil
	}
	return encoding.GetCodecV2(proto.Name).Marshal(v)
}

// Unmarshal decodes data into v: a *Message, or a protobuf message.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *Message:
		if err := m.unmarshal(data); err != nil {
			return fmt.Errorf("decode %T: %w", m.Head, err)
		}
		return nil
	case Head:
		buf := data.MaterializeToBuffer(&shared)
		defer buf.Free()
		m.Reset()
		if err := m.UnmarshalVT(buf.ReadOnlyData()); err != nil {
			return fmt.Errorf("decode %T: %w", v, err)
		}
		return nil
	}
	return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
}
