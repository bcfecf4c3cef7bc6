// Package logging sets up the loggers of Conveyor's binaries.
package logging

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Formats are the accepted names of formats: auto is text on a terminal and json elsewhere.
var Formats = []string{"auto", "text", "json"}

// Levels are the accepted names of levels, from the most to the fewest lines.
var Levels = []string{"debug", "info", "warn", "error"}

// New returns a logger that writes lines to w, one Write per line. Level and format are given by
// name, see [Levels] and [Formats]; another name is an error that lists them.
func New(w io.Writer, level, format string) (*slog.Logger, error) {
	lvl, err := ParseLevel(level)
	if err != nil {
		return nil, err
	}
	if format == "auto" {
		format = "json"
		if isTerminal(w) {
			format = "text"
		}
	}
	switch format {
	case "text":
		return slog.New(newConsole(w, lvl)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: lvl})), nil
	}
	return nil, fmt.Errorf("log format %q is not one of %s", format, strings.Join(Formats, ", "))
}

// ParseLevel returns the level with the given name, in any case.
func ParseLevel(name string) (slog.Level, error) {
	var lvl slog.Level
	if !slices.Contains(Levels, strings.ToLower(name)) || lvl.UnmarshalText([]byte(name)) != nil {
		return 0, fmt.Errorf("log level %q is not one of %s", name, strings.Join(Levels, ", "))
	}
	return lvl, nil
}

// Discard returns a logger that writes nothing, for parameters where nil means no logs.
func Discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// console writes "15:04:05.000 INFO  message key=value". The attributes are left to slog's own text
// handler, which knows quoting and groups; only time, level and message are laid out here.
type console struct {
	out   *output
	attrs slog.Handler // writes to out.line
}

// output is shared by all handlers derived from one.
type output struct {
	mu   sync.Mutex
	line bytes.Buffer
	w    io.Writer
}

func newConsole(w io.Writer, level slog.Level) *console {
	out := &output{w: w}
	return &console{out: out, attrs: slog.NewTextHandler(&out.line, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			// The handler's own level and its message, which Handle leaves empty.
			if _, isLevel := a.Value.Any().(slog.Level); len(groups) == 0 &&
				(a.Key == slog.LevelKey && isLevel || a.Equal(slog.String(slog.MessageKey, ""))) {
				return slog.Attr{}
			}
			return a
		},
	})}
}

func (c *console) Enabled(ctx context.Context, l slog.Level) bool { return c.attrs.Enabled(ctx, l) }

func (c *console) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &console{out: c.out, attrs: c.attrs.WithAttrs(attrs)}
}

func (c *console) WithGroup(name string) slog.Handler {
	return &console{out: c.out, attrs: c.attrs.WithGroup(name)}
}

func (c *console) Handle(ctx context.Context, r slog.Record) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	line := &c.out.line
	line.Reset()
	if !r.Time.IsZero() {
		line.WriteString(r.Time.Format("15:04:05.000 "))
	}
	msg := r.Message
	if strings.ContainsFunc(msg, unicode.IsControl) {
		msg = strconv.Quote(msg) // one record, one line
	}
	fmt.Fprintf(line, "%-5s %s", r.Level, msg)
	length := line.Len()
	line.WriteByte(' ')
	attrs := slog.NewRecord(time.Time{}, r.Level, "", 0)
	r.Attrs(func(a slog.Attr) bool { attrs.AddAttrs(a); return true })
	if err := c.attrs.Handle(ctx, attrs); err != nil {
		return err
	}
	if line.Len() == length+2 { // no attributes: only their newline
		line.Truncate(length)
		line.WriteByte('\n')
	}
	_, err := c.out.w.Write(line.Bytes())
	return err
}
