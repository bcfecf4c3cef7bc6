package file_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/connectors/internal/file"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func line(i int) string {
	return `{"n":` + strconv.Itoa(i) + `,"pad":"` + strings.Repeat("x", 180) + `"}`
}

func BenchmarkSource_200ByteLines(b *testing.B) {
	path := filepath.Join(b.TempDir(), "in")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	var text strings.Builder
	for i := range b.N {
		text.WriteString(line(i) + "\n")
		if text.Len() > 1<<20 || i == b.N-1 {
			if _, err := f.WriteString(text.String()); err != nil {
				b.Fatal(err)
			}
			text.Reset()
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	c := sdktest.Serve(b, file.Source())
	b.ReportAllocs()
	b.ResetTimer()
	c.Pump(b, sdktest.Open{Config: fmt.Sprintf(`{"path": %q}`, path)}, b.N)
}

func BenchmarkSink_200ByteLines(b *testing.B) {
	w := sdktest.Serve(b, file.Sink()).MustOpenSink(b, sdktest.Open{Config: fmt.Sprintf(`{"path": %q}`, filepath.Join(b.TempDir(), "out"))})
	var batch []sdk.Record
	for i := range 1000 {
		batch = append(batch, rec(strconv.Itoa(i), line(i)))
	}
	b.ReportAllocs()
	b.ResetTimer()
	w.Pump(b.N, batch)
}
