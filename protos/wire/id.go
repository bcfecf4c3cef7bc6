package wire

import (
	"encoding/base64"
	"strconv"
)

// RecordID returns the id of a record: the source's uid, the partition and the position, joined by "/". Parts with other characters than
// letters, digits and "._:@=-" are written as "~" and base64url, so that ids can be typed, logged and cut at their slashes.
func RecordID(uid, partition string, position []byte) string {
	id := make([]byte, 0, len(uid)+len(partition)+len(position)+2)
	id = append(id, uid...)
	id = append(id, '/')
	id = appendPart(id, []byte(partition))
	id = append(id, '/')
	id = appendPart(id, position)
	return string(id)
}

// InsideID returns the id of a record inside a larger unit, which has no position of its own: the position before the unit and the
// record's ordinal in it, counted from 1.
func InsideID(uid, partition string, preceding []byte, ordinal int) string {
	return RecordID(uid, partition, preceding) + "+" + strconv.Itoa(ordinal)
}

// ChildID returns the id of a record that a stage made out of another one; index counts the children of one parent from 0.
func ChildID(parent, stage string, index int) string {
	return parent + "/" + stage + "/" + strconv.Itoa(index)
}

func appendPart(dst, part []byte) []byte {
	for _, c := range part {
		if !plain(c) {
			dst = append(dst, '~')
			return base64.RawURLEncoding.AppendEncode(dst, part)
		}
	}
	return append(dst, part...)
}

func plain(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '.', '_', ':', '@', '=', '-': // not '+', which InsideID puts before an ordinal
		return true
	}
	return false
}
