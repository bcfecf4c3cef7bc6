package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func parseContender(s string) (contender, error) {
	name, program, ok := strings.Cut(s, "=")
	command := strings.Fields(program)
	if !ok || name == "" || len(command) == 0 {
		return contender{}, fmt.Errorf("%q: want NAME=PROGRAM", s)
	}
	return contender{name: name, command: command}, nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

func medianOf(runs []measurement, pick func(measurement) float64) float64 {
	values := make([]float64, 0, len(runs))
	for _, m := range runs {
		values = append(values, pick(m))
	}
	return median(values)
}

// ratios returns, round by round, how many times the floor's throughput a contender reached.
func ratios(runs, floor []measurement) []float64 {
	out := make([]float64, 0, len(runs))
	for i := range runs {
		out = append(out, runs[i].RecordsPerSecond/floor[i].RecordsPerSecond)
	}
	return out
}

// printTable prints medians; the ratio is the median of the rounds' ratios, with the lowest and the highest behind it.
func printTable(w io.Writer, rows []row, rounds int) error {
	fmt.Fprintf(w, "%s, %s/%s, %d CPUs, %s, medians of %d alternating rounds\n\n",
		time.Now().UTC().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), rounds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "record\tcontender\trecords/s\tof the floor\tCPU ns/record\tper hop\tallocs/record/hop\tack p50 ms\tp99 ms\t")
	var floor []measurement
	for _, r := range rows {
		if r.contender == "floor" {
			floor = r.runs
		}
		of := ratios(r.runs, floor)
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.2f (%.2f-%.2f)\t%.0f\t%.0f\t%.3f\t%s\t%s\t\n", r.workload, r.contender,
			medianOf(r.runs, func(m measurement) float64 { return m.RecordsPerSecond }),
			median(of), slices.Min(of), slices.Max(of),
			medianOf(r.runs, func(m measurement) float64 { return m.CPUNanosPerRecord }),
			medianOf(r.runs, func(m measurement) float64 { return m.CPUNanosPerHop }),
			medianOf(r.runs, func(m measurement) float64 { return m.AllocsPerRecordHop }),
			millis(medianOf(r.runs, func(m measurement) float64 { return m.AckP50Millis })),
			millis(medianOf(r.runs, func(m measurement) float64 { return m.AckP99Millis })))
	}
	return t.Flush()
}

// millis is a latency, or a dash where the contender does not measure it.
func millis(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", v)
}
