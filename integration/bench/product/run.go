package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

const hops = 6

// config is the workload; the flags are those of the floor.
type config struct {
	records   int
	size      int
	batch     int // the floor's; the product sizes batches itself
	transform string
	bin       string
	block     bool
	role      string
}

func (c *config) flags(output io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("product", flag.ContinueOnError)
	f.SetOutput(output)
	f.IntVar(&c.records, "n", 600_000, "records to send")
	f.IntVar(&c.size, "size", 1000, "bytes of a record's payload")
	f.IntVar(&c.batch, "batch", 0, "taken for the sake of the floor's command line: the product sizes batches by bytes")
	f.StringVar(&c.transform, "xform", "bytes", "touch: pass records on; bytes: drop a tenth by a byte test and append a field to the rest")
	f.BoolVar(&c.block, "block", false, "let the sink block for ever, and measure the heaps of the sidecars once nothing moves any more")
	f.StringVar(&c.bin, "bin", "bin", "where conveyor-router and conveyor-sidecar are")

	f.StringVar(&c.role, "role", "", "internal: which service this process is")
	return f
}

// result is the line that is printed.
type result struct {
	Records              int                `json:"records"`
	Size                 int                `json:"size"`
	Transform            string             `json:"transform"`
	Written              int                `json:"written"`
	Seconds              float64            `json:"seconds"`
	RecordsPerSecond     float64            `json:"recordsPerSecond"`
	CPUNanosPerRecord    float64            `json:"cpuNanosPerRecord"`
	CPUNanosPerRecordHop float64            `json:"cpuNanosPerRecordHop"`
	AllocsPerRecordHop   float64            `json:"allocsPerRecordHop"`
	CPUNanosByProcess    map[string]float64 `json:"cpuNanosByProcess"` // per record
	AllocsByProcess      map[string]float64 `json:"allocsByProcess"`   // per record
	MaxRSSMiB            int64              `json:"maxRssMiB"`
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c config
	if err := c.flags(stderr).Parse(args); err != nil {
		return 2
	}
	var result any
	var err error
	switch {
	case c.role != "":
		result, err = serve(ctx, c, stdout)
	case c.block:
		result, err = onChain(ctx, c, stderr, measureBlocked)
	default:
		result, err = onChain(ctx, c, stderr, measure)
	}
	if err == nil {
		err = json.NewEncoder(stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintf(stderr, "product: %s%v\n", c.role, err)
		return 1
	}
	return 0
}

// onChain starts everything and measures.
func onChain(ctx context.Context, c config, stderr io.Writer, measure func(*chain, *client.Client, []*dsl.Resource) (any, error)) (any, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dir, err := os.MkdirTemp("", "product")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	chain := &chain{ctx: ctx, c: c, dir: dir, stderr: stderr}
	defer chain.stop()
	endpoints, err := chain.start()
	if err != nil {
		return nil, err
	}
	cl, err := client.Dial(ctx, []string{chain.router})
	if err != nil {
		return nil, err
	}
	defer func() { _ = cl.Close() }()
	resources, diags := dsl.Parse("pipeline.yaml", []byte(fmt.Sprintf(manifests, endpoints["source"], endpoints["transform"], endpoints["sink"])))
	if err := dsl.Err(diags); err != nil {
		return nil, err
	}
	if err := chain.awaitSidecars(cl); err != nil {
		return nil, err
	}
	return measure(chain, cl, resources)
}

// measure applies the pipeline and waits until it has completed.
func measure(h *chain, cl *client.Client, resources []*dsl.Resource) (any, error) {
	before, err := h.usage()
	if err != nil {
		return nil, err
	}
	if _, err := cl.Apply(h.ctx, resources, client.ApplyOptions{}); err != nil {
		return nil, err
	}
	if err := h.awaitCompleted(cl); err != nil {
		return nil, err
	}
	after, err := h.usage()
	if err != nil {
		return nil, err
	}
	services, err := h.finish()
	if err != nil {
		return nil, err
	}
	return sum(h.c, before, after, services)
}

const manifests = `
{apiVersion: conveyor.etl/v1, kind: Source, metadata: {name: source}, spec: {grpc: {endpoint: "%s"}}}
---
{apiVersion: conveyor.etl/v1, kind: Transform, metadata: {name: transform}, spec: {grpc: {endpoint: "%s"}}}
---
{apiVersion: conveyor.etl/v1, kind: Sink, metadata: {name: sink}, spec: {grpc: {endpoint: "%s"}}}
---
{apiVersion: conveyor.etl/v1, kind: Pipeline, metadata: {name: chain}, spec: {source: source, steps: [transform], sink: sink}}
`

func sum(c config, before, after map[string]spent, services map[string]served) (*result, error) {
	sink := services["sink"]
	if sink.Records == 0 || sink.Records != c.records-services["transform"].Dropped {
		return nil, fmt.Errorf("%d records were sent and %d dropped, %d arrived", c.records, services["transform"].Dropped, sink.Records)
	}
	r := &result{
		Records: c.records, Size: c.size, Transform: c.transform, Written: sink.Records, Seconds: sink.Seconds,
		RecordsPerSecond: float64(c.records) / sink.Seconds, CPUNanosByProcess: map[string]float64{}, AllocsByProcess: map[string]float64{},
	}
	n := float64(c.records)
	mallocs := 0.0
	for name, a := range after {
		b := before[name]
		ns := (a.cpu - b.cpu) / n * 1e9
		r.CPUNanosByProcess[name] = ns
		r.CPUNanosPerRecord += ns
		mallocs += a.mallocs - b.mallocs
		if a.mallocs > 0 {
			r.AllocsByProcess[name] = (a.mallocs - b.mallocs) / n
		}
		r.MaxRSSMiB = max(r.MaxRSSMiB, a.rss>>20)
	}
	for name, s := range services {
		r.AllocsByProcess[name] = float64(s.Mallocs) / n
		mallocs += float64(s.Mallocs)
	}
	r.CPUNanosPerRecordHop = r.CPUNanosPerRecord / hops
	r.AllocsPerRecordHop = mallocs / n / hops
	return r, nil
}

func (h *chain) awaitSidecars(cl *client.Client) error {
	return h.poll("three sidecars with one service each", func() (bool, error) {
		sidecars, err := cl.Sidecars(h.ctx)
		n := 0
		for _, s := range sidecars {
			n += len(s.GetEndpoints())
		}
		return n == 3, err
	})
}

func (h *chain) awaitCompleted(cl *client.Client) error {
	return h.poll("the pipeline to complete", func() (bool, error) {
		st, err := cl.PipelineStatus(h.ctx, "default", "chain")
		return st.GetPhase() == controlv1.Phase_PHASE_COMPLETED, err
	})
}

// pollEvery is seldom enough for the questions not to be what is measured.
const pollEvery = 200 * time.Millisecond

// poll asks until the answer is yes. The bound is against hanging only.
func (h *chain) poll(what string, ask func() (bool, error)) error {
	var last error
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); {
		yes, err := ask()
		if yes {
			return nil
		}
		last = err
		select {
		case <-h.ctx.Done():
			return h.ctx.Err()
		case <-time.After(pollEvery):
		}
	}
	return errors.Join(fmt.Errorf("waited in vain for %s", what), last)
}

func (h *chain) program(name string) string { return filepath.Join(h.c.bin, name) }
