package engine

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// processHead is a ProcessResponse without its batch, decoded flat: a transform that drops every tenth record answers in many short runs,
// for each of which the generated decoder makes three messages.
type processHead struct {
	sequence uint64
	results  []processResult
	opened   bool
	resolved bool
}

type resultKind int

const (
	resultNone resultKind = iota
	resultOK
	resultFiltered
	resultError
	resultHeld // or merged
)

type processResult struct {
	first, count uint32
	kind         resultKind
	each         uint32
	route        []string
	failure      *conveyorv1.Failure
}

var errReceiveOnly = errors.New("this form of the message is for receiving only")

// SizeVT is 0: nobody sends this form.
func (*processHead) SizeVT() int { return 0 }

// MarshalToSizedBufferVT errs: nobody sends this form.
func (*processHead) MarshalToSizedBufferVT([]byte) (int, error) { return 0, errReceiveOnly }

// Reset empties the head.
func (h *processHead) Reset() { *h = processHead{results: h.results[:0]} }

// UnmarshalVT adds the fields of a part of the message. It keeps nothing of data.
func (h *processHead) UnmarshalVT(data []byte) error {
	return fields(data, func(number protowire.Number, value uint64, bytes []byte) error {
		switch number {
		case 1:
			h.sequence = value
		case 3:
			var r processResult
			if err := r.unmarshal(bytes); err != nil {
				return fmt.Errorf("result %d: %w", len(h.results), err)
			}
			h.results = append(h.results, r)
		case 4:
			h.opened = true
		case 5:
			h.resolved = true
		}
		return nil
	})
}

func (r *processResult) unmarshal(data []byte) error {
	return fields(data, func(number protowire.Number, value uint64, bytes []byte) error {
		switch number {
		case 1:
			r.first = uint32(min(value, 1<<32-1))
		case 2:
			r.count = uint32(min(value, 1<<32-1))
		case 3:
			r.kind, r.each, r.route = resultOK, 0, nil
			return fields(bytes, func(number protowire.Number, value uint64, bytes []byte) error {
				switch number {
				case 1:
					r.each = uint32(min(value, 1<<32-1))
				case 2:
					r.route = append(r.route, string(bytes))
				}
				return nil
			})
		case 4:
			r.kind = resultFiltered
		case 5:
			r.kind, r.failure = resultError, &conveyorv1.Failure{}
			return r.failure.UnmarshalVT(bytes)
		case 6, 7:
			r.kind = resultHeld
		}
		return nil
	})
}

// fields calls f for every field of an encoded message, with the value of a varint or the bytes of what has a length. Fields of other types
// are passed over, as unknown ones are.
func fields(data []byte, f func(number protowire.Number, value uint64, bytes []byte) error) error {
	for len(data) > 0 {
		number, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var value uint64
		var bytes []byte
		switch typ {
		case protowire.VarintType:
			value, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(data)
		default:
			if n = protowire.ConsumeFieldValue(number, typ, data); n >= 0 {
				data = data[n:]
				continue
			}
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := f(number, value, bytes); err != nil {
			return err
		}
	}
	return nil
}
