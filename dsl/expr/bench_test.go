package expr_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/dsl/expr"
)

// kilobyte is a log line of about 1 kB with the field that a filter looks at in the middle.
var kilobyte = fmt.Sprintf(`{"id":184467,"host":"web-17.example","service":"checkout","trace":"4bf92f3577b34da6a3ce929d0e0e4736","user":{"id":99,"plan":"gold",`+
	`"geo":{"country":"DE","city":"Köln"}},"level":"info","latency":0.1832,"status":200,"tags":["a","b","c"],"message":%q,"size":12288,"name":"pkg"}`,
	strings.Repeat("the quick brown fox jumps over the lazy dog ", 16))

func BenchmarkFilter(b *testing.B) {
	p, err := expr.Compile(expr.Filter, `value.level != "debug"`)
	if err != nil {
		b.Fatal(err)
	}
	rec := record(kilobyte)
	b.SetBytes(int64(len(kilobyte)))
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := p.Test(rec); err != nil || !ok {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkMap(b *testing.B) {
	p, err := expr.Compile(expr.Map, `{"name": value.name, "kib": value.size / 1024, "user": value.user}`)
	if err != nil {
		b.Fatal(err)
	}
	rec := record(kilobyte)
	b.SetBytes(int64(len(kilobyte)))
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		if dst, err = p.Map(dst[:0], rec); err != nil {
			b.Fatal(err)
		}
	}
}
