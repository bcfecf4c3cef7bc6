package jsontext_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/conveyor-etl/conveyor/connectors/internal/jsontext"
)

var texts = []string{
	``, ` `, `{}`, `{ }`, `[]`, `[1, 2]`, `{"a":1,"b":[true,false,null,"x"]}`, `{"a":1,}`, `{"a"}`, `[1,]`, `-`, `-0`, `01`, `1.`, `1.5e+3`, `1e`,
	`"\u12aF"`, `"\u12"`, `"\x"`, `"a`, "\"\n\"", "\"\xff\"", `truex`, `nul`, `{"a":1}{"b":2}`, ` {"a" : "b c" } `, `"\\\""`, `{"é":"\n"}`, `{"a":{"b":[{}]}}`,
	"\xef\xbb\xbf{}", `{"a":1`, `]`, `1 2`,
}

func FuzzValid_AgreesWithEncodingJSON(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		valid, compact := jsontext.Valid(data)
		if want := json.Valid(data) && utf8.Valid(data); valid != want {
			t.Fatalf("%q: valid is %v, want %v", data, valid, want)
		}
		if !valid {
			return
		}
		var want bytes.Buffer
		if err := json.Compact(&want, data); err != nil {
			t.Fatal(err)
		}
		if compact != bytes.Equal(want.Bytes(), data) {
			t.Fatalf("%q: compact is %v", data, compact)
		}
		if got := jsontext.AppendCompact([]byte("x"), data); string(got) != "x"+want.String() {
			t.Fatalf("%q: compacted to %q", data, got)
		}
	})
}

func FuzzObject_HasTheMembersOfEncodingJSON(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if valid, _ := jsontext.Valid(data); !valid {
			return
		}
		got := map[string]string{}
		isObject := jsontext.Object(data, func(name string, value []byte) { got[name] = string(value) })
		var want map[string]json.RawMessage
		err := json.Unmarshal(data, &want)
		if isObject != (err == nil && want != nil) {
			t.Fatalf("%q: object is %v", data, isObject)
		}
		if !isObject {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%q: members %v, want %d", data, got, len(want))
		}
		for name, value := range want {
			if got[name] != string(value) {
				t.Fatalf("%q: member %q is %q, want %q", data, name, got[name], value)
			}
		}
	})
}

func FuzzAppendString_IsRead(f *testing.F) {
	f.Add("a\"\\\n\r\t\x01\u2028é")
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			return
		}
		quoted := jsontext.AppendString(nil, []byte(text))
		var got string
		if err := json.Unmarshal(quoted, &got); err != nil || got != text {
			t.Fatalf("%q was written as %s and read as %q, %v", text, quoted, got, err)
		}
	})
}

func BenchmarkValid_1000Bytes(b *testing.B) {
	line := []byte(`{"level":"info","message":"` + string(bytes.Repeat([]byte("x"), 900)) + `","n":12345,"tags":["a","b"]}`)
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		jsontext.Valid(line)
	}
}
