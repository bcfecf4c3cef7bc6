package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/conveyor-etl/conveyor/connectors/internal/jsontext"
	"github.com/conveyor-etl/conveyor/sdk"
)

// encoder turns records into the bytes of the sink's format.
type encoder struct {
	cfg     SinkConfig
	field   []byte   // recordId as JSON
	columns []string // csv; nil until they are known
	free    bool     // csv: the columns were not given but taken from a record
	buf     []byte
	scratch []byte
	values  map[string][]byte
}

func newEncoder(cfg SinkConfig) *encoder {
	e := &encoder{cfg: cfg, values: map[string][]byte{}, field: jsontext.AppendString(nil, []byte(cfg.RecordID)), free: len(cfg.Columns) == 0}
	if len(cfg.Columns) > 0 {
		e.columns = slices.Clone(cfg.Columns)
		if cfg.RecordID != "" && !slices.Contains(e.columns, cfg.RecordID) {
			e.columns = append(e.columns, cfg.RecordID)
		}
	}
	return e
}

func permanent(code, format string, args ...any) error {
	return sdk.Permanent(sdk.Code(code, fmt.Errorf(format, args...)))
}

// batch encodes what it can, and returns what failed for good. A new file begins with a header.
func (e *encoder) batch(batch []sdk.Record, newFile bool) ([]byte, sdk.Partial) {
	e.buf = e.buf[:0]
	headed := !newFile
	err := sdk.Each(batch, func(r sdk.Record) error {
		if e.cfg.Format == formatCSV && !headed {
			if err := e.inferColumns(r.Payload); err != nil {
				return err
			}
			e.buf = append(e.buf, e.header()...)
			headed = true
		}
		from := len(e.buf)
		if err := e.record(&r); err != nil {
			e.buf = e.buf[:from]
			return err
		}
		return nil
	})
	var failed sdk.Partial
	errors.As(err, &failed)
	if len(failed) == len(batch) {
		e.buf = e.buf[:0] // perhaps a header
		e.forgetHeader(newFile)
	}
	return e.buf, failed
}

func (e *encoder) record(r *sdk.Record) error {
	switch e.cfg.Format {
	case formatLines:
		if bytes.IndexByte(r.Payload, '\n') >= 0 {
			return permanent("NOT_ONE_LINE", "the payload has several lines")
		}
		e.buf = append(append(e.buf, r.Payload...), '\n')
		return nil
	case formatCSV:
		return e.csv(r)
	}
	valid, compact := jsontext.Valid(r.Payload)
	if !valid {
		return permanent("NOT_JSON", "the payload is not JSON")
	}
	payload := r.Payload
	if !compact {
		e.scratch = jsontext.AppendCompact(e.scratch[:0], payload)
		payload = e.scratch
	}
	if e.cfg.RecordID == "" {
		e.buf = append(append(e.buf, payload...), '\n')
		return nil
	}
	return e.withID(payload, r.ID)
}

// withID writes an object with one member more.
func (e *encoder) withID(payload []byte, id string) error {
	taken := false
	if !jsontext.Object(payload, func(name string, _ []byte) { taken = taken || name == e.cfg.RecordID }) {
		return permanent("NOT_AN_OBJECT", "the payload is not a JSON object, so it cannot have the field %q", e.cfg.RecordID)
	}
	if taken {
		return permanent("FIELD_TAKEN", "the payload has the field %q already", e.cfg.RecordID)
	}
	e.buf = append(e.buf, payload[:len(payload)-1]...)
	if len(payload) > len("{}") {
		e.buf = append(e.buf, ',')
	}
	e.buf = append(append(e.buf, e.field...), ':')
	e.buf = jsontext.AppendString(e.buf, []byte(id))
	e.buf = append(e.buf, "}\n"...)
	return nil
}

func (e *encoder) inferColumns(payload []byte) error {
	if e.columns != nil {
		return nil
	}
	var columns []string
	if valid, _ := jsontext.Valid(payload); !valid || !jsontext.Object(payload, func(name string, _ []byte) {
		if !slices.Contains(columns, name) {
			columns = append(columns, name)
		}
	}) {
		return permanent("NOT_AN_OBJECT", "the payload is not a JSON object")
	}
	if e.cfg.RecordID != "" && !slices.Contains(columns, e.cfg.RecordID) {
		columns = append(columns, e.cfg.RecordID)
	}
	if len(columns) == 0 {
		return permanent("NO_COLUMNS", "the first record has no fields to name the columns after")
	}
	e.columns = columns
	return nil
}

// forgetHeader undoes inferColumns when the header did not get into the file.
func (e *encoder) forgetHeader(newFile bool) {
	if newFile && e.free {
		e.columns = nil
	}
}

// header returns the header line, which is empty for other formats than csv and while the columns are not known.
func (e *encoder) header() []byte {
	if e.cfg.Format != formatCSV || len(e.columns) == 0 {
		return nil
	}
	var line []byte
	for i, name := range e.columns {
		if i > 0 {
			line = append(line, ',')
		}
		line = appendCSVValue(line, []byte(name))
	}
	return append(line, '\n')
}

func (e *encoder) csv(r *sdk.Record) error {
	clear(e.values)
	unknown := ""
	valid, _ := jsontext.Valid(r.Payload)
	if !valid || !jsontext.Object(r.Payload, func(name string, value []byte) {
		if e.free && !slices.Contains(e.columns, name) {
			unknown = name
		}
		e.values[name] = value
	}) {
		return permanent("NOT_AN_OBJECT", "the payload is not a JSON object")
	}
	if unknown != "" {
		return permanent("UNKNOWN_COLUMN", "the record has the field %q, but the file, whose columns are those of its first record, does not; name the columns", unknown)
	}
	if _, taken := e.values[e.cfg.RecordID]; taken && e.cfg.RecordID != "" {
		return permanent("FIELD_TAKEN", "the payload has the field %q already", e.cfg.RecordID)
	}
	for i, name := range e.columns {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		if name == e.cfg.RecordID {
			e.buf = appendCSVValue(e.buf, []byte(r.ID))
			continue
		}
		e.buf = e.appendValue(e.buf, e.values[name], len(e.columns) == 1)
	}
	e.buf = append(e.buf, '\n')
	return nil
}

// appendValue appends the text of a JSON value: that of a string, nothing for null and for what is absent, JSON for the others. A lone
// empty value is quoted, since a blank line would not be a record.
func (e *encoder) appendValue(dst, value []byte, lone bool) []byte {
	switch {
	case len(value) == 0 || string(value) == "null" || string(value) == `""`:
		if lone {
			return append(dst, `""`...)
		}
		return dst
	case value[0] == '"':
		return appendCSVValue(dst, []byte(jsontext.Unquote(value)))
	case value[0] == '{' || value[0] == '[':
		return appendCSVValue(dst, jsontext.AppendCompact(nil, value))
	}
	return append(dst, value...)
}

// readHeader takes the columns of a file that is gone on with.
func (e *encoder) readHeader(f *os.File, path string) error {
	s := newSplitter(io.NewSectionReader(f, 0, 1<<62), 0, 1<<20, true)
	u, err := s.next()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return ioError(path, "read the header of", err)
	}
	h, err := parseHeader(u.text)
	if err != nil {
		return notOurs("go on with %s: %w", path, err)
	}
	if e.columns != nil && !slices.Equal(e.columns, h.names) {
		return notOurs("go on with %s: its columns are %q, the config says %q; move it away", path, h.names, e.columns)
	}
	e.columns = h.names
	return nil
}
