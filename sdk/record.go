package sdk

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// Position is opaque to everybody but the source that made it: everything up to and including the record that carries it.
type Position []byte

// Record is one unit of data. A record that a handler is given shares its memory with the request it came in: it is valid until the
// handler returns, and its bytes must not be changed in place. Fields may be replaced freely.
type Record struct { //nolint:recvcheck // Clone is for values that have no address, too
	// ID names the record for ever. Sources may leave it empty: it is then made of the source's uid, the partition and the position.
	ID string
	// Key decides which records keep their order among each other; a record without a key has no successors.
	Key []byte
	// Position is set by sources only, on records at which reading may begin again.
	Position Position
	// Payload is the data.
	Payload []byte
	// ContentType is the media type of the payload, for example application/json.
	ContentType string
	// Schema optionally names the schema of the payload.
	Schema string
	// Headers are metadata in order; a name may repeat.
	Headers []Header
	// Time is when the event happened; the zero time when that is not known.
	Time time.Time
	// Operation says what happened to the thing that the record describes.
	Operation Operation

	route []string
}

// Header is one item of a record's metadata.
type Header struct {
	Name  string
	Value []byte
}

// Operation is what a record says of the thing it describes.
type Operation int32

// The operations. Unspecified is for sources that cannot tell.
const (
	Unspecified Operation = iota
	Create
	Update
	Delete
	Snapshot
)

// Header returns the value of the first header of that name.
func (r *Record) Header(name string) (value []byte, ok bool) {
	for i := range r.Headers {
		if r.Headers[i].Name == name {
			return r.Headers[i].Value, true
		}
	}
	return nil, false
}

// SetHeader replaces all headers of that name by one. The record gets a list of its own, so copies of it are not affected.
func (r *Record) SetHeader(name string, value []byte) {
	headers := make([]Header, 0, len(r.Headers)+1)
	for _, h := range r.Headers {
		if h.Name != name {
			headers = append(headers, h)
		}
	}
	headers = append(headers, Header{Name: name, Value: value})
	r.Headers = headers
}

// Clone returns a copy that shares no memory with the record and may be kept.
func (r Record) Clone() Record {
	r.ID = strings.Clone(r.ID)
	r.Key = bytes.Clone(r.Key)
	r.Position = bytes.Clone(r.Position)
	r.Payload = bytes.Clone(r.Payload)
	r.ContentType = strings.Clone(r.ContentType)
	r.Schema = strings.Clone(r.Schema)
	r.Headers = slices.Clone(r.Headers)
	for i := range r.Headers {
		r.Headers[i] = Header{strings.Clone(r.Headers[i].Name), bytes.Clone(r.Headers[i].Value)}
	}
	r.route = slices.Clone(r.route)
	return r
}

// Route offers the records that a transform returns only to the named stages behind it, instead of to all. All records that come from
// one input must have the same route.
func Route(records []Record, stages ...string) []Record {
	for i := range records {
		records[i].route = stages
	}
	return records
}

// FromProto returns the record that a message holds. They share memory.
func FromProto(p *conveyorv1.Record) Record {
	var r Record
	r.fromProto(p, nil)
	return r
}

// fromProto fills r, whose headers go into the given list.
func (r *Record) fromProto(p *conveyorv1.Record, headers []Header) []Header {
	*r = Record{
		ID: p.Id, Key: p.Key, Position: p.Position, Payload: p.Payload, ContentType: p.ContentType, Schema: p.Schema,
		Operation: Operation(p.Operation),
	}
	if p.EventTimeUnixNano != 0 {
		r.Time = time.Unix(0, p.EventTimeUnixNano)
	}
	if len(p.Headers) > 0 {
		first := len(headers)
		for _, h := range p.Headers {
			headers = append(headers, Header{h.Name, h.Value})
		}
		r.Headers = headers[first:len(headers):len(headers)]
	}
	return headers
}

// ToProto fills p with the record. They share memory. Whatever p held is forgotten, but the structs of its headers are used again.
func (r *Record) ToProto(p *conveyorv1.Record) {
	p.Id, p.Key, p.Position, p.Payload = r.ID, r.Key, r.Position, r.Payload
	p.ContentType, p.Schema, p.Operation = r.ContentType, r.Schema, conveyorv1.Operation(r.Operation)
	p.EventTimeUnixNano = 0
	if !r.Time.IsZero() {
		p.EventTimeUnixNano = r.Time.UnixNano()
	}
	old := p.Headers[:cap(p.Headers)]
	p.Headers = p.Headers[:0]
	for i := range r.Headers {
		var h *conveyorv1.Header
		if i < len(old) {
			h = old[i]
		}
		if h == nil {
			h = new(conveyorv1.Header)
		}
		h.Name, h.Value = r.Headers[i].Name, r.Headers[i].Value
		p.Headers = append(p.Headers, h)
	}
}

// decoder turns encoded records into Records without copying and uses its memory again for every batch.
type decoder struct {
	scratch conveyorv1.Record
	records []Record
	headers []Header
}

func (d *decoder) reset() {
	clear(d.records)
	clear(d.headers)
	d.records, d.headers = d.records[:0], d.headers[:0]
}

// add decodes a record at the end of d.records. The record shares the memory of encoded.
func (d *decoder) add(encoded []byte) error {
	p := &d.scratch
	p.Id, p.Key, p.Position, p.Payload, p.ContentType, p.Schema = "", nil, nil, nil, "", ""
	p.Headers, p.EventTimeUnixNano, p.Operation = p.Headers[:0], 0, 0
	if err := p.UnmarshalVTUnsafe(encoded); err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	d.records = append(d.records, Record{})
	d.headers = d.records[len(d.records)-1].fromProto(p, d.headers)
	return nil
}
