package blackhole_test

import (
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/conveyor-etl/conveyor/connectors/internal/blackhole"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBlackhole_TakesEverything(t *testing.T) {
	w := sdktest.Serve(t, blackhole.Sink()).MustOpenSink(t, sdktest.Open{})
	if got := w.Ask(sdk.Record{ID: "1"}, sdk.Record{Payload: []byte("\xff")}); got[0].Outcome != "ok" || got[1].Outcome != "ok" {
		t.Errorf("answers are %+v", got)
	}
}

func BenchmarkBlackhole_200ByteRecords(b *testing.B) {
	w := sdktest.Serve(b, blackhole.Sink()).MustOpenSink(b, sdktest.Open{})
	var batch []sdk.Record
	for i := range 512 {
		batch = append(batch, sdk.Record{ID: strconv.Itoa(i), Payload: []byte(strings.Repeat("x", 200))})
	}
	b.ReportAllocs()
	b.ResetTimer()
	w.Pump(b.N, batch)
}
