package sdk

import (
	"strconv"
	"unsafe"

	"github.com/conveyor-etl/conveyor/protos/wire"
)

// identity gives ids to the records of one lane.
type identity struct {
	uid, partition string
	prefix         string // the id of an empty position
	preceding      []byte // the last position
	ordinal        int    // records without a position since then
	buf            []byte
}

func newIdentity(uid, partition string, from Position) *identity {
	return &identity{
		uid: uid, partition: partition, prefix: wire.RecordID(uid, partition, nil),
		preceding: append([]byte(nil), from...),
	}
}

// of returns the id of the next record of the lane. It is valid until the next call.
func (n *identity) of(r *Record) string {
	if len(r.Position) == 0 {
		n.ordinal++
		if r.ID != "" {
			return r.ID
		}
		return n.within()
	}
	n.ordinal = 0
	n.preceding = append(n.preceding[:0], r.Position...)
	if r.ID != "" {
		return r.ID
	}
	if !plain(r.Position) {
		return wire.RecordID(n.uid, n.partition, r.Position)
	}
	n.buf = append(append(n.buf[:0], n.prefix...), r.Position...)
	return unsafe.String(unsafe.SliceData(n.buf), len(n.buf))
}

func (n *identity) within() string {
	if !plain(n.preceding) {
		return wire.InsideID(n.uid, n.partition, n.preceding, n.ordinal)
	}
	n.buf = append(append(n.buf[:0], n.prefix...), n.preceding...)
	n.buf = strconv.AppendInt(append(n.buf, '+'), int64(n.ordinal), 10)
	return unsafe.String(unsafe.SliceData(n.buf), len(n.buf))
}

// plain reports whether wire.RecordID takes a position as it is. It may say no too often, never yes: then wire is asked.
func plain(position []byte) bool {
	for _, c := range position {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= ':', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
