package file_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"

	"github.com/conveyor-etl/conveyor/connectors/internal/file"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("FILE_TEST_CHILD"); path != "" {
		child(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func source(path, more string) sdktest.Open {
	return sdktest.Open{Config: fmt.Sprintf(`{"path": %q%s}`, path, more)}
}

func payloads(records []sdk.Record) []string {
	var all []string
	for _, r := range records {
		all = append(all, string(r.Payload))
	}
	return all
}

func TestSource_Formats(t *testing.T) {
	long := strings.Repeat("x", 50)
	for name, tc := range map[string]struct {
		text, more string
		want       []string
		bad        []string // codes
	}{
		"ndjson":               {"{\"a\":1}\n{\"b\": 2}\n", ``, []string{`{"a":1}`, `{"b": 2}`}, nil},
		"no end of line":       {"1\n2", ``, []string{"1", "2"}, nil},
		"CRLF":                 {"1\r\n2\r\n", ``, []string{"1", "2"}, nil},
		"byte order mark":      {"\xef\xbb\xbf1\n2\n", ``, []string{"1", "2"}, nil},
		"blank lines":          {"\n1\n  \n\r\n2\n\n", ``, []string{"1", "2"}, nil},
		"empty":                {"", ``, nil, nil},
		"invalid JSON":         {"1\n{\"a\":\n2\n", ``, []string{"1", "2"}, []string{"INVALID_JSON"}},
		"truncated last line":  {"1\n{\"a\":", ``, []string{"1"}, []string{"INVALID_JSON"}},
		"invalid UTF-8":        {"1\n\"\xff\"\n2\n", ``, []string{"1", "2"}, []string{"INVALID_UTF8"}},
		"long line":            {"1\n\"" + long + "\"\n2\n", `, "maxLineBytes": 20`, []string{"1", "2"}, []string{"LINE_TOO_LONG"}},
		"long last line":       {"1\n\"" + long, `, "maxLineBytes": 20`, []string{"1"}, []string{"LINE_TOO_LONG"}},
		"just not too long":    {"\"" + strings.Repeat("x", 18) + "\"\r\n2\n", `, "maxLineBytes": 20`, []string{`"` + strings.Repeat("x", 18) + `"`, "2"}, nil},
		"lines":                {"a\n\nb \r\nc", `, "format": "lines"`, []string{"a", "", "b ", "c"}, nil},
		"csv":                  {"a,b\n1,2\n", `, "format": "csv"`, []string{`{"a":"1","b":"2"}`}, nil},
		"csv quotes":           {"a,b\r\n\"x,\"\"y\"\"\",\"two\nlines\"\r\n,\r\n", `, "format": "csv"`, []string{`{"a":"x,\"y\"","b":"two\nlines"}`, `{"a":"","b":""}`}, nil},
		"csv byte order mark":  {"\xef\xbb\xbfa\n1\n", `, "format": "csv"`, []string{`{"a":"1"}`}, nil},
		"csv columns":          {"a,b\n1\n1,2,3\n1,2\n", `, "format": "csv"`, []string{`{"a":"1","b":"2"}`}, []string{"INVALID_CSV", "INVALID_CSV"}},
		"csv stray quote":      {"a\nx\"y\n\"x\"y\nz\n", `, "format": "csv"`, []string{`{"a":"z"}`}, []string{"INVALID_CSV", "INVALID_CSV"}},
		"csv open quote":       {"a\n\"x\ny\n", `, "format": "csv"`, nil, []string{"INVALID_CSV"}},
		"csv only header":      {"a,b\n", `, "format": "csv"`, nil, nil},
		"csv long open quote":  {"a\n\"" + long + "\n" + long + "\n1\n", `, "format": "csv", "maxLineBytes": 60`, []string{`{"a":"1"}`}, []string{"LINE_TOO_LONG"}},
		"csv no end of header": {"a,b", `, "format": "csv"`, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "in")
			put(t, path, tc.text)
			records, failed, end := sdktest.Serve(t, file.Source()).MustOpenSource(t, source(path, tc.more)).Drain()
			if diff := cmp.Diff(tc.want, payloads(records)); diff != "" {
				t.Errorf("payloads (-want +got):\n%s", diff)
			}
			var bad []string
			for _, f := range failed {
				bad = append(bad, f.GetFailure().GetCode())
			}
			if diff := cmp.Diff(tc.bad, bad); diff != "" {
				t.Errorf("codes of bad records (-want +got):\n%s", diff)
			}
			if !end.GetExhausted() {
				t.Error("not exhausted")
			}
		})
	}
}

func TestSource_BadLineIsDescribed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in")
	bad := `{"a": tru`
	put(t, path, "1\n"+bad+"\n2\n")
	_, failed, _ := sdktest.Serve(t, file.Source()).MustOpenSource(t, source(path, "")).Drain()
	var got map[string]any
	if err := json.Unmarshal(failed[0].GetRecord().GetPayload(), &got); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(bad))
	want := map[string]any{"path": path, "offset": 2.0, "length": float64(len(bad)), "sha256": hex.EncodeToString(sum[:]), "first": "eyJhIjogdHJ1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("payload (-want +got):\n%s", diff)
	}
	f := failed[0].GetFailure()
	if f.GetClass() != conveyorv1.FailureClass_FAILURE_CLASS_PERMANENT || f.GetMessage() != path+" at byte 2: not valid JSON" {
		t.Errorf("failure is %v", f)
	}
}

func TestSource_LineOf100MBIsNeverInMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	fmt.Fprintln(f, 1)
	for range 100 {
		f.Write(chunk)
		sum.Write(chunk)
	}
	fmt.Fprint(f, "\r\n2\n")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	records, failed, _ := sdktest.Serve(t, file.Source()).MustOpenSource(t, source(path, "")).Drain()
	runtime.ReadMemStats(&after)
	if diff := cmp.Diff([]string{"1", "2"}, payloads(records)); diff != "" || len(failed) != 1 {
		t.Fatalf("%d bad records, payloads (-want +got):\n%s", len(failed), diff)
	}
	var about struct {
		Length int
		SHA256 string
		First  []byte
	}
	if err := json.Unmarshal(failed[0].GetRecord().GetPayload(), &about); err != nil {
		t.Fatal(err)
	}
	if about.Length != 100<<20 || about.SHA256 != hex.EncodeToString(sum.Sum(nil)) || len(about.First) != 64<<10 {
		t.Errorf("the line is described with length %d, hash %s, %d first bytes", about.Length, about.SHA256, len(about.First))
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 20<<20 {
		t.Errorf("%d bytes were allocated", used)
	}
}

func TestSource_PositionsSurviveGrowthOfAShortFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in")
	put(t, path, "1\n2\n")
	c := sdktest.Serve(t, file.Source())
	first, _, _ := c.MustOpenSource(t, source(path, "")).Drain()
	add(t, path, strings.Repeat("3\n", 1000))
	o := source(path, "")
	again, _, _ := c.MustOpenSource(t, o).Drain()
	if first[1].ID != again[1].ID {
		t.Errorf("the id changed from %q to %q", first[1].ID, again[1].ID)
	}
	o.Position = first[1].Position
	rest, _, _ := c.MustOpenSource(t, o).Drain()
	if len(rest) != 1000 || string(rest[0].Payload) != "3" {
		t.Errorf("behind the position come %d records", len(rest))
	}
}

func TestSource_ResumesAtEveryRecord(t *testing.T) {
	dir := t.TempDir()
	c := sdktest.Serve(t, file.Source())
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "in")
		var text strings.Builder
		lines := rapid.SliceOfN(rapid.StringMatching(`[a-z]{0,200}`), 1, 40).Draw(t, "lines")
		for _, l := range lines {
			text.WriteString(l + rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "end"))
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		tb := &drawn{TB: nil, t: t}
		all := collect(tb, c, source(path, `, "format": "lines"`))
		if diff := cmp.Diff(lines, payloads(all)); diff != "" {
			t.Fatalf("lines (-want +got):\n%s", diff)
		}
		at := rapid.IntRange(0, len(all)-1).Draw(t, "at")
		o := source(path, `, "format": "lines"`)
		o.Position = all[at].Position
		rest := collect(tb, c, o)
		if diff := cmp.Diff(payloads(all[at+1:]), payloads(rest)); diff != "" {
			t.Fatalf("behind record %d (-want +got):\n%s", at, diff)
		}
	})
}

func TestSource_OtherFileAtThePathIsPositionGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in")
	put(t, path, "1\n2\n3\n")
	c := sdktest.Serve(t, file.Source())
	all, _, _ := c.MustOpenSource(t, source(path, "")).Drain()
	o := source(path, "")
	o.Position = all[1].Position
	for name, text := range map[string]string{"other": "9\n8\n7\n6\n", "truncated": "1\n"} {
		put(t, path, text)
		_, err := c.OpenSource(t, o)
		if status.Code(err) != codes.FailedPrecondition || sdktest.Reason(err) != "POSITION_GONE" || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: opened with %v, reason %q", name, err, sdktest.Reason(err))
		}
	}
}

func TestSource_MissingFileIsUnavailable(t *testing.T) {
	c := sdktest.Serve(t, file.Source())
	dir := t.TempDir()
	_, err := c.OpenSource(t, source(filepath.Join(dir, "none"), ""))
	if status.Code(err) != codes.Unavailable || sdktest.Reason(err) != "FILE_NOT_FOUND" {
		t.Errorf("a missing file gave %v", err)
	}
	if _, err := c.OpenSource(t, source(dir, "")); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a directory gave %v", err)
	}
}

func TestSource_FollowsGrowthAndRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	put(t, path, "1\n2\n3")
	c := sdktest.Serve(t, file.Source())
	p := c.MustOpenSource(t, source(path, `, "follow": true`))
	all := p.Collect(2)
	add(t, path, "3\n")
	all = append(all, p.Collect(1)...)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add(t, path+".1", "4\n5")
	put(t, path, "6\n")
	all = append(all, p.Collect(3)...)
	add(t, path, "7\n")
	all = append(all, p.Collect(1)...)
	if diff := cmp.Diff([]string{"1", "2", "33", "4", "5", "6", "7"}, payloads(all)); diff != "" {
		t.Fatalf("followed (-want +got):\n%s", diff)
	}
	p.Close()

	// A reader that comes back after two rotations finishes the old files first.
	if err := os.Rename(path, path+".0"); err != nil {
		t.Fatal(err)
	}
	put(t, path, "8\n")
	o := source(path, `, "follow": true`)
	o.Position = all[2].Position
	p = c.MustOpenSource(t, o)
	if diff := cmp.Diff([]string{"4", "5", "6", "7", "8"}, payloads(p.Collect(5))); diff != "" {
		t.Errorf("resumed (-want +got):\n%s", diff)
	}
	if end, _ := p.Stop(); end.GetExhausted() {
		t.Error("a followed file is exhausted")
	}
}

func TestSource_TruncationOfAFollowedFileIsPositionGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	put(t, path, "1\n2\n3\n")
	p := sdktest.Serve(t, file.Source()).MustOpenSource(t, source(path, `, "follow": true`))
	p.Collect(3)
	if err := os.Truncate(path, 2); err != nil {
		t.Fatal(err)
	}
	if err := p.Ended(); sdktest.Reason(err) != "POSITION_GONE" {
		t.Errorf("the stream ended with %v", err)
	}
}

// drawn lets rapid's t be used where a testing.TB is wanted.
type drawn struct {
	testing.TB
	t *rapid.T
}

func (d *drawn) Helper()                      {}
func (d *drawn) Cleanup(func())               {}
func (d *drawn) Fatalf(f string, a ...any)    { d.t.Fatalf(f, a...) }
func (d *drawn) Fatal(a ...any)               { d.t.Fatal(a...) }
func (d *drawn) Errorf(f string, a ...any)    { d.t.Errorf(f, a...) }
func (d *drawn) Error(a ...any)               { d.t.Error(a...) }
func (d *drawn) Logf(format string, a ...any) {}

func collect(t testing.TB, c *sdktest.Conn, o sdktest.Open) []sdk.Record {
	p, err := c.OpenSource(t, o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	all, _, _ := p.Drain()
	return all
}
