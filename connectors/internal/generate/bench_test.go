package generate_test

import (
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/connectors/internal/generate"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func BenchmarkGenerate_200ByteRecords(b *testing.B) {
	c := sdktest.Serve(b, generate.Source())
	b.ReportAllocs()
	b.ResetTimer()
	c.Pump(b, sdktest.Open{Config: `{"template": "{\"seq\":${seq},\"pad\":\"` + strings.Repeat("x", 180) + `\"}"}`}, b.N)
}
