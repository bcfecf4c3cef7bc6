package file

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/conveyor-etl/conveyor/connectors/internal/jsontext"
)

var errQuotes = errors.New("a quote in a place where CSV has none")

// csvState is where in a CSV record one is.
type csvState int

const (
	csvStart   csvState = iota // of a value
	csvPlain                   // in a value without quotes
	csvQuoted                  // within quotes
	csvClosing                 // behind a quote within quotes, which ends the value or is doubled
)

// after returns the state behind part. A quote opens only at the start of a value, so a stray one spoils no more than its own line.
func (s csvState) after(part []byte) csvState {
	if s != csvQuoted && s != csvClosing && bytes.IndexByte(part, '"') < 0 && bytes.HasSuffix(part, []byte("\n")) {
		return csvPlain
	}
	for _, c := range part {
		switch {
		case s == csvQuoted && c == '"':
			s = csvClosing
		case s == csvQuoted:
		case c == ',':
			s = csvStart
		case c == '"' && (s == csvStart || s == csvClosing):
			s = csvQuoted
		default:
			s = csvPlain
		}
	}
	return s
}

// splitCSV appends the values of one CSV record to values. They alias record or scratch, which it returns grown.
func splitCSV(values [][]byte, scratch, record []byte) (out [][]byte, grown []byte, err error) {
	for at := 0; ; {
		var value []byte
		if at < len(record) && record[at] == '"' {
			var n int
			value, scratch, n = quotedValue(scratch, record[at+1:])
			if n < 0 {
				return nil, scratch, errQuotes
			}
			at += 1 + n
			if at < len(record) && record[at] != ',' {
				return nil, scratch, errQuotes
			}
		} else {
			end := bytes.IndexByte(record[at:], ',')
			if end < 0 {
				end = len(record) - at
			}
			value = record[at : at+end]
			if bytes.IndexByte(value, '"') >= 0 {
				return nil, scratch, errQuotes
			}
			at += end
		}
		values = append(values, value)
		if at >= len(record) {
			return values, scratch, nil
		}
		at++ // the comma
	}
}

// quotedValue reads what follows an opening quote and returns the value and the length up to behind the closing quote, or -1.
func quotedValue(scratch, rest []byte) (value, grown []byte, n int) {
	from := len(scratch)
	for at := 0; ; {
		i := bytes.IndexByte(rest[at:], '"')
		if i < 0 {
			return nil, scratch, -1
		}
		scratch = append(scratch, rest[at:at+i]...)
		at += i + 1
		if at == len(rest) || rest[at] != '"' {
			return scratch[from:len(scratch):len(scratch)], scratch, at
		}
		scratch = append(scratch, '"')
		at++
	}
}

// header is the names of the columns of a CSV file, in order, with the names as JSON.
type header struct {
	names  []string
	quoted [][]byte
}

func parseHeader(record []byte) (header, error) {
	values, _, err := splitCSV(nil, nil, record)
	if err != nil {
		return header{}, fmt.Errorf("the header line: %w", err)
	}
	var h header
	for _, value := range values {
		name := string(value)
		if slices.Contains(h.names, name) {
			return header{}, fmt.Errorf("the header line has the column %q twice", name)
		}
		h.names = append(h.names, name)
		h.quoted = append(h.quoted, jsontext.AppendString(nil, value))
	}
	return h, nil
}

// appendObject appends the JSON object of a CSV record.
func (h header) appendObject(dst []byte, values [][]byte) ([]byte, error) {
	if len(values) != len(h.names) {
		return dst, fmt.Errorf("the record has %d columns, the header %d", len(values), len(h.names))
	}
	dst = append(dst, '{')
	for i, value := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, h.quoted[i]...), ':')
		dst = jsontext.AppendString(dst, value)
	}
	return append(dst, '}'), nil
}

// appendCSVValue appends a value, quoted where it must be.
func appendCSVValue(dst, value []byte) []byte {
	if !bytes.ContainsAny(value, ",\"\r\n") && (len(value) == 0 || value[0] != ' ') {
		return append(dst, value...)
	}
	dst = append(dst, '"')
	for _, c := range value {
		if c == '"' {
			dst = append(dst, '"')
		}
		dst = append(dst, c)
	}
	return append(dst, '"')
}
