package generate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/connectors/internal/generate"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGenerate_FillsTheTemplateAndEndsAfterCount(t *testing.T) {
	p := sdktest.Serve(t, generate.Source()).MustOpenSource(t, sdktest.Open{Config: `{"count": 3, "template": "{\"id\":${seq},\"name\":\"user-${seq}\"}"}`})
	all, _, end := p.Drain()
	var got []string
	for _, r := range all {
		got = append(got, string(r.Payload)+" "+string(r.Position)+" "+r.ContentType)
	}
	want := []string{
		`{"id":1,"name":"user-1"} 1 application/json`, `{"id":2,"name":"user-2"} 2 application/json`, `{"id":3,"name":"user-3"} 3 application/json`,
	}
	if diff := cmp.Diff(want, got); diff != "" || !end.GetExhausted() {
		t.Errorf("exhausted %v, records (-want +got):\n%s", end.GetExhausted(), diff)
	}
}

func TestGenerate_ResumesBehindItsCount(t *testing.T) {
	p := sdktest.Serve(t, generate.Source()).MustOpenSource(t, sdktest.Open{Config: `{"count": 3}`, Position: sdk.Position("3")})
	if all, _, end := p.Drain(); len(all) != 0 || !end.GetExhausted() {
		t.Errorf("%d records, exhausted %v", len(all), end.GetExhausted())
	}
}

func TestGenerate_KeepsItsRate(t *testing.T) {
	p := sdktest.Serve(t, generate.Source()).MustOpenSource(t, sdktest.Open{Config: `{"rate": 200}`})
	began := time.Now()
	p.Collect(61)
	// The first tenth of a second may come at once where the test machine was slow.
	if took := time.Since(began); took < 150*time.Millisecond {
		t.Errorf("61 records at 200 per second took %v", took)
	}
	if end, _ := p.Stop(); end.GetExhausted() {
		t.Error("exhausted")
	}
}

func TestGenerate_RefusesWhatMakesNoRecords(t *testing.T) {
	c := sdktest.Serve(t, generate.Source())
	for config, want := range map[string]string{
		`{"template": "{"}`:           "template: is not JSON",
		`{"rate": -1, "count": -1}`:   "rate: must not be negative; count: must not be negative",
		`{"rate": "fast"}`:            `rate: must be a number, not "fast"`,
		`{"count": 1.5}`:              "count: 1.5 is not a whole number",
		`{"template": "${seq}${seq"}`: "template",
	} {
		if _, err := c.OpenSource(t, sdktest.Open{Config: config}); status.Code(err) != codes.InvalidArgument || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: opened with %v, want %q", config, err, want)
		}
	}
	p := c.MustOpenSource(t, sdktest.Open{Position: sdk.Position("x")})
	p.Grant(1, 1)
	if err := p.Ended(); sdktest.Reason(err) != sdk.CodePositionGone {
		t.Errorf("a foreign position gave %v", err)
	}
}
