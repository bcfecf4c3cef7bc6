package file

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
)

// firstBytes is how much of bad input is kept.
const firstBytes = 64 << 10

// unit is the bytes of one record: a line, or, in CSV, several when a quoted value spans lines.
type unit struct {
	text   []byte // without the line's end; nil when it was too long
	start  int64  // offset of the first byte
	end    int64  // offset behind the line's end
	long   *longUnit
	closed bool // it had a line's end
}

// longUnit is what is kept of a unit that is longer than allowed.
type longUnit struct {
	length int64
	hash   hash.Hash
	first  []byte
}

func (l *longUnit) write(b []byte) {
	l.length += int64(len(b))
	l.hash.Write(b)
	l.first = append(l.first, b[:min(len(b), firstBytes-len(l.first))]...)
}

func (l *longUnit) sum() string { return hex.EncodeToString(l.hash.Sum(nil)) }

func newLong(b []byte) *longUnit {
	l := &longUnit{hash: sha256.New()}
	l.write(b)
	return l
}

// errMore says that the file ends within a unit, which may go on when the file grows.
var errMore = errors.New("end of file within a line")

// splitter cuts a file into units in memory that does not depend on their length. After io.EOF or errMore, next may be called again: it
// goes on where the file has grown.
type splitter struct {
	in     *bufio.Reader
	quotes bool // a line's end within double quotes does not end the unit
	max    int
	offset int64 // of what in returns next

	start    int64
	text     []byte // of the unit in the making
	state    csvState
	long     *longUnit
	pendingR bool // a CR that belongs to long unless LF follows
}

func newSplitter(r io.Reader, offset int64, maxBytes int, quotes bool) *splitter {
	return &splitter{in: bufio.NewReaderSize(r, 256<<10), quotes: quotes, max: maxBytes, offset: offset, start: offset}
}

// next returns the next unit, valid until the following call.
func (s *splitter) next() (unit, error) {
	for {
		part, err := s.in.ReadSlice('\n')
		s.offset += int64(len(part))
		if err == nil && s.long == nil && len(s.text) == 0 && len(part) <= s.max && !s.splits(part) {
			u := unit{text: trimEnd(part), start: s.start, end: s.offset, closed: true}
			s.start = s.offset
			return u, nil
		}
		s.take(part)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err == nil && s.state == csvQuoted && s.long == nil:
		case err == nil:
			return s.finish(true), nil
		case errors.Is(err, io.EOF) && s.offset > s.start:
			return unit{}, errMore
		default:
			return unit{}, err
		}
	}
}

// splits reports whether a line ends within quotes, where that matters.
func (s *splitter) splits(part []byte) bool { return s.quotes && s.state.after(part) == csvQuoted }

func (s *splitter) take(part []byte) {
	if s.quotes {
		s.state = s.state.after(part)
	}
	switch {
	case s.long != nil:
		s.takeLong(part, len(part) > 0 && part[len(part)-1] == '\n')
	case len(s.text)+len(part) > s.max+2:
		s.long = newLong(nil)
		s.takeLong(s.text, false)
		s.takeLong(part, len(part) > 0 && part[len(part)-1] == '\n')
		s.text = s.text[:0]
	default:
		s.text = append(s.text, part...)
	}
}

// takeLong adds to the long unit, without the line's end when it is ended by one.
func (s *splitter) takeLong(part []byte, ended bool) {
	if len(part) == 0 {
		return
	}
	if s.pendingR && part[0] != '\n' {
		s.long.write([]byte{'\r'})
	}
	s.pendingR = false
	if ended {
		part = part[:len(part)-1]
	}
	if n := len(part); n > 0 && part[n-1] == '\r' {
		part = part[:n-1]
		s.pendingR = !ended
	}
	s.long.write(part)
}

// finish returns the unit in the making.
func (s *splitter) finish(closed bool) unit {
	u := unit{text: s.text, start: s.start, end: s.offset, long: s.long, closed: closed}
	if closed {
		u.text = trimEnd(u.text)
	}
	if u.long != nil && s.pendingR && !closed {
		u.long.write([]byte{'\r'})
	}
	if u.long == nil && len(u.text) > s.max {
		u.long = newLong(u.text)
	}
	if u.long != nil {
		u.text = nil
	}
	s.start, s.text, s.state, s.long, s.pendingR = s.offset, s.text[:0], csvStart, nil, false
	return u
}

// trimEnd cuts off LF or CRLF.
func trimEnd(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
}
