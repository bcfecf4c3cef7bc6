package expr_test

import (
	"fmt"

	"github.com/conveyor-etl/conveyor/dsl/expr"
)

func Example() {
	rec := &expr.Record{Payload: []byte(`{"name": "linux", "size": 12288, "deps": [ "libc" ]}`), ContentType: "application/json"}

	filter, err := expr.Compile(expr.Filter, `value.size > 1000`)
	if err != nil {
		fmt.Println(err)
		return
	}
	keep, err := filter.Test(rec)
	fmt.Println(keep, err)

	shape, err := expr.Compile(expr.Map, `{"name": value.name, "kib": value.size / 1024, "deps": value.deps}`)
	if err != nil {
		fmt.Println(err)
		return
	}
	out, err := shape.Map(nil, rec)
	fmt.Println(string(out), err)

	_, err = expr.Compile(expr.Filter, `valeu.size > 1000`)
	fmt.Println(err)
	// Output:
	// true <nil>
	// {"name":"linux","kib":12,"deps":["libc"]} <nil>
	// 1:1: undeclared reference to 'valeu' (did you mean 'value'?)
}
