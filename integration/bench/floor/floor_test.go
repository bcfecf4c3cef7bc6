package main

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc/mem"
)

// TestMain lets this binary be its own children: the chain starts os.Executable once for each process.
func TestMain(m *testing.M) {
	for _, arg := range os.Args[1:] {
		if strings.HasPrefix(arg, "-role=") {
			os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
		}
	}
	goleak.VerifyTestMain(m)
}

func TestRun_MovesEveryRecordThroughSixProcesses(t *testing.T) {
	cases := []struct {
		name    string
		args    []string
		records int
		dropped int
	}{
		// 102 of the 1024 different records are dropped, and of the 952 that begin the third round 95.
		{name: "bytes", args: []string{"-n=3000", "-size=200", "-batch=64", "-xform=bytes"}, records: 3000, dropped: 2*102 + 95},
		{name: "touch, and batches larger than a gRPC frame", args: []string{"-n=1000", "-size=1000", "-batch=300", "-xform=touch"}, records: 1000},
		{name: "one record in each batch", args: []string{"-n=50", "-batch=1", "-xform=touch"}, records: 50},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out, errs strings.Builder
			if code := run(t.Context(), c.args, &out, &errs); code != 0 {
				t.Fatalf("exit code %d: %s", code, &errs)
			}
			var got result
			if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
				t.Fatalf("%v in %q", err, &out)
			}
			if got.Records != c.records || got.Dropped != c.dropped {
				t.Errorf("%d records, %d dropped; want %d and %d", got.Records, got.Dropped, c.records, c.dropped)
			}
			if got.RecordsPerSecond <= 0 || got.CPUNanosPerRecord <= 0 || len(got.CPUNanosByProcess) != hops {
				t.Errorf("figures are missing: %s", &out)
			}
		})
	}
}

func TestRun_RefusesWrongUsage(t *testing.T) {
	for _, args := range [][]string{{"-xform=jsn"}, {"-n=0"}, {"-no-such-flag"}} {
		var out, errs strings.Builder
		if code := run(t.Context(), args, &out, &errs); code != 2 || errs.Len() == 0 || out.Len() > 0 {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q", args, code, &out, &errs)
		}
	}
}

func TestRun_NamesTheProcessThatFailed(t *testing.T) {
	var out, errs strings.Builder
	code := run(t.Context(), []string{"-role=sidecar", "-network=unix", "-listen=/no/such/folder/socket"}, &out, &errs)
	if code != 1 || !strings.Contains(errs.String(), "/no/such/folder/socket") {
		t.Errorf("exit code %d, stderr %q", code, &errs)
	}
}

func FuzzBatch_ReadsBackWhatItWrote(f *testing.F) {
	f.Add([]byte("\x08\x01\x12\x07\x0a\x01k\x12\x01v\x18\x05"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		b := &batch{}
		if b.parse(data) != nil {
			return
		}
		encoded := b.append(nil)
		if len(encoded) != b.size() {
			t.Fatalf("encoded to %d bytes, announced %d", len(encoded), b.size())
		}
		again := &batch{}
		if err := again.parse(encoded); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if again.id != b.id || len(again.records) != len(b.records) {
			t.Fatalf("read %d records of batch %d, want %d of %d", len(again.records), again.id, len(b.records), b.id)
		}
		for i, r := range again.records {
			if w := b.records[i]; string(r.key) != string(w.key) || string(r.value) != string(w.value) || r.time != w.time {
				t.Fatalf("record %d differs", i)
			}
		}
	})
}

func TestPool_HandsOutWhatWasAskedFor(t *testing.T) {
	p := &dirtyPool{}
	for _, n := range []int{1, 255, 256, 257, 4096, 4097, 1 << 22, 1<<22 + 1, 9 << 20} {
		for range 3 {
			b := p.Get(n)
			if len(*b) != n {
				t.Fatalf("asked for %d bytes, got %d", n, len(*b))
			}
			*b = (*b)[:n/2]
			p.Put(b)
		}
	}
	small := make([]byte, 16)
	p.Put(&small) // must not come back as a buffer of a tier
	if b := p.Get(200); cap(*b) < 200 {
		t.Fatalf("got a buffer of %d bytes", cap(*b))
	}
}

func TestCodec_RefusesWhatIsNoMessage(t *testing.T) {
	c := codec{&dirtyPool{}}
	for _, bad := range []string{"", "\x08", "\x09\x01", "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"} {
		data := mem.BufferSlice{mem.SliceBuffer(bad)}
		for _, into := range []any{&ack{}, &frame{}, &batch{}, new(int)} {
			if err := c.Unmarshal(data, into); err == nil {
				t.Errorf("%q was read into a %T", bad, into)
			}
		}
	}
	if err := new(ack).parse([]byte("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")); err != nil {
		t.Errorf("the largest id, %d, was refused: %v", uint64(math.MaxUint64), err)
	}
}
