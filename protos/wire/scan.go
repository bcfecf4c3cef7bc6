package wire

import (
	"encoding/binary"
	"errors"
)

var errMalformed = errors.New("malformed protobuf")

// uvarint is binary.Uvarint with a short way for the two lengths that tags and most fields have.
func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	if len(b) > 1 && b[1] < 0x80 {
		return uint64(b[0]&0x7f) | uint64(b[1])<<7, 2
	}
	return binary.Uvarint(b)
}

func putUvarint(b []byte, v uint64) int { return binary.PutUvarint(b, v) }

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// skip returns the length of the value that follows a tag.
func skip(b []byte, tag uint64) (int, error) {
	switch tag & 7 {
	case 0:
		if _, n := uvarint(b); n > 0 {
			return n, nil
		}
	case 1:
		if len(b) >= 8 {
			return 8, nil
		}
	case 2:
		if size, n := uvarint(b); n > 0 && size <= uint64(len(b)-n) {
			return n + int(size), nil
		}
	case 5:
		if len(b) >= 4 {
			return 4, nil
		}
	}
	return 0, errMalformed
}

// Fields are the parts of an encoded record that Conveyor itself looks at. They alias the record.
type Fields struct {
	ID, Key, Position []byte
}

// Scan reads the fields of an encoded record by walking its tags. It errs on malformed protobuf.
func Scan(record []byte) (Fields, error) {
	var f Fields
	for at := 0; at < len(record); {
		tag, n := uvarint(record[at:])
		if n <= 0 || tag>>3 == 0 {
			return Fields{}, errMalformed
		}
		at += n
		if tag&7 != 2 {
			length, err := skip(record[at:], tag)
			if err != nil {
				return Fields{}, err
			}
			at += length
			continue
		}
		size, n := uvarint(record[at:])
		if n <= 0 || size > uint64(len(record)-at-n) {
			return Fields{}, errMalformed
		}
		at += n
		value := record[at : at+int(size)]
		at += int(size)
		switch tag >> 3 {
		case 1:
			f.ID = value
		case 2:
			f.Key = value
		case 3:
			f.Position = value
		}
	}
	return f, nil
}

// HashKey returns a hash of a record's key that is the same in every process: FNV-1a, 64 bits. A record without a key hashes to 0, and
// only such a record does.
func HashKey(key []byte) uint64 {
	if len(key) == 0 {
		return 0
	}
	h := uint64(14695981039346656037)
	for _, c := range key {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return max(h, 1)
}
