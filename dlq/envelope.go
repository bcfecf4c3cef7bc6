package dlq

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
	"unicode/utf8"
)

// An envelope is what the stream stores of a letter:
//
//	"CVDL" | version (1 byte) | fields | CRC-32C of everything before it (4 bytes, big endian)
//
// Version 1 writes its fields in one fixed order, integers as varints and strings behind their length, so that equal letters have equal
// envelopes. The magic and the trailing checksum hold for every version: a program tells damage from an envelope newer than itself.
const (
	envelopeMagic   = "CVDL"
	envelopeVersion = 1

	maxMessageBytes        = 8 << 10
	maxAttemptMessageBytes = 1 << 10
	maxAttempts            = 32

	// envelopeOverhead is the room for everything but the record: twice what cut messages and attempts need, for the names and ids.
	envelopeOverhead = 128 << 10
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	// noTime marks a zero time, which has no Unix time of its own.
	noTime int64 = math.MinInt64

	errTruncated = errors.New("the envelope ends within a field")
)

// encode appends the envelope of l to b.
func encode(b []byte, l *Letter) []byte {
	start := len(b)
	b = append(b, envelopeMagic...)
	b = append(b, envelopeVersion)
	for _, s := range [...]string{l.LetterID, l.RecordID, l.Namespace, l.Pipeline, l.Stage, l.Edge, l.Lane} {
		b = appendString(b, s)
	}
	b = binary.AppendUvarint(b, l.Generation)
	b = binary.AppendUvarint(b, uint64(l.Replays))
	b = appendString(b, l.Class)
	b = appendString(b, l.Code)
	b = appendString(b, cut(l.Message, maxMessageBytes))
	b = appendString(b, l.Service)
	b = appendString(b, l.ServiceVersion)

	kept := keptAttempts(l.Attempts)
	b = binary.AppendUvarint(b, uint64(max(l.AttemptCount, uint32(min(len(l.Attempts), math.MaxUint32)))))
	b = binary.AppendUvarint(b, uint64(len(kept)))
	for i := range kept {
		b = binary.AppendVarint(b, unixNano(kept[i].Time))
		b = appendString(b, kept[i].Code)
		b = appendString(b, cut(kept[i].Message, maxAttemptMessageBytes))
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(l.Record, castagnoli))
	b = binary.AppendUvarint(b, uint64(len(l.Record)))
	b = append(b, l.Record...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// contextSize is at least what the envelope of l takes without the record.
func contextSize(l *Letter) int {
	const fixed, perAttempt = 128, 32
	id := len(l.LetterID)
	if id == 0 {
		// Escaping makes three bytes of one.
		id = 3*(len(l.Namespace)+len(l.Pipeline)+len(l.Stage)+len(l.Edge)) + len(l.RecordID) + 48
	}
	n := fixed + id + len(l.RecordID) + len(l.Namespace) + len(l.Pipeline) + len(l.Stage) + len(l.Edge) + len(l.Lane) +
		len(l.Class) + len(l.Code) + min(len(l.Message), maxMessageBytes) + len(l.Service) + len(l.ServiceVersion)
	for i := range l.Attempts {
		// The first and the last ones, as keptAttempts has it.
		if i == 0 || i > len(l.Attempts)-maxAttempts {
			n += perAttempt + len(l.Attempts[i].Code) + min(len(l.Attempts[i].Message), maxAttemptMessageBytes)
		}
	}
	return n
}

// decode reads an envelope. The letter shares no memory with b.
func decode(b []byte) (Letter, error) {
	var l Letter
	if len(b) < len(envelopeMagic)+1+crc32.Size {
		return l, fmt.Errorf("the envelope has only %d bytes", len(b))
	}
	body, sum := b[:len(b)-crc32.Size], binary.BigEndian.Uint32(b[len(b)-crc32.Size:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return l, fmt.Errorf("the checksum is %08x and should be %08x", got, sum)
	}
	if string(body[:len(envelopeMagic)]) != envelopeMagic {
		return l, errors.New("the bytes are not an envelope")
	}
	if v := body[len(envelopeMagic)]; v != envelopeVersion {
		return l, fmt.Errorf("the envelope has version %d, this program reads version %d", v, envelopeVersion)
	}
	r := reader{b: body[len(envelopeMagic)+1:]}
	for _, s := range [...]*string{&l.LetterID, &l.RecordID, &l.Namespace, &l.Pipeline, &l.Stage, &l.Edge, &l.Lane} {
		*s = r.string()
	}
	l.Generation = r.uvarint()
	l.Replays = r.uint32()
	for _, s := range [...]*string{&l.Class, &l.Code, &l.Message, &l.Service, &l.ServiceVersion} {
		*s = r.string()
	}
	l.AttemptCount = r.uint32()
	if n := r.uvarint(); n > 0 && r.err == nil {
		// An attempt takes three bytes at least, so a lying count cannot make us allocate.
		if n > uint64(len(r.b))/3 {
			return l, errTruncated
		}
		l.Attempts = make([]Attempt, n)
		for i := range l.Attempts {
			l.Attempts[i] = Attempt{Time: fromUnixNano(r.varint()), Code: r.string(), Message: r.string()}
		}
	}
	l.Checksum = r.fixed32()
	l.Record = append([]byte{}, r.bytes()...)
	if r.err != nil {
		return l, r.err
	}
	if len(r.b) > 0 {
		return l, fmt.Errorf("%d bytes follow the record", len(r.b))
	}
	if got := crc32.Checksum(l.Record, castagnoli); got != l.Checksum {
		return l, fmt.Errorf("the record's checksum is %08x and should be %08x", got, l.Checksum)
	}
	return l, nil
}

// keptAttempts leaves the first attempt and the last ones: how it began and how it ended.
func keptAttempts(all []Attempt) []Attempt {
	if len(all) <= maxAttempts {
		return all
	}
	kept := make([]Attempt, 0, maxAttempts)
	kept = append(kept, all[0])
	return append(kept, all[len(all)-maxAttempts+1:]...)
}

// cut shortens s to at most n bytes without splitting a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := n; i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:n]
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return noTime
	}
	return t.UnixNano()
}

func fromUnixNano(n int64) time.Time {
	if n == noTime {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// reader takes fields off the front of b; after the first error it returns zero values.
type reader struct {
	b   []byte
	err error
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uint32() uint32 {
	v := r.uvarint()
	if v > math.MaxUint32 {
		r.fail()
		return 0
	}
	return uint32(v)
}

func (r *reader) fixed32() uint32 {
	if len(r.b) < 4 {
		r.fail()
		return 0
	}
	v := binary.BigEndian.Uint32(r.b)
	r.b = r.b[4:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string { return string(r.bytes()) }

func (r *reader) fail() {
	r.b = nil
	if r.err == nil {
		r.err = errTruncated
	}
}
