package expr_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/conveyor-etl/conveyor/dsl/expr"
)

func TestProgram_IsSafeForConcurrentUse(t *testing.T) {
	p, err := expr.Compile(expr.Map, `{"n": value.n, "all": value.list.map(x, x + value.n)}`)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				n := g*1000 + i
				got, err := p.Map(nil, record(fmt.Sprintf(`{"n":%d,"list":[1,2]}`, n)))
				if want := fmt.Sprintf(`{"n":%d,"all":[%d,%d]}`, n, n+1, n+2); err != nil || string(got) != want {
					t.Errorf("got %s, %v, want %s", got, err, want)
				}
			}
		})
	}
	wg.Wait()
}
