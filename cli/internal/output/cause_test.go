package output_test

import (
	"testing"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
)

func TestCause_LeavesWhatAPersonCanUse(t *testing.T) {
	for in, want := range map[string]string{
		`source default/in at 127.0.0.1:1: open: rpc error: code = Unavailable desc = open none.ndjson: no such file or directory`:       `source default/in at 127.0.0.1:1: open: open none.ndjson: no such file or directory`,
		`sink default/out: connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`: `sink default/out: dial tcp 127.0.0.1:1: connect: connection refused`,
		`connection error: desc = "error reading server preface: http2: frame too large"`:                                                `error reading server preface: http2: frame too large`,
		`transform default/t at svc:1: name resolver error: produced zero addresses`:                                                     `transform default/t at svc:1: the name of its host is not known`,
		`sink default/out: IO_ERROR: write /mnt/out.ndjson.partial: no space left on device`:                                             `sink default/out: IO_ERROR: write /mnt/out.ndjson.partial: no space left on device`,
	} {
		if got := output.Cause(in); got != want {
			t.Errorf("Cause(%q)\n got %q\nwant %q", in, got, want)
		}
	}
}
