package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
)

// What a sidecar may hold by its configuration: at most three windows of 8 MiB meet in one (what comes in, what is at the service, what
// goes out), the collector lets the heap grow to twice of what lives, and the program itself needs something.
const (
	windowMiB = 8
	boundMiB  = 2*3*windowMiB + 32
)

// blocked is the line that is printed for a blocked sink.
type blocked struct {
	Read     uint64             `json:"read"` // records that the source had given when nothing moved any more
	HeapMiB  map[string]float64 `json:"heapMiB"`
	BoundMiB float64            `json:"boundMiB"`
}

// measureBlocked applies the pipeline, waits until nothing moves, and reads the heaps.
func measureBlocked(h *chain, cl *client.Client, resources []*dsl.Resource) (any, error) {
	if _, err := cl.Apply(h.ctx, resources, client.ApplyOptions{}); err != nil {
		return nil, err
	}
	b := &blocked{HeapMiB: map[string]float64{}, BoundMiB: boundMiB}
	const still = 4 * time.Second // longer than the time between two heartbeats
	since := time.Now()
	err := h.poll("the blocked pipeline to stand still", func() (bool, error) {
		st, err := cl.PipelineStatus(h.ctx, "default", "chain")
		if read := st.GetCounts().GetRead(); read != b.Read {
			b.Read, since = read, time.Now()
		}
		return b.Read > 0 && time.Since(since) > still, err
	})
	if err != nil {
		return nil, err
	}
	for _, d := range h.daemons {
		if !strings.HasPrefix(d.name, "sidecar-") {
			continue
		}
		bytes, err := metric(h.ctx, d.ops, "go_memstats_heap_inuse_bytes")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		b.HeapMiB[d.name] = bytes / (1 << 20)
		if b.HeapMiB[d.name] > boundMiB {
			return nil, fmt.Errorf("the heap of %s is %.0f MiB, bound %d MiB", d.name, b.HeapMiB[d.name], boundMiB)
		}
	}
	return b, nil
}
