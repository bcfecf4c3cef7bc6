package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"strconv"
)

// workload is one kind of record and of work on it.
type workload struct {
	Size    int // bytes of a record's value
	Batch   int // records; about 256 KiB, where throughput is best
	Records int
}

func (w workload) String() string { return strconv.Itoa(w.Size) + " B" }

func (w workload) args() []string {
	return []string{"-size=" + strconv.Itoa(w.Size), "-batch=" + strconv.Itoa(w.Batch), "-n=" + strconv.Itoa(w.Records)}
}

// measurement is what a contender prints.
type measurement struct {
	RecordsPerSecond   float64 `json:"recordsPerSecond"`
	CPUNanosPerRecord  float64 `json:"cpuNanosPerRecord"` // of all its processes
	CPUNanosPerHop     float64 `json:"cpuNanosPerRecordHop"`
	AllocsPerRecordHop float64 `json:"allocsPerRecordHop"`
	AckP50Millis       float64 `json:"ackP50Millis"`
	AckP99Millis       float64 `json:"ackP99Millis"`
}

// contender is a program that is measured.
type contender struct {
	name    string
	command []string // the arguments of the workload follow it
}

// row is a contender's measurements of one workload, one for each round.
type row struct {
	workload  workload
	contender string
	runs      []measurement
}

func (c contender) measure(ctx context.Context, w workload, stderr io.Writer) (measurement, error) {
	var m measurement
	args := append(append([]string{}, c.command[1:]...), w.args()...)
	cmd := exec.CommandContext(ctx, c.command[0], args...)
	cmd.Stderr = stderr
	out, err := cmd.Output()
	if err != nil {
		return m, fmt.Errorf("%s: %w", c.name, err)
	}
	if err := json.Unmarshal(out, &m); err != nil {
		return m, fmt.Errorf("%s printed %q: %w", c.name, out, err)
	}
	if m.RecordsPerSecond <= 0 || m.CPUNanosPerRecord <= 0 {
		return m, fmt.Errorf("%s measured nothing: %s", c.name, out)
	}
	return m, nil
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	rounds := flags.Int("rounds", 5, "how often each contender runs")
	scale := flags.Float64("scale", 1, "shorten (below 1) or lengthen the runs")
	floor := flags.String("floor", "bin/floor", "the floor program")
	blocked := flags.String("blocked", "", "a command that measures memory behind a blocked sink and prints one line, to run at the end")
	var others []contender
	flags.Func("contender", "NAME=PROGRAM to measure beside the floor; may be repeated", func(s string) error {
		c, err := parseContender(s)
		others = append(others, c)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *rounds < 1 || *scale <= 0 {
		fmt.Fprintln(stderr, "bench: -rounds and -scale must be above 0")
		return 2
	}
	workloads := []workload{
		{Size: 1000, Batch: 256, Records: int(600_000 * *scale)},
		{Size: 200, Batch: 1024, Records: int(2_000_000 * *scale)},
	}
	// The floor's second half stands at the other end of the round, so that drift within a round shows in A/A too.
	contenders := append([]contender{{"floor", []string{*floor}}}, others...)
	contenders = append(contenders, contender{"floor again (A/A)", []string{*floor}})
	rows, err := measureAll(ctx, contenders, workloads, *rounds, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	if err := printTable(stdout, rows, *rounds); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	if *blocked != "" {
		fmt.Fprintln(stderr, "memory behind a blocked sink")
		cmd := exec.CommandContext(ctx, *blocked, "-block")
		cmd.Stderr = stderr
		out, err := cmd.Output()
		if err != nil {
			fmt.Fprintln(stderr, "bench: blocked sink:", err)
			return 1
		}
		fmt.Fprintf(stdout, "\nblocked sink: %s", out)
	}
	return 0
}

// measureAll runs every contender once in each round. Every second round goes backwards, against drift.
func measureAll(ctx context.Context, contenders []contender, workloads []workload, rounds int, stderr io.Writer) ([]row, error) {
	var rows []row
	for _, w := range workloads {
		first := len(rows)
		for _, c := range contenders {
			rows = append(rows, row{workload: w, contender: c.name})
		}
		for round := range rounds {
			for i := range contenders {
				if round%2 == 1 {
					i = len(contenders) - 1 - i
				}
				fmt.Fprintf(stderr, "%s, round %d of %d: %s\n", w, round+1, rounds, contenders[i].name)
				m, err := contenders[i].measure(ctx, w, stderr)
				if err != nil {
					return nil, err
				}
				rows[first+i].runs = append(rows[first+i].runs, m)
			}
		}
	}
	return rows, nil
}
