package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
)

// TestMain lets this binary be a contender: with BENCH_SPEED set it prints that speed, in place of running the tests.
func TestMain(m *testing.M) {
	if speed := os.Getenv("BENCH_SPEED"); speed != "" {
		fmt.Printf(`{"recordsPerSecond":%s,"cpuNanosPerRecord":7000,"cpuNanosPerRecordHop":1166,"allocsPerRecordHop":0.05}`, speed)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// pretend returns a program that claims to move this many records a second.
func pretend(t *testing.T, speed string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return "/usr/bin/env BENCH_SPEED=" + speed + " " + self
}

func TestRun_ComparesWithTheFloorOfTheSameRound(t *testing.T) {
	floor, err := os.CreateTemp(t.TempDir(), "floor")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(floor, "#!/bin/sh\nexec %s \"$@\"\n", pretend(t, "200000")); err != nil {
		t.Fatal(err)
	}
	if err := floor.Chmod(0o755); err != nil {
		t.Fatal(err)
	}
	if err := floor.Close(); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	code := run(context.Background(), []string{"-rounds=2", "-floor=" + floor.Name(), "-contender=product=" + pretend(t, "120000")}, &out, &errs)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, &errs)
	}
	for _, want := range []string{"medians of 2 alternating rounds", "product     120000  0.60 (0.60-0.60)", "floor again (A/A)     200000  1.00 (1.00-1.00)", "1000 B", "200 B"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

func TestRun_FailsWhenAContenderMeasuresNothing(t *testing.T) {
	var out, errs strings.Builder
	if code := run(context.Background(), []string{"-rounds=1", "-floor=/bin/true"}, &out, &errs); code != 1 || out.Len() > 0 {
		t.Errorf("exit code %d, printed %q", code, &out)
	}
	if code := run(context.Background(), []string{"-contender=nameless"}, &out, &errs); code != 2 {
		t.Errorf("exit code %d for a contender without a program", code)
	}
}

func TestMedian_OfEvenAndOddNumbers(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.values); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
	}
}
