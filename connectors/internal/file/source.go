// Package file is the source that reads a file of lines and the sink that writes one.
package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"
	"unicode/utf8"

	"github.com/conveyor-etl/conveyor/connectors/internal/jsontext"
	"github.com/conveyor-etl/conveyor/sdk"
)

const (
	formatNDJSON = "ndjson"
	formatCSV    = "csv"
	formatLines  = "lines"
)

// SourceConfig is the config of the source.
type SourceConfig struct {
	Path         string `conveyor:"required" doc:"the file to read"`
	Format       string `conveyor:"enum=ndjson|csv|lines" default:"ndjson" doc:"ndjson: a JSON value to a line; csv: a header line, then records, which become JSON objects of strings; lines: text"`
	Follow       bool   `doc:"wait for the file to grow, and go on with the new file when it is rotated"`
	MaxLineBytes int    `default:"1048576" doc:"longest record that is read; a longer one becomes a dead letter"`
}

// Validate checks the limits.
func (c SourceConfig) Validate() error {
	if c.MaxLineBytes < 1 || c.MaxLineBytes > 2<<20 {
		return &sdk.ConfigError{Faults: []sdk.ConfigFault{{Field: "maxLineBytes", Message: "must be from 1 to 2097152"}}}
	}
	return nil
}

// pollEvery is how often a followed file is looked at.
const pollEvery = 50 * time.Millisecond

// Source returns the source "file".
func Source() sdk.Ability {
	return sdk.OpenSource("file", func(_ context.Context, o sdk.SourceOpening, cfg SourceConfig) (sdk.Reader, error) {
		r := &reader{cfg: cfg}
		if err := r.begin(o.From); err != nil {
			return nil, errors.Join(err, r.Close())
		}
		return r, nil
	})
}

// reader reads one file after the other; without follow there is only one.
type reader struct {
	cfg    SourceConfig
	file   *os.File
	later  []string // rotated files between the open one and the path
	split  *splitter
	mark   marker
	header header
	opened bool // the header and the byte order mark are behind us

	payload, scratch []byte
	values           [][]byte
}

func ioError(path, what string, err error) error {
	code := "IO_ERROR"
	if errors.Is(err, fs.ErrNotExist) {
		code = "FILE_NOT_FOUND"
	} else if errors.Is(err, fs.ErrPermission) {
		code = "PERMISSION_DENIED"
	}
	return sdk.Unavailable(sdk.Code(code, fmt.Errorf("%s %s: %w", what, path, cause(err))))
}

// cause drops the path that an error of package os repeats.
func cause(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// begin opens the file at a position, the file at the path or, when following, a rotated one.
func (r *reader) begin(from sdk.Position) error {
	if len(from) == 0 {
		return r.open(r.cfg.Path, 0)
	}
	at, err := parsePosition(from)
	if err != nil {
		return err
	}
	pathErr := r.openAt(r.cfg.Path, at)
	elsewhere := errors.Is(pathErr, sdk.ErrPositionGone) || errors.Is(pathErr, fs.ErrNotExist)
	if !r.cfg.Follow || !elsewhere {
		return pathErr
	}
	rotated, err := findRotated(r.cfg.Path, at)
	if err != nil {
		return err
	}
	if len(rotated) == 0 {
		return pathErr
	}
	r.later = rotated[1:]
	return r.openAt(rotated[0], at)
}

// openAt opens a file only if it is the one of the position.
func (r *reader) openAt(path string, at position) error {
	f, err := openRegular(path)
	if err != nil {
		return err
	}
	if err := checkIdentity(f, path, at); err != nil {
		return errors.Join(err, f.Close())
	}
	return r.use(f, at.offset)
}

func (r *reader) open(path string, offset int64) error {
	f, err := openRegular(path)
	if err != nil {
		return err
	}
	return r.use(f, offset)
}

// use goes on with an open file.
func (r *reader) use(f *os.File, offset int64) error {
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return errors.Join(ioError(f.Name(), "seek in", err), f.Close())
	}
	old := r.file
	r.file, r.opened = f, false
	r.mark = marker{file: f}
	r.split = newSplitter(f, offset, r.cfg.MaxLineBytes, r.cfg.Format == formatCSV)
	if r.cfg.Format == formatCSV && offset > 0 {
		if err := r.readHeader(); err != nil {
			return err
		}
	}
	if old != nil {
		if err := old.Close(); err != nil {
			return ioError(old.Name(), "close", err)
		}
	}
	return nil
}

func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, ioError(path, "open", err)
	}
	if !info.Mode().IsRegular() {
		return nil, sdk.Permanent(sdk.Code("NOT_A_FILE", fmt.Errorf("open %s: it is not a regular file but %s", path, info.Mode().Type())))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, ioError(path, "open", err)
	}
	return f, nil
}

// checkIdentity reports that the position is gone when f is another file than that of the position, or shorter.
func checkIdentity(f *os.File, path string, at position) error {
	info, err := f.Stat()
	if err != nil {
		return ioError(path, "stat", err)
	}
	if info.Size() < at.offset {
		return fmt.Errorf("%w: %s has %d bytes, reading stopped at byte %d of file %s: it was truncated or replaced",
			sdk.ErrPositionGone, path, info.Size(), at.offset, at.hash)
	}
	hash, err := identityAt(f, at.offset)
	if err != nil {
		return ioError(path, "read", err)
	}
	if hash != at.hash {
		return fmt.Errorf("%w: %s is another file now: it begins with %s, reading stopped at byte %d of %s",
			sdk.ErrPositionGone, path, hash, at.offset, at.hash)
	}
	return nil
}

func (r *reader) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// Read yields the records of the file, and of those that follow it.
func (r *reader) Read(ctx context.Context) iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		for {
			u, err := r.split.next()
			switch {
			case err == nil:
			case errors.Is(err, io.EOF) || errors.Is(err, errMore):
				var goOn bool
				if u, goOn, err = r.atEnd(ctx, errors.Is(err, errMore)); err != nil {
					yield(sdk.Record{}, err)
					return
				}
				if !goOn && u.end == 0 {
					return
				}
				if u.end == 0 {
					continue
				}
			default:
				yield(sdk.Record{}, ioError(r.file.Name(), "read", err))
				return
			}
			record, skip, err := r.record(u)
			if skip {
				continue
			}
			if !yield(record, err) {
				return
			}
		}
	}
}

// record makes a record of a unit, or a *sdk.BadRecord. Blank lines are skipped, unless the format is lines.
func (r *reader) record(u unit) (record sdk.Record, skip bool, err error) {
	if !r.opened && u.start == 0 {
		u.text = bytes.TrimPrefix(u.text, []byte("\xef\xbb\xbf"))
		r.opened = true
		if r.cfg.Format == formatCSV {
			return sdk.Record{}, true, r.takeHeader(u)
		}
	}
	at, err := r.mark.at(u.end)
	if err != nil {
		return sdk.Record{}, false, ioError(r.file.Name(), "read", err)
	}
	record = sdk.Record{Position: at, Payload: u.text, ContentType: "application/json"}
	if u.long != nil {
		return sdk.Record{}, false, r.bad(u, at, "LINE_TOO_LONG", fmt.Errorf("the record has %d bytes, %d are allowed", u.long.length, r.cfg.MaxLineBytes))
	}
	if r.cfg.Format == formatLines {
		record.ContentType = "text/plain; charset=utf-8"
		if !utf8.Valid(u.text) {
			return sdk.Record{}, false, r.bad(u, at, "INVALID_UTF8", errors.New("not valid UTF-8"))
		}
		return record, false, nil
	}
	if len(bytes.TrimSpace(u.text)) == 0 {
		return sdk.Record{}, true, nil
	}
	if r.cfg.Format == formatCSV {
		record.Payload, err = r.object(u.text)
		if err != nil {
			return sdk.Record{}, false, r.bad(u, at, "INVALID_CSV", err)
		}
		return record, false, nil
	}
	if valid, _ := jsontext.Valid(u.text); !valid {
		if !utf8.Valid(u.text) {
			return sdk.Record{}, false, r.bad(u, at, "INVALID_UTF8", errors.New("not valid UTF-8"))
		}
		return sdk.Record{}, false, r.bad(u, at, "INVALID_JSON", errors.New("not valid JSON"))
	}
	return record, false, nil
}

func (r *reader) object(text []byte) ([]byte, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not valid UTF-8")
	}
	var err error
	if r.values, r.scratch, err = splitCSV(r.values[:0], r.scratch[:0], text); err != nil {
		return nil, err
	}
	r.payload, err = r.header.appendObject(r.payload[:0], r.values)
	return r.payload, err
}

// readHeader reads the header line of a file whose reading begins behind it.
func (r *reader) readHeader() error {
	head := newSplitter(io.NewSectionReader(r.file, 0, 1<<62), 0, r.cfg.MaxLineBytes, true)
	u, err := head.next()
	if errors.Is(err, errMore) {
		u, err = head.finish(false), nil
	}
	if err != nil {
		return ioError(r.file.Name(), "read the header of", err)
	}
	r.opened = true
	u.text = bytes.TrimPrefix(u.text, []byte("\xef\xbb\xbf"))
	return r.takeHeader(u)
}

func (r *reader) takeHeader(u unit) (err error) {
	if u.long != nil || !utf8.Valid(u.text) {
		err = errors.New("the header line is too long or not valid UTF-8")
	} else {
		r.header, err = parseHeader(u.text)
	}
	if err != nil {
		return sdk.Permanent(sdk.Code("BAD_HEADER", fmt.Errorf("read %s: %w", r.file.Name(), err)))
	}
	return nil
}

// bad makes of a unit what goes to the dead letters.
func (r *reader) bad(u unit, at sdk.Position, code string, why error) error {
	about := struct {
		Path   string `json:"path"`
		Offset int64  `json:"offset"`
		Length int64  `json:"length"`
		SHA256 string `json:"sha256"`
		First  []byte `json:"first"`
	}{Path: r.file.Name(), Offset: u.start}
	if u.long != nil {
		about.Length, about.SHA256, about.First = u.long.length, u.long.sum(), u.long.first
	} else {
		sum := sha256.Sum256(u.text)
		about.Length, about.SHA256 = int64(len(u.text)), hex.EncodeToString(sum[:])
		about.First = u.text[:min(len(u.text), firstBytes)]
	}
	payload, err := json.Marshal(about)
	if err != nil {
		return fmt.Errorf("describe bad input: %w", err)
	}
	return &sdk.BadRecord{
		Record: sdk.Record{Position: at, Payload: payload, ContentType: "application/json"},
		Err:    sdk.Code(code, fmt.Errorf("%s at byte %d: %w", r.file.Name(), u.start, why)),
	}
}
