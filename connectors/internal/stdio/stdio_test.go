package stdio_test

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/conveyor-etl/conveyor/connectors/internal/stdio"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func texts(records []sdk.Record) []string {
	var all []string
	for _, r := range records {
		all = append(all, string(r.Position)+":"+string(r.Payload))
	}
	return all
}

func TestStdin_ReadsLinesToTheEnd(t *testing.T) {
	in := "1\r\n\n{\"a\": 2}\nno JSON\n\"" + strings.Repeat("x", 2<<20) + "\"\n\"\xff\"\n3"
	all, failed, end := sdktest.Serve(t, stdio.Stdin(strings.NewReader(in))).MustOpenSource(t, sdktest.Open{}).Drain()
	if diff := cmp.Diff([]string{"1:1", `3:{"a": 2}`, "7:3"}, texts(all)); diff != "" || !end.GetExhausted() {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	var codes []string
	for _, f := range failed {
		codes = append(codes, f.GetFailure().GetCode())
	}
	if diff := cmp.Diff([]string{"INVALID_JSON", "LINE_TOO_LONG", "INVALID_UTF8"}, codes); diff != "" {
		t.Errorf("bad lines (-want +got):\n%s", diff)
	}
}

func TestStdin_ReopenedStreamMissesNothingThatWasNotCommitted(t *testing.T) {
	in, out := io.Pipe()
	c := sdktest.Serve(t, stdio.Stdin(in))
	o := sdktest.Open{Config: `{"format": "lines"}`, Epoch: 1}
	p := c.MustOpenSource(t, o)
	go io.WriteString(out, "a\nb\nc\n")
	all := p.Collect(3)
	p.Commit(all[0].Position)
	o.Epoch, o.Position = 2, all[0].Position
	again := c.MustOpenSource(t, o)
	if diff := cmp.Diff([]string{"2:b", "3:c"}, texts(again.Collect(2))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	other := sdktest.Open{Stage: "other"}
	if _, err := c.OpenSource(t, other); sdktest.Reason(err) != "BUSY" {
		t.Errorf("a second stage gave %v", err)
	}
	go func() { io.WriteString(out, "d"); out.Close() }()
	if rest, _, end := again.Drain(); len(rest) != 1 || !end.GetExhausted() {
		t.Errorf("then came %v", texts(rest))
	}
}

func TestStdout_WritesOneLinePerRecord(t *testing.T) {
	var out bytes.Buffer
	c := sdktest.Serve(t, stdio.Stdout(&out))
	w := c.MustOpenSink(t, sdktest.Open{})
	got := w.Ask(sdk.Record{Payload: []byte("{\"a\":\n1}")}, sdk.Record{Payload: []byte("text")}, sdk.Record{Payload: []byte("2")})
	if diff := cmp.Diff([]string{"ok", "permanent", "ok"}, sdktest.Outcomes(got)); diff != "" || out.String() != "{\"a\":1}\n2\n" {
		t.Errorf("wrote %q, outcomes (-want +got):\n%s", out.String(), diff)
	}
	w = c.MustOpenSink(t, sdktest.Open{Config: `{"format": "lines"}`})
	got = w.Ask(sdk.Record{Payload: []byte("text")}, sdk.Record{Payload: []byte("two\nlines")})
	if diff := cmp.Diff([]string{"ok", "permanent"}, sdktest.Outcomes(got)); diff != "" || !strings.HasSuffix(out.String(), "2\ntext\n") {
		t.Errorf("wrote %q, outcomes (-want +got):\n%s", out.String(), diff)
	}
}

func TestStdout_ThatIsClosedIsUnavailable(t *testing.T) {
	in, out := io.Pipe()
	in.Close()
	got := sdktest.Serve(t, stdio.Stdout(out)).MustOpenSink(t, sdktest.Open{}).Ask(sdk.Record{Payload: []byte("1")})
	if got[0].Outcome != "unavailable" || got[0].Code != "OUTPUT_CLOSED" {
		t.Errorf("answer is %+v", got[0])
	}
}

// lockedBuffer is a buffer that a logger and a test share.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestLog_WritesRecordsToTheLog(t *testing.T) {
	var out lockedBuffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	w := sdktest.Serve(t, stdio.Log(), sdk.WithLogger(log)).MustOpenSink(t, sdktest.Open{Pipeline: "default/p", Stage: "s", Config: `{"level": "warn", "maxBytes": 4}`})
	w.Ask(sdk.Record{ID: "r/1", Key: []byte("k"), Payload: []byte("payload")})
	if want := `level=WARN msg=record pipeline=default/p stage=s id=r/1 key=k payload=payl`; !strings.Contains(out.String(), want) {
		t.Errorf("log is %q, want %q in it", out.String(), want)
	}
}
