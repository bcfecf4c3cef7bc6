package sdk_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func noEnv(string) string { return "" }

func TestRun_DescribesItsAbilities(t *testing.T) {
	var out, errs bytes.Buffer
	if code := sdk.Run(t.Context(), []string{"--describe"}, noEnv, &out, &errs, sdk.Source("count", counter), sdk.WithVersion("1.2")); code != 0 {
		t.Fatalf("code %d: %s", code, &errs)
	}
	var got []struct {
		Kind, Type, Version string
		ConfigSchema        map[string]any
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Kind != "source" || got[0].Type != "count" || got[0].Version != "1.2" || got[0].ConfigSchema["properties"] == nil {
		t.Errorf("described as %+v", got)
	}
}

func TestRun_WrongUsageIsTwoAndATakenPortIsOne(t *testing.T) {
	lis := listen(t)
	defer lis.Close()
	for _, tc := range []struct {
		args    []string
		options []sdk.Option
		code    int
		text    string
	}{
		{[]string{"--nonsense"}, nil, 2, "nonsense"},
		{[]string{"argument"}, nil, 2, "no arguments"},
		{nil, nil, 2, "no ability"},
		{nil, []sdk.Option{sdk.Source("a", counter), sdk.Source("a", counter)}, 2, `two abilities are source "a"`},
		{[]string{"--listen", lis.Addr().String()}, []sdk.Option{sdk.Source("a", counter)}, 1, "listen on " + lis.Addr().String()},
	} {
		var out, errs bytes.Buffer
		if code := sdk.Run(t.Context(), tc.args, noEnv, &out, &errs, tc.options...); code != tc.code || !strings.Contains(errs.String(), tc.text) {
			t.Errorf("%q: code %d, stderr %q; want %d and %q", tc.args, code, errs.String(), tc.code, tc.text)
		}
	}
}

func TestRun_ServesUntilItsContextIsDone(t *testing.T) {
	lis := listen(t)
	addr := lis.Addr().String()
	lis.Close()
	ctx, stop := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		var out, errs bytes.Buffer
		code <- sdk.Run(ctx, nil, func(string) string { return addr }, &out, &errs, sdk.Source("count", counter))
	}()
	sdktest.Dial(t, addr).MustOpenSource(t, sdktest.Open{}).Close()
	stop()
	select {
	case got := <-code:
		if got != 0 {
			t.Errorf("code %d", got)
		}
	case <-time.After(sdktest.Patience):
		t.Fatal("it did not stop")
	}
}

func TestAbilityOption_ThatMakesNoSensePanics(t *testing.T) {
	defer func() {
		if got := recover(); got != "sdk: MaxBatch makes no sense for a source" {
			t.Errorf("panic is %v", got)
		}
	}()
	sdk.Source("count", counter, sdk.MaxBatch(3))
}

func TestFence_WaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f sdk.Fence
		_, leave, err := f.Enter(t.Context(), "thing", sdk.Epoch{Index: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := f.Enter(ctx, "thing", sdk.Epoch{Index: 2}); err == nil {
			t.Error("entered while the older owner was there")
		}
	})
}

func TestDecodeConfig_NestedValues(t *testing.T) {
	type inner struct {
		On bool `default:"true"`
	}
	type config struct {
		RecordID string
		List     []inner
		Map      map[string]int
		Optional *inner
		Any      any
		Inner    inner
		Small    uint8
		Share    float64
	}
	got, err := sdk.DecodeConfig[config]([]byte(`{"recordId": "x", "list": [{}, {"on": false}], "map": {"a": 1}, "any": [1], "small": 255, "share": 0.5}`))
	if err != nil {
		t.Fatal(err)
	}
	want := config{RecordID: "x", List: []inner{{true}, {false}}, Map: map[string]int{"a": 1}, Any: []any{1.0}, Inner: inner{true}, Small: 255, Share: 0.5}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	_, err = sdk.DecodeConfig[config]([]byte(`{"small": 256, "list": [{"of": 1}], "map": {"a": "b"}, "inner": 3}`))
	for _, want := range []string{
		"small: 256 is not a whole number from 0 to 255", `list[0].of: unknown field, did you mean "on"?`,
		`map.a: must be a number, not "b"`, "inner: must be an object, not 3",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q in it", err, want)
		}
	}
}

func FuzzDecodeConfig_NeverPanics(f *testing.F) {
	f.Add([]byte(`{"count": 1}`))
	f.Add([]byte(`{"count": "`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = sdk.DecodeConfig[countConfig](data)
	})
}
