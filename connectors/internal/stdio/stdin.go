package stdio

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/conveyor-etl/conveyor/connectors/internal/jsontext"
	"github.com/conveyor-etl/conveyor/sdk"
)

// InConfig is the config of stdin.
type InConfig struct {
	Format string `conveyor:"enum=ndjson|lines" default:"ndjson" doc:"ndjson: every line is JSON; lines: every line is text"`
}

const maxLine = 1 << 20

// Stdin returns the ability "stdin", a source that reads lines from in. A position is the number of lines before it. Lines that were read
// and not committed are kept, so that a stream that is opened again misses none while the process lives; a new process has a new input.
func Stdin(in io.Reader) sdk.Ability {
	f := &feed{in: in, more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	return sdk.OpenSource("stdin", func(_ context.Context, o sdk.SourceOpening, cfg InConfig) (sdk.Reader, error) {
		from := int64(0)
		if len(o.From) > 0 {
			n, err := strconv.ParseInt(string(o.From), 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("%w: %q is not a number of lines", sdk.ErrPositionGone, o.From)
			}
			from = n
		}
		r := &reader{feed: f, cfg: cfg}
		var err error
		r.next, err = f.begin(from)
		return r, err
	}, sdk.NotReplayable(), sdk.SharedReader())
}

// feed reads the input once, for all openings. Its goroutine ends with the input, which nothing can interrupt.
type feed struct {
	in   io.Reader
	more chan struct{} // signalled when lines or the end came
	room chan struct{} // signalled when lines were committed

	mu      sync.Mutex
	started bool
	busy    bool
	first   int64 // number of lines before lines[0]
	lines   []line
	bytes   int
	end     error
}

type line struct {
	text []byte
	long bool // cut at maxLine
}

// keptBytes bounds the lines that are kept; one line always fits.
const keptBytes = 16 << 20

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (f *feed) begin(from int64) (next int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.busy:
		return 0, sdk.Unavailable(sdk.Code("BUSY", errors.New("another stage reads standard input")))
	case !f.started:
		f.started, f.first = true, from
		go f.read()
	case from < f.first:
		return 0, fmt.Errorf("%w: standard input is past line %d, at %d", sdk.ErrPositionGone, from, f.first)
	case from > f.first+int64(len(f.lines)):
		return 0, fmt.Errorf("%w: standard input has not reached line %d", sdk.ErrPositionGone, from)
	}
	f.busy = true
	return from, nil
}

func (f *feed) read() {
	b := bufio.NewReaderSize(f.in, 64<<10)
	for {
		l, err := readLine(b)
		f.mu.Lock()
		for f.bytes > 0 && f.bytes+len(l.text) > keptBytes {
			f.mu.Unlock()
			<-f.room
			f.mu.Lock()
		}
		if l.text != nil {
			f.lines = append(f.lines, l)
			f.bytes += len(l.text) + 1
		}
		f.end = err
		f.mu.Unlock()
		signal(f.more)
		if err != nil {
			return
		}
	}
}

// readLine returns a line without its end; nil when there is none. It keeps at most maxLine bytes of it.
func readLine(b *bufio.Reader) (line, error) {
	l := line{}
	for {
		part, err := b.ReadSlice('\n')
		if part != nil && l.text == nil {
			l.text = []byte{}
		}
		room := maxLine + 2 - len(l.text)
		l.text = append(l.text, part[:min(len(part), room)]...)
		l.long = l.long || len(part) > room
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if len(l.text) == 0 {
			l.text = nil
		}
		if l.text != nil {
			l.text = bytes.TrimSuffix(bytes.TrimSuffix(l.text, []byte("\n")), []byte("\r"))
			l.long = l.long || len(l.text) > maxLine
		}
		return l, err
	}
}

// get waits for the line after the given number of lines.
func (f *feed) get(ctx context.Context, before int64) (line, error) {
	for {
		f.mu.Lock()
		i := before - f.first
		if i < int64(len(f.lines)) {
			l := f.lines[i]
			f.mu.Unlock()
			return l, nil
		}
		end := f.end
		f.mu.Unlock()
		if end != nil {
			return line{}, end
		}
		select {
		case <-f.more:
		case <-ctx.Done():
			return line{}, ctx.Err()
		}
	}
}

func (f *feed) commit(before int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.first < before && len(f.lines) > 0 {
		f.bytes -= len(f.lines[0].text) + 1
		f.lines[0] = line{}
		f.lines = f.lines[1:]
		f.first++
	}
	signal(f.room)
}

type reader struct {
	feed *feed
	cfg  InConfig
	next int64
}

func (r *reader) Read(ctx context.Context) iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		for {
			l, err := r.feed.get(ctx, r.next)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(sdk.Record{}, sdk.Unavailable(fmt.Errorf("read standard input: %w", err)))
				return
			}
			r.next++
			record, err := r.record(l)
			if record.Payload == nil && err == nil {
				continue
			}
			if !yield(record, err) {
				return
			}
		}
	}
}

func (r *reader) record(l line) (sdk.Record, error) {
	record := sdk.Record{Position: strconv.AppendInt(nil, r.next, 10), Payload: l.text, ContentType: "application/json"}
	bad := func(code, message string) error {
		about := sdk.Record{Position: record.Position, ContentType: "text/plain", Payload: l.text[:min(len(l.text), 64<<10)]}
		return &sdk.BadRecord{Record: about, Err: sdk.Code(code, fmt.Errorf("standard input, line %d: %s", r.next, message))}
	}
	switch {
	case l.long:
		return sdk.Record{}, bad("LINE_TOO_LONG", "the line is too long")
	case !utf8.Valid(l.text):
		return sdk.Record{}, bad("INVALID_UTF8", "not valid UTF-8")
	case r.cfg.Format == "lines":
		record.ContentType = "text/plain; charset=utf-8"
	case len(bytes.TrimSpace(l.text)) == 0:
		return sdk.Record{}, nil
	default:
		if valid, _ := jsontext.Valid(l.text); !valid {
			return sdk.Record{}, bad("INVALID_JSON", "not valid JSON")
		}
	}
	return record, nil
}

func (r *reader) Commit(_ context.Context, position sdk.Position) error {
	n, err := strconv.ParseInt(string(position), 10, 64)
	if err != nil {
		return fmt.Errorf("position %q: %w", position, err)
	}
	r.feed.commit(n)
	return nil
}

func (r *reader) Close() error {
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	r.feed.busy = false
	return nil
}
