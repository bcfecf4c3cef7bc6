package chaos_test

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/integration/chaos"
)

const keys = 3

func got(seq int, payload []byte) string {
	key := chaos.Key(seq, keys)
	return fmt.Sprintf("got %d %08x %s default/in//%d", seq, crc32.ChecksumIEEE(append([]byte(key), payload...)), key, seq)
}

// good are the ledgers of a run in which all went well.
func good(n int) (source, sink []string) {
	source, sink = []string{"open", fmt.Sprintf("emit %d", n)}, []string{"open"}
	size := len("open\n")
	for seq := 1; seq <= n; seq++ {
		sink = append(sink, got(seq, chaos.Payload(seq, keys)))
		size += len(sink[seq]) + 1
		source = append(source, fmt.Sprintf("commit %d %d", seq, size))
	}
	return append(source, fmt.Sprintf("end %d", n)), sink
}

func TestCheck_FindsWhatWentWrong(t *testing.T) {
	for name, c := range map[string]struct {
		change func(source, sink []string) ([]string, []string)
		faults int
		want   string
	}{
		"nothing": {change: func(source, sink []string) ([]string, []string) { return source, sink }},
		"a lost record": {
			change: func(source, sink []string) ([]string, []string) { return source, slices.Delete(sink, 5, 6) }, want: "lost: record 5 ",
		},
		"a record that was committed before it arrived": {
			change: func(source, sink []string) ([]string, []string) {
				sink[5], sink[6] = sink[6], sink[5]
				return source, sink
			}, want: "committed: record 5 ",
		},
		"a corrupt payload": {
			change: func(source, sink []string) ([]string, []string) {
				sink[4] = got(4, append(chaos.Payload(4, keys), 'x'))
				return source, sink
			}, want: "corrupt: record 4 ",
		},
		"a payload with another key": {
			change: func(source, sink []string) ([]string, []string) {
				sink[4] = strings.Replace(sink[4], chaos.Key(4, keys), chaos.Key(5, keys), 1)
				return source, sink
			}, want: "corrupt: record 4 ",
		},
		"an unknown record": {
			change: func(source, sink []string) ([]string, []string) { return source, append(sink, got(11, nil)) }, want: "unknown: record 11 ",
		},
		"an unknown id": {
			change: func(source, sink []string) ([]string, []string) {
				sink[4] = strings.Replace(sink[4], "in//4", "in//40", 1)
				return source, sink
			}, want: "unknown id: record 4 ",
		},
		"records of a key out of order": {
			change: func(source, sink []string) ([]string, []string) {
				sink[4], sink[7] = sink[7], sink[4]
				return source, sink
			}, want: "disordered: record 4 ",
		},
		"a record twice without a fault": {
			change: func(source, sink []string) ([]string, []string) { return source, append(sink, sink[3]) }, want: "duplicates: 1 ",
		},
		"a record twice after a fault": {
			change: func(source, sink []string) ([]string, []string) { return source, append(sink, sink[3]) }, faults: 1,
		},
		"a commit beyond the end": {
			change: func(source, sink []string) ([]string, []string) { return append(source, "commit 12 9999"), sink }, want: "committed: record 12 ",
		},
		"an end that was never committed": {
			change: func(source, sink []string) ([]string, []string) { return slices.Delete(source, 11, 12), sink }, want: "committed: the last commit is of record 9",
		},
		"a line torn by a kill": {
			change: func(source, sink []string) ([]string, []string) {
				return source, append(sink, "got 4 34", "open", sink[4])
			}, faults: 1,
		},
		"a damaged line": {
			change: func(source, sink []string) ([]string, []string) { return source, slices.Insert(sink, 4, "got 4 34") }, want: "ledger of the sink: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			source, sink := c.change(good(10))
			r := chaos.Check(text(source), text(sink), chaos.Expect{Keys: keys, UID: "default/in", Faults: c.faults})
			found := strings.Join(r.Problems, "\n")
			if c.want == "" && found != "" {
				t.Errorf("it finds %s", found)
			}
			if !strings.Contains(found, c.want) {
				t.Errorf("it finds %q, want %q", found, c.want)
			}
			if r.Invalid != "" {
				t.Errorf("it calls the run invalid: %s", r.Invalid)
			}
		})
	}
}

func text(lines []string) []byte { return []byte(strings.Join(lines, "\n") + "\n") }

func TestCheck_ARunWithTooLittleTrafficProvesNothing(t *testing.T) {
	source, sink := good(10)
	for want, e := range map[string]chaos.Expect{
		"only 10 records": {MinRecords: 11}, "only 2 faults": {MinFaults: 3, Faults: 2},
	} {
		e.Keys, e.UID = keys, "default/in"
		if r := chaos.Check(text(source), text(sink), e); !strings.Contains(r.Invalid, want) {
			t.Errorf("it is invalid because %q, want %q", r.Invalid, want)
		}
	}
	if r := chaos.Check(text(source[:5]), text(sink), chaos.Expect{Keys: keys, UID: "default/in"}); r.Invalid == "" {
		t.Error("a source that did not end makes a valid run")
	}
}
