package file_test

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/connectors/internal/file"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func sink(path, more string) sdktest.Open {
	return sdktest.Open{Config: fmt.Sprintf(`{"path": %q%s}`, path, more)}
}

func rec(id, payload string) sdk.Record { return sdk.Record{ID: id, Payload: []byte(payload)} }

func TestSink_Formats(t *testing.T) {
	for name, tc := range map[string]struct {
		more  string
		in    []string
		want  string
		codes []string
	}{
		"ndjson":           {``, []string{`{"a": 1}`, "[1,\n2]", `"x y"`}, "{\"a\":1}\n[1,2]\n\"x y\"\n", nil},
		"not JSON":         {``, []string{`1`, `{`, `2`}, "1\n2\n", []string{"NOT_JSON"}},
		"record id":        {`, "recordId": "_id"`, []string{`{"a":1}`, `{}`, `[]`, `{"_id":1}`}, "{\"a\":1,\"_id\":\"id/0\"}\n{\"_id\":\"id/1\"}\n", []string{"NOT_AN_OBJECT", "FIELD_TAKEN"}},
		"lines":            {`, "format": "lines"`, []string{"a b", "", "c\nd"}, "a b\n\n", []string{"NOT_ONE_LINE"}},
		"csv":              {`, "format": "csv", "columns": ["b", "a"]`, []string{`{"a":1,"b":"x"}`, `{"c":[1, 2],"a":null}`, `{"b":"say \"hi\", ok\n","a":{"k": true}}`, `7`}, "b,a\nx,1\n,\n\"say \"\"hi\"\", ok\n\",\"{\"\"k\"\":true}\"\n", []string{"NOT_AN_OBJECT"}},
		"csv of first":     {`, "format": "csv", "recordId": "id"`, []string{`{"a":1.50,"é,":true}`, `{"a":2}`, `{"b":2}`}, "a,\"é,\",id\n1.50,true,id/0\n2,,id/1\n", []string{"UNKNOWN_COLUMN"}},
		"csv of one":       {`, "format": "csv"`, []string{`{"a":""}`, `{"a":"x"}`}, "a\n\"\"\nx\n", nil},
		"nothing":          {``, nil, "", nil},
		"csv of nothing":   {`, "format": "csv", "columns": ["a"]`, nil, "a\n", nil},
		"csv only refused": {`, "format": "csv"`, []string{`1`}, "", []string{"NOT_AN_OBJECT"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			w := sdktest.Serve(t, file.Sink()).MustOpenSink(t, sink(path, tc.more))
			var in []sdk.Record
			for i, p := range tc.in {
				in = append(in, rec(fmt.Sprintf("id/%d", i), p))
			}
			var codes []string
			if len(in) > 0 {
				for _, a := range w.Ask(in...) {
					if a.Code != "" {
						codes = append(codes, a.Code)
					}
				}
			}
			if f := w.Complete(); f != nil {
				t.Fatalf("complete: %v", f)
			}
			if diff := cmp.Diff(tc.want, get(t, path)); diff != "" {
				t.Errorf("file (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.codes, codes); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
			if _, err := os.Stat(path + ".partial"); err == nil {
				t.Error("the partial file is still there")
			}
		})
	}
}

func TestSink_LaterRunGoesOnFromItsOwnFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	c := sdktest.Serve(t, file.Sink())
	for i := range 3 {
		o := sink(path, `, "format": "csv"`)
		o.Epoch = uint64(i + 1)
		w := c.MustOpenSink(t, o)
		w.Ask(rec("x", fmt.Sprintf(`{"n":%d}`, i)))
		if _, err := os.Stat(path); err == nil {
			t.Fatal("the file is in place before the pipeline is complete")
		}
		if f := w.Complete(); f != nil {
			t.Fatal(f)
		}
		if err := w.Hangup(); err != nil {
			t.Fatal(err)
		}
	}
	if got := get(t, path); got != "n\n0\n1\n2\n" {
		t.Errorf("file is %q", got)
	}
	o := sink(path, "")
	o.Epoch = 9
	if f := c.MustOpenSink(t, o).Complete(); f != nil {
		t.Fatal(f)
	}
	if got := get(t, path); got != "n\n0\n1\n2\n" {
		t.Errorf("a run without records left %q", got)
	}
}

func TestSink_FromStartForgetsOncePerGeneration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	c := sdktest.Serve(t, file.Sink())
	write := func(epoch uint64, fromStart, complete bool, payload string) {
		t.Helper()
		o := sink(path, "")
		o.Epoch, o.FromStart = epoch, fromStart
		w := c.MustOpenSink(t, o)
		w.Ask(rec("x", payload))
		if complete {
			w.Complete()
		}
		if err := w.Hangup(); err != nil {
			t.Fatal(err)
		}
	}
	write(1, false, true, "1")
	write(2, true, false, "2") // begins anew
	write(3, true, true, "3")  // the same generation opens again
	if got := get(t, path); got != "2\n3\n" {
		t.Errorf("file is %q, want what was acknowledged since it began anew", got)
	}
}

func TestSink_RefusesFilesThatAreNotItsOwn(t *testing.T) {
	dir := t.TempDir()
	c := sdktest.Serve(t, file.Sink())
	refused := func(o sdktest.Open, text string) {
		t.Helper()
		if _, err := c.OpenSink(t, o); status.Code(err) != codes.FailedPrecondition || sdktest.Reason(err) != "NOT_OURS" || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("opened with %v, want NOT_OURS and %q", err, text)
		}
	}
	foreign := filepath.Join(dir, "foreign")
	put(t, foreign, "data")
	refused(sink(foreign, ""), foreign+": it exists")
	put(t, filepath.Join(dir, "half.partial"), "data")
	refused(sink(filepath.Join(dir, "half"), ""), "half.partial exists")

	own := filepath.Join(dir, "own")
	w := c.MustOpenSink(t, sink(own, ""))
	w.Ask(rec("x", "1"))
	if f := w.Complete(); f != nil {
		t.Fatal(f)
	}
	if err := w.Hangup(); err != nil {
		t.Fatal(err)
	}
	other := sink(own, "")
	other.Pipeline = "default/other"
	refused(other, "belongs to pipeline default/test")
	put(t, own, "2\n")
	refused(sink(own, ""), "is not as pipeline default/test left it")
	if got := get(t, own); got != "2\n" {
		t.Errorf("the changed file is %q", got)
	}
}

func TestSink_FileThatAppearsInItsPlaceIsNotOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	w := sdktest.Serve(t, file.Sink()).MustOpenSink(t, sink(path, ""))
	w.Ask(rec("x", "1"))
	put(t, path, "precious")
	if f := w.Complete(); f.GetCode() != "NOT_OURS" {
		t.Errorf("complete gave %v", f)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if f := w.Complete(); f != nil || get(t, path) != "1\n" {
		t.Errorf("complete gave %v when the place was free", f)
	}
}

func TestSink_CutsOffOnlyATornLastRecord(t *testing.T) {
	for name, tc := range map[string]struct{ more, left, want string }{
		"ndjson":             {``, "1\n{\"a\":", "1\n2\n"},
		"nothing whole":      {``, "{\"a\":", "2\n"},
		"whole":              {``, "1\n", "1\n2\n"},
		"csv within quotes":  {`, "format": "csv"`, "a\n\"x\ny\"\n\"z\n", "a\n\"x\ny\"\n2\n"},
		"csv torn header":    {`, "format": "csv"`, "a", "a\n2\n"},
		"longer than blocks": {``, "1\n\"" + strings.Repeat("x", 200000), "1\n2\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			c := sdktest.Serve(t, file.Sink())
			w := c.MustOpenSink(t, sink(path, tc.more))
			if err := w.Hangup(); err != nil {
				t.Fatal(err)
			}
			put(t, path+".partial", tc.left)
			payload := "2"
			if tc.more != "" {
				payload = `{"a":2}`
			}
			w = c.MustOpenSink(t, sink(path, tc.more))
			if got := w.Ask(rec("x", payload)); got[0].Outcome != "ok" {
				t.Fatalf("answer is %+v", got)
			}
			if got := get(t, path+".partial"); got != tc.want {
				t.Errorf("file is %q, want %q", got, tc.want)
			}
		})
	}
}

func TestSink_NewerOwnerTakesTheFileOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	c := sdktest.Serve(t, file.Sink())
	o := sink(path, "")
	o.Epoch = 5
	older := c.MustOpenSink(t, o)
	older.Ask(rec("x", "1"))
	o.Epoch = 6
	newer := c.MustOpenSink(t, o)
	if err := older.Ended(); sdktest.Reason(err) != "FENCED" {
		t.Errorf("the older stream ended with %v", err)
	}
	newer.Ask(rec("y", "2"))
	o.Epoch = 5
	if _, err := c.OpenSink(t, o); sdktest.Reason(err) != "FENCED" {
		t.Errorf("an older opening gave %v", err)
	}
	o.Pipeline = "default/other"
	o.Epoch = 7
	if _, err := c.OpenSink(t, o); status.Code(err) != codes.Unavailable || sdktest.Reason(err) != "LOCKED" {
		t.Errorf("another pipeline gave %v", err)
	}
	if got := newer.Ask(rec("z", "3")); got[0].Outcome != "ok" || get(t, path+".partial") != "1\n2\n3\n" {
		t.Errorf("answer %+v, file %q", got, get(t, path+".partial"))
	}
}

func TestSink_AnotherProcessIsKeptOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	addr, kill := startChild(t)
	theirs := sdktest.Dial(t, addr).MustOpenSink(t, sink(path, ""))
	theirs.Ask(rec("x", "1"))
	c := sdktest.Serve(t, file.Sink())
	if _, err := c.OpenSink(t, sink(path, "")); sdktest.Reason(err) != "LOCKED" {
		t.Fatalf("opened with %v", err)
	}
	kill()
	if got := c.MustOpenSink(t, sink(path, "")).Ask(rec("y", "2")); got[0].Outcome != "ok" || get(t, path+".partial") != "1\n2\n" {
		t.Errorf("answer %+v, file %q", got, get(t, path+".partial"))
	}
}

func TestSink_KilledAtAnyMomentKeepsWhatItAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	acknowledged := map[string]bool{}
	sent := map[string]bool{}
	next := 0
	for round := range 4 {
		addr, kill := startChild(t)
		o := sink(path, "")
		o.Epoch = uint64(round + 1)
		w := sdktest.Dial(t, addr).MustOpenSink(t, o)
		var requests []uint64
		var lines [][]string
		for range 40 {
			var batch []sdk.Record
			var texts []string
			for range 50 {
				text := fmt.Sprintf(`{"n":%d,"pad":"%s"}`, next, strings.Repeat("x", next%300))
				next++
				sent[text] = true
				texts = append(texts, text)
				batch = append(batch, rec("r", text))
			}
			requests, lines = append(requests, w.Send(batch...)), append(lines, texts)
		}
		answered := 5 + 9*round
		for i := range answered {
			w.Answers(requests[i])
			for _, text := range lines[i] {
				acknowledged[text] = true
			}
		}
		kill()
	}
	w := sdktest.Serve(t, file.Sink()).MustOpenSink(t, sdktest.Open{Config: sink(path, "").Config, Epoch: 9})
	if f := w.Complete(); f != nil {
		t.Fatal(f)
	}
	for line := range strings.Lines(get(t, path)) {
		text := strings.TrimSuffix(line, "\n")
		if !sent[text] {
			t.Fatalf("the file has the line %.80q, which nobody sent", text)
		}
		delete(acknowledged, text)
	}
	if len(acknowledged) > 0 {
		t.Errorf("%d acknowledged records are not in the file", len(acknowledged))
	}
}

func TestSource_KilledReaderResumesExactly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in")
	var text bytes.Buffer
	var want []string
	for i := range 20000 {
		want = append(want, fmt.Sprintf(`{"n":%d}`, i))
		fmt.Fprintln(&text, want[i])
	}
	put(t, path, text.String())
	var got []string
	o := source(path, "")
	for round := range 3 {
		addr, kill := startChild(t)
		o.Epoch = uint64(round + 1)
		part := sdktest.Dial(t, addr).MustOpenSource(t, o).Collect(3000 + round)
		got = append(got, payloads(part)...)
		o.Position = part[len(part)-1].Position
		kill()
	}
	rest, _, _ := sdktest.Serve(t, file.Source()).MustOpenSource(t, o).Drain()
	if diff := cmp.Diff(want, append(got, payloads(rest)...)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestSink_FullDiskIsUnavailableAndLeavesNoTornRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	addr, kill := startChild(t, "FILE_TEST_LIMIT=yes") // no file larger than 64 KiB
	w := sdktest.Dial(t, addr).MustOpenSink(t, sink(path, ""))
	line := `"` + strings.Repeat("x", 997) + `"`
	batch := []sdk.Record{rec("1", line), rec("2", line), rec("3", line), rec("4", "no JSON")}
	good := 0
	var last []sdktest.Answer
	for range 40 {
		last = w.Ask(batch...)
		if last[0].Outcome == "ok" {
			good += 3
		}
	}
	if last[0].Outcome != "unavailable" || last[0].Code != "IO_ERROR" || !strings.Contains(last[0].Message, path+".partial: file too large") {
		t.Errorf("answer is %+v", last[0])
	}
	if last[3].Outcome != "permanent" {
		t.Errorf("what can never be written is answered %+v", last[3])
	}
	if want := strings.Repeat(line+"\n", good); get(t, path+".partial") != want {
		t.Errorf("the file has %d bytes, want %d of %d whole records", len(get(t, path+".partial")), len(want), good)
	}
	kill()
	again := sdktest.Serve(t, file.Sink()).MustOpenSink(t, sink(path, ""))
	if got := again.Ask(batch[:3]...); got[0].Outcome != "ok" {
		t.Errorf("with room again the answer is %+v", got[0])
	}
}

func TestSink_WritesCSVThatOthersRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	w := sdktest.Serve(t, file.Sink()).MustOpenSink(t, sink(path, `, "format": "csv", "columns": ["a", "b"]`))
	w.Ask(rec("1", `{"a":"x\"y,z\r\n","b":" lead"}`), rec("2", `{"a":"","b":"ü"}`))
	w.Complete()
	rows, err := csv.NewReader(strings.NewReader(get(t, path))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"a", "b"}, {"x\"y,z\n", " lead"}, {"", "ü"}} // encoding/csv turns CRLF within quotes into LF
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestSink_RefusesConfigsThatDoNotFitTogether(t *testing.T) {
	c := sdktest.Serve(t, file.Sink())
	for more, want := range map[string]string{
		`, "columns": ["a"]`:                       "columns: is only for the format csv",
		`, "format": "csv", "columns": ["a", "a"]`: `columns: has "a" twice`,
		`, "format": "lines", "recordId": "id"`:    "recordId: is not for the format lines",
		`, "format": "parquet"`:                    `format: "parquet" is not one of`,
		`, "recordID": "id"`:                       `did you mean "recordId"?`,
	} {
		if _, err := c.OpenSink(t, sink(filepath.Join(t.TempDir(), "x"), more)); status.Code(err) != codes.InvalidArgument || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: opened with %v, want %q", more, err, want)
		}
	}
	if _, err := c.OpenSink(t, sink("/no/such/directory/x", "")); sdktest.Reason(err) != "NO_DIRECTORY" {
		t.Errorf("no directory: opened with %v", err)
	}
}
