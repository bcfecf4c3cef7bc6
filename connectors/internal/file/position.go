package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"

	"github.com/conveyor-etl/conveyor/sdk"
)

// prefixBytes is how much of the beginning of a file makes its identity.
const prefixBytes = 1 << 10

// position is a place in a file that is known by its beginning: a hash of its first bytes, at most 1 KiB and never more than lies before
// the offset. So the position of a record is always the same, also when the file grows, and two files have one identity only where all
// that was read of them, or their first KiB, is the same. Its text is HASH:OFFSET.
type position struct {
	hash   string
	offset int64
}

// none is the hash of nothing.
const none = "0"

func hashPrefix(prefix []byte) string {
	if len(prefix) == 0 {
		return none
	}
	sum := sha256.Sum256(prefix)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

func parsePosition(p sdk.Position) (position, error) {
	hash, offset, ok := bytes.Cut(p, []byte(":"))
	n, err := strconv.ParseInt(string(offset), 10, 64)
	if !ok || err != nil || n < 0 || len(hash) == 0 {
		return position{}, fmt.Errorf("%w: %q is not a position in a file", sdk.ErrPositionGone, p)
	}
	return position{string(hash), n}, nil
}

func (p position) String() string { return p.hash + ":" + strconv.FormatInt(p.offset, 10) }

// identityAt returns the hash that positions at offset have in a file. It errs with io.EOF when the file does not reach so far.
func identityAt(f io.ReaderAt, offset int64) (string, error) {
	prefix := make([]byte, min(offset, prefixBytes))
	if _, err := f.ReadAt(prefix, 0); err != nil {
		return "", err
	}
	return hashPrefix(prefix), nil
}

// marker makes the positions of one file, for offsets that only grow.
type marker struct {
	file io.ReaderAt
	hash string
	of   int64 // offset that hash is for
	buf  []byte
}

// at returns the position at offset. It is valid until the next call.
func (m *marker) at(offset int64) (sdk.Position, error) {
	if m.hash == "" || m.of != offset && m.of < prefixBytes {
		hash, err := identityAt(m.file, offset)
		if err != nil {
			return nil, fmt.Errorf("read the beginning: %w", err)
		}
		m.hash = hash
	}
	m.of = offset
	m.buf = append(append(m.buf[:0], m.hash...), ':')
	m.buf = strconv.AppendInt(m.buf, offset, 10)
	return m.buf, nil
}
