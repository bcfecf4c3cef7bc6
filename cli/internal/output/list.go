package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/conveyor-etl/conveyor/dsl"
)

// ListWriter writes a list as JSON item by item, so that a long one needs no memory. The text is that of Format.Print.
type ListWriter struct {
	w io.Writer
	n int
}

// NewListWriter begins a list; kind is that of the list.
func NewListWriter(w io.Writer, kind string) (*ListWriter, error) {
	_, err := fmt.Fprintf(w, "{\n  \"apiVersion\": %q,\n  \"kind\": %q,\n  \"items\": [", dsl.APIVersion, kind)
	return &ListWriter{w: w}, err
}

// Add writes one item.
func (l *ListWriter) Add(item any) error {
	var b bytes.Buffer
	if l.n > 0 {
		b.WriteByte(',')
	}
	l.n++
	b.WriteString("\n    ")
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("    ", "  ")
	if err := enc.Encode(item); err != nil {
		return fmt.Errorf("encode as JSON: %w", err)
	}
	_, err := l.w.Write(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	return err
}

// Close ends the list.
func (l *ListWriter) Close() error {
	end := "]\n}\n"
	if l.n > 0 {
		end = "\n  " + end
	}
	_, err := io.WriteString(l.w, end)
	return err
}
