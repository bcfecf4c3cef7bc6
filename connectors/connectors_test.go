package connectors_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/conveyor-etl/conveyor/connectors"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConnectors_PassTheSuiteThatEveryServiceMustPass(t *testing.T) {
	dir := t.TempDir()
	var lines, table strings.Builder
	table.WriteString("n,text\r\n")
	for i := range 20 {
		fmt.Fprintf(&lines, "{\"n\": %d}\n", i)
		fmt.Fprintf(&table, "%d,\"line one\nline \"\"%d\"\"\"\r\n", i, i)
	}
	in, csv := filepath.Join(dir, "in.ndjson"), filepath.Join(dir, "in.csv")
	for path, text := range map[string]string{in: lines.String(), csv: table.String()} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := sdktest.Listen(t, connectors.Abilities(connectors.Options{Stdin: strings.NewReader(""), Stdout: io.Discard})...)
	inputs := []sdk.Record{
		{ID: "a/1", Key: []byte("k"), Payload: []byte(`{"n": 1}`)}, {ID: "a/2", Key: []byte("j"), Payload: []byte(`{"n":2}`)}, {ID: "a/3", Payload: []byte(`{"n":3}`)},
	}
	failing := sdk.Record{ID: "bad", Key: []byte("k"), Payload: []byte("no JSON")}
	out := func(name, more string) string { return fmt.Sprintf(`{"path": %q%s}`, filepath.Join(dir, name), more) }
	sdktest.Run(t, addr, sdktest.Suite{
		Sources: []sdktest.SourceCase{
			{Type: "generate", Config: `{"count": 30}`, Records: 30, Ends: true},
			{Type: "file", Config: fmt.Sprintf(`{"path": %q}`, in), Records: 20, Ends: true},
			{Type: "file", Config: fmt.Sprintf(`{"path": %q, "format": "csv"}`, csv), Records: 20, Ends: true},
			{Type: "file", Config: fmt.Sprintf(`{"path": %q, "format": "lines", "follow": true}`, in), Records: 20},
			{Type: "stdin"},
		},
		Sinks: []sdktest.SinkCase{
			{Type: "blackhole", Inputs: inputs},
			{Type: "log", Inputs: inputs},
			{Type: "stdout", Inputs: inputs, Failing: &failing},
			{Type: "file", Config: out("out.ndjson", ""), Inputs: inputs, Failing: &failing},
			{Type: "file", Config: out("out.csv", `, "format": "csv", "columns": ["n"], "recordId": "id"`), Inputs: inputs, Failing: &failing},
			{Type: "file", Config: out("out.txt", `, "format": "lines"`), Inputs: inputs},
		},
	})
}
