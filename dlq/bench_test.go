package dlq_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/conveyor-etl/conveyor/dlq"
)

// BenchmarkAppend stores letters with records of 1 kB, in calls of so many letters by so many callers at once.
func BenchmarkAppend(b *testing.B) {
	for _, bench := range []struct{ letters, callers int }{{1, 1}, {64, 1}, {500, 1}, {1, 64}, {64, 8}, {500, 2}} {
		b.Run(fmt.Sprintf("letters=%d/callers=%d", bench.letters, bench.callers), func(b *testing.B) {
			in := open(b, b.TempDir(), dlq.Config{})
			record := make([]byte, 1000)
			var wg sync.WaitGroup
			var mu sync.Mutex
			next := 0
			take := func() int {
				mu.Lock()
				defer mu.Unlock()
				next++
				return next
			}
			b.ReportAllocs()
			b.ResetTimer()
			for range bench.callers {
				wg.Go(func() {
					for call := take(); call <= b.N; call = take() {
						ls := letters(1, bench.letters)
						for i := range ls {
							ls[i].RecordID = fmt.Sprintf("%d/%d", call, i)
							ls[i].Record = record
						}
						if _, err := in.store.Append(bg, ls); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N*bench.letters)/b.Elapsed().Seconds(), "letters/s")
		})
	}
}
