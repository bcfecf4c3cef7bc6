package expr_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"unicode/utf8"

	"github.com/conveyor-etl/conveyor/dsl/expr"
)

var texts = []string{
	sample, `{}`, `[]`, `""`, `0`, `-0`, `-`, `01`, `1.`, `1.e1`, `.5`, `1e`, `1E+5`, `true`, `tru`, `nulll`, `{"a":1,}`, `{"a" 1}`, `{a:1}`, `[1,]`, `[1 2]`,
	"\"\x01\"", `"\u12"`, `"\x"`, "\"\xff\"", `"\ud800"`, ` 1 `, ``, ` `, "\ufeff1", `1 2`, `{"a":{"b":[{"c":"12345678\""}]}}`, `"1234567\\"`,
}

func FuzzScan_AgreesWithEncodingJSON(f *testing.F) {
	for _, s := range texts {
		f.Add([]byte(s))
	}
	f.Add(bytes.Repeat([]byte("["), 10001))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := expr.Scan(data); (err == nil) != json.Valid(data) {
			t.Fatalf("%q: we say %v, encoding/json says %v", data, err, json.Valid(data))
		}
	})
}

func FuzzDecode_KeepsTheValue(f *testing.F) {
	for _, s := range texts {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := expr.Decoded(data)
		if err != nil {
			if json.Valid(data) && utf8.Valid(data) && bytes.ContainsAny(bytes.TrimSpace(data), `[{"`) {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		var got, want any
		if err := json.Unmarshal(data, &want); err != nil {
			return // a number that no double holds, untouched inside
		}
		if err := json.Unmarshal(out, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q became %q (%v)", data, out, err)
		}
	})
}

func FuzzCompile_NeverPanics(f *testing.F) {
	for _, s := range []string{`value.a == 1`, `{"a": value.b}`, `[1].map(x, {x: x})`, `meta.stage`, `value.?a`, `{?"a": 1}`, "\xff", `dyn(1).a`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		p, err := expr.Compile(expr.Map, src)
		if err != nil {
			return
		}
		if out, err := p.Map(nil, record(sample)); err == nil && !json.Valid(out) {
			t.Fatalf("%q gave %q", src, out)
		}
	})
}
