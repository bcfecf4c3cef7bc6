package expr_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/dsl/expr"
)

const sample = ` { "name" : "x<y>", "size": 12288, "ratio": 2.0, "level": "info", "tags": ["a", "b"], "deep": {"b": 1, "a": {"z":0, "y" : [1, 2.50]}},
 "big": 9223372036854775808, "dup": 1, "dup": 2, "esc\u0061pe": "\u00e9\n", "nothing": null, "on": true, "huge": 1e400 } `

func record(payload string) *expr.Record {
	return &expr.Record{
		Payload: []byte(payload), ContentType: "application/json", Key: []byte("k1"),
		Headers: []expr.Header{{Key: "tier", Value: []byte("silver")}, {Key: "tier", Value: []byte("gold")}, {Key: "raw", Value: []byte{0xff}}},
		Time:    time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC), Op: "create",
		Meta: expr.Meta{Pipeline: "default/p", Stage: "s", Lane: "l", ID: "i"},
	}
}

func TestTest_DecidesOverAllVariables(t *testing.T) {
	for src, want := range map[string]bool{
		`value.level != "debug"`:                                 true,
		`value.size > 12287 && value.size < 12289`:               true,
		`value.size == 12288.0`:                                  true,
		`value.ratio > 1`:                                        true,
		`value.dup == 2`:                                         true,
		`value.escape == "é\n"`:                                  true,
		`value["level"] == "info"`:                               true,
		`has(value.missing)`:                                     false,
		`has(value.missing) && value.missing > 1`:                false,
		`has(value.deep.a.y)`:                                    true,
		`value.deep.a.y[1] == 2.5`:                               true,
		`value.nothing == null`:                                  true,
		`value.on`:                                               true,
		`"a" in value.tags`:                                      true,
		`"level" in value`:                                       true,
		`value.tags == ["a", "b"]`:                               true,
		`value.deep == {"a": {"y": [1, 2.5], "z": 0}, "b": 1}`:   true,
		`size(value.tags) == 2`:                                  true,
		`size(value) == 12`:                                      true,
		`value.tags.exists(t, t == "b")`:                         true,
		`value.deep.all(k, k < "c")`:                             true,
		`key == "k1"`:                                            true,
		`key.startsWith("k")`:                                    true,
		`headers.tier == "gold"`:                                 true,
		`headers["raw"] == b"\xff"`:                              true,
		`has(headers.none)`:                                      false,
		`size(headers) == 2`:                                     true,
		`time > timestamp("2026-01-01T00:00:00Z")`:               true,
		`time.getFullYear() == 2026`:                             true,
		`op == "create"`:                                         true,
		`meta.pipeline == "default/p" && meta.stage == "s"`:      true,
		`meta.lane + meta.id == "li"`:                            true,
		`value.name.matches("^x")`:                               true,
		`type(value.size) == int && type(value.ratio) == double`: true,
	} {
		p, err := expr.Compile(expr.Condition, src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		got, err := p.Test(record(sample))
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", src, got, err, want)
		}
	}
}

func TestTest_IsAnErrorWhereTheRecordDoesNotFit(t *testing.T) {
	for src, want := range map[string]string{
		`value.missing == 1`:                          "no such key: missing",
		`value.size == "x" || value.size + 1.5 > 0.0`: "no such overload",
		`value.big > 1`:                               "outside the range of 64 bits",
		`value.huge > 1.0`:                            "outside the range of a double",
		`value.level`:                                 "not true or false",
		`value.tags[7] == ""`:                         "index out of bounds",
		`value.size / 0 == 1`:                         "division by zero",
	} {
		p, err := expr.Compile(expr.Filter, src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		if _, err := p.Test(record(sample)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", src, err, want)
		}
	}
}

func TestMap_WritesCompactJSONInTheLiteralsOrder(t *testing.T) {
	for src, want := range map[string]string{
		`{"name": value.name, "kib": value.size / 1024}`:      `{"name":"x<y>","kib":12}`,
		`{"z": 1, "a": {"y": 2, "b": [3, {"d": 4, "c": 5}]}}`: `{"z":1,"a":{"y":2,"b":[3,{"d":4,"c":5}]}}`,
		`value.on ? {"b": 1, "a": 2} : {"d": 1}`:              `{"b":1,"a":2}`,
		`value.tags.map(t, {"t": t, "a": 1})`:                 `[{"t":"a","a":1},{"t":"b","a":1}]`,
		`value.deep`:                                          `{"b":1,"a":{"z":0,"y":[1,2.50]}}`,
		`{"keep": value.deep.a, "list": value.tags}`:          `{"keep":{"z":0,"y":[1,2.50]},"list":["a","b"]}`,
		`value.ratio`:                                      `2.0`,
		`[0.1, 1e21, -1.5e-9, 3u, -0.0]`:                   `[0.1,1e+21,-1.5e-09,3,-0.0]`,
		`[null, true, b"\x00\xff", duration("90s"), time]`: `[null,true,"AP8=","90s","2026-03-04T05:06:07.000008Z"]`,
		`value.escape + "\u2028\"\\<&\u0001"`:              `"é\n` + "\u2028" + `\"\\<&\u0001"`,
		`headers`:                                          `{"tier":"gold","raw":"/w=="}`,
		`meta`:                                             `{"pipeline":"default/p","stage":"s","lane":"l","id":"i"}`,
		`key`:                                              `"k1"`,
		`{1: "a", true: "b"}`:                              `{"1":"a","true":"b"}`,
		`value.tags + ["c"]`:                               `["a","b","c"]`,
		`{"a": 1}.a`:                                       `1`,
		`has({"a": 1}.b) ? 1 : 2`:                          `2`,
	} {
		p, err := expr.Compile(expr.Map, src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		got, err := p.Map([]byte("kept:"), record(sample))
		if err != nil || string(got) != "kept:"+want {
			t.Errorf("%s:\n got %s, %v\nwant kept:%s", src, got, err, want)
		}
	}
}

func TestMap_WholeObjectKeepsItsBytesAndOrder(t *testing.T) {
	p, err := expr.Compile(expr.Map, `value`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Map(nil, record(" {\"b\": 1.50, \"a\" : [ 1 , {\"x y\": \"a b\"} ]} \n"))
	if want := `{"b":1.50,"a":[1,{"x y":"a b"}]}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestMap_RefusesWhatJSONCannotHoldAndLeavesDstAlone(t *testing.T) {
	for _, src := range []string{`[1.0 / 0.0]`, `{"a": {"b": 0.0 / 0.0}}`, `{"t": type(1)}`, `[value.big]`, `value.missing`} {
		p, err := expr.Compile(expr.Map, src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		if got, err := p.Map([]byte("kept"), record(sample)); err == nil || string(got) != "kept" {
			t.Errorf("%s: got %q, %v", src, got, err)
		}
	}
}

func TestValue_FollowsTheContentType(t *testing.T) {
	for _, c := range []struct {
		contentType, payload, src string
		want                      string // of an error; "" is true
	}{
		{"application/json", `{"a":1}`, `value.a == 1`, ""},
		{"application/vnd.x+json; charset=utf-8", `{"a":1}`, `value.a == 1`, ""},
		{"Application/JSON", `7`, `value == 7`, ""},
		{"application/json", `[1,2]`, `value[0] == 1`, ""},
		{"text/plain; charset=utf-8", `{"a":1}`, `value == '{"a":1}'`, ""},
		{"text/csv", "\xff", `value == ""`, "not valid UTF-8"},
		{"", "ab", `value == b"ab"`, ""},
		{"application/octet-stream", "\xff", `value == b"\xff"`, ""},
		{"application/json", "{\"a\":1", `value.a == 1`, "not valid JSON"},
		{"application/json", "{\"a\":1,\"b\":{\"c\":01}}", `value.a == 1`, "not valid JSON"},
		{"application/json", "", `value.a == 1`, "not valid JSON"},
		{"application/json", "{\"a\":\"\xff\"}", `has(value.a)`, "not valid UTF-8"},
		{"application/json", "{", `key == "k1"`, ""},
		{"application/json", "{", `true || value.a`, ""},
	} {
		p, err := expr.Compile(expr.Condition, c.src)
		if err != nil {
			t.Fatalf("%s: %v", c.src, err)
		}
		rec := record(c.payload)
		rec.ContentType = c.contentType
		got, err := p.Test(rec)
		if c.want == "" && (err != nil || !got) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s %q %s: got %v, %v; want error %q", c.contentType, c.payload, c.src, got, err, c.want)
		}
	}
}

func TestUnsetVariables_AreNull(t *testing.T) {
	p, err := expr.Compile(expr.Condition, `key == null && time == null && op == "" && size(headers) == 0`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.Test(&expr.Record{}); err != nil || !got {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestCompile_LocatesFaults(t *testing.T) {
	for _, c := range []struct {
		kind         expr.Kind
		src          string
		line, column int
		msg          string
	}{
		{expr.Condition, "value.a ==", 1, 11, "Syntax error: the expression ends too early"},
		{expr.Condition, "value.a == )", 1, 12, "Syntax error: mismatched input ')'"},
		{expr.Condition, "value.a == 1 &&\n  valeu.b", 2, 3, "undeclared reference to 'valeu'"},
		{expr.Condition, `"text"`, 1, 1, "must be true or false"},
		{expr.Filter, `value.size + 1`, 1, 1, "a filter must be true or false"},
		{expr.Condition, `meta.stagee == "x"`, 1, 5, "meta has no field"},
		{expr.Condition, `op == 1`, 1, 4, "no matching overload"},
		{expr.Map, `{"a": 1, "a": 2}`, 1, 1, "stands twice"},
		{expr.Map, `int`, 1, 1, "no form in JSON"},
		{expr.Condition, strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300), 1, 1, ""},
		{expr.Condition, strings.Repeat("true && ", 5000) + "true", 1, 1, ""},
		{expr.Condition, `value.a.matches("(")`, 1, 1, ""},
	} {
		err := expr.Check(c.kind, c.src)
		var e *expr.SyntaxError
		if !errors.As(err, &e) || !strings.Contains(e.Msg, c.msg) || c.msg != "" && (e.Line != c.line || e.Column != c.column) {
			t.Errorf("%.60s: got %v, want %d:%d %s", c.src, err, c.line, c.column, c.msg)
		}
	}
}

func TestUses_NamesTheVariablesRead(t *testing.T) {
	p, err := expr.Compile(expr.Map, `{"a": headers.x, "b": [1].map(op, op)}`)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Uses("headers") || p.Uses("value") || p.Uses("meta") {
		t.Error("wrong variables")
	}
}

func TestNoExpressionRunsForEver(t *testing.T) {
	payload := "[" + strings.TrimSuffix(strings.Repeat("1,", 3000), ",") + "]"
	for _, src := range []string{
		`value.all(a, value.all(b, value.all(c, a + b + c > 0)))`,
		`size(value.map(a, value.map(b, value.map(c, [a, b, c])))) > 0`,
	} {
		p, err := expr.Compile(expr.Condition, src)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Test(record(payload)); err == nil || !strings.Contains(err.Error(), "cost limit") {
			t.Errorf("%s: got %v, want a cost limit", src, err)
		}
	}
}
