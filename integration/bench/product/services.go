package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/conveyor-etl/conveyor/sdk"
)

// served is what a service has to tell at its end.
type served struct {
	Records int     `json:"records"`
	Dropped int     `json:"dropped"`
	Seconds float64 `json:"seconds"` // from the first record to the last
	Mallocs uint64  `json:"mallocs"` // meanwhile
}

// meter notes when records come.
type meter struct {
	once        sync.Once
	first, last time.Time
	mallocs     uint64
	records     atomic.Int64
	dropped     atomic.Int64
}

func (m *meter) begin() {
	m.once.Do(func() {
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		m.mallocs, m.first = mem.Mallocs, time.Now()
	})
}

func (m *meter) end() served {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return served{
		Records: int(m.records.Load()), Dropped: int(m.dropped.Load()), Seconds: m.last.Sub(m.first).Seconds(), Mallocs: mem.Mallocs - m.mallocs,
	}
}

// serve runs one service until its standard input ends, and returns what it has to tell.
func serve(ctx context.Context, c config, stdout io.Writer) (served, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &meter{}
	services := map[string]sdk.Ability{"source": source(c, m), "transform": transform(c, m), "sink": sink(c, m)}
	ability, ok := services[c.role]
	if !ok {
		return served{}, fmt.Errorf("there is no role %q", c.role)
	}
	server, err := sdk.NewServer(ability, sdk.WithGrace(time.Second))
	if err != nil {
		return served{}, err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return served{}, err
	}
	if err := json.NewEncoder(stdout).Encode(lis.Addr().String()); err != nil {
		return served{}, err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := server.Serve(ctx, lis); err != nil && ctx.Err() == nil {
		return served{}, err
	}
	return m.end(), nil
}

// distinct is how many different records there are; the source sends them round and round.
const distinct = 1024

func payloads(size int) (keys, values [][]byte) {
	levels := []string{"info", "warn", "error", "info", "debug", "info", "info", "warn", "info", "info"}
	for i := range distinct {
		b := fmt.Appendf(nil, `{"id":%d,"ts":"2026-11-22T08:31:%02d.%03dZ","level":"%s","user":"u-%06d","amount":%d.25,"region":"eu-west-%d","msg":"`,
			100000+i, i%60, i%1000, levels[i%10], i*7, i*3, i%3)
		for j := range max(0, size-len(b)-2) {
			b = append(b, "abcdefghijklmnopqrstuvwxyz 0123456789"[(i+j*7)%37])
		}
		keys = append(keys, fmt.Appendf(nil, "key-%012d", i))
		values = append(values, append(b, `"}`...))
	}
	return keys, values
}

// source sends what the floor's sends, a key, a payload and a time, and the position that Conveyor needs besides.
func source(c config, m *meter) sdk.Ability {
	keys, values := payloads(c.size)
	return sdk.Source("", func(_ context.Context, _ struct{}, from sdk.Position) iter.Seq2[sdk.Record, error] {
		return func(yield func(sdk.Record, error) bool) {
			m.begin()
			next := 0
			if len(from) > 0 {
				next, _ = strconv.Atoi(string(from))
			}
			position := make([]byte, 0, 20)
			for ; next < c.records; next++ {
				position = strconv.AppendInt(position[:0], int64(next+1), 10)
				k := next % distinct
				if !yield(sdk.Record{Key: keys[k], Payload: values[k], Position: position, Time: time.Unix(0, int64(next)+1)}, nil) {
					return
				}
				m.records.Add(1)
			}
		}
	})
}

var debug = []byte(`"level":"debug"`)

type dropping struct {
	c     config
	m     *meter
	arena []byte
	out   []sdk.Record
}

func transform(c config, m *meter) sdk.Ability {
	return sdk.OpenTransform("", func(context.Context, sdk.Opening, struct{}) (sdk.Processor, error) {
		return &dropping{c: c, m: m}, nil
	})
}

func (p *dropping) Close() error { return nil }

func (p *dropping) Process(_ context.Context, batch []sdk.Record, results []sdk.Result) error {
	p.m.begin()
	p.out = append(p.out[:0], batch...)
	p.arena = p.arena[:0]
	for i := range batch {
		if p.c.transform == "bytes" {
			if bytes.Contains(batch[i].Payload, debug) {
				p.m.dropped.Add(1)
				continue
			}
			at := len(p.arena)
			p.arena = append(p.arena, batch[i].Payload[:len(batch[i].Payload)-1]...)
			p.arena = append(p.arena, `,"env":"prod"}`...)
			p.out[i].Payload = p.arena[at:len(p.arena):len(p.arena)]
		}
		results[i].Records = p.out[i : i+1]
	}
	p.m.records.Add(int64(len(batch)))
	return nil
}

func sink(c config, m *meter) sdk.Ability {
	return sdk.Sink("", func(ctx context.Context, _ struct{}, batch []sdk.Record) error {
		if c.block {
			<-ctx.Done()
			return ctx.Err()
		}
		m.begin()
		m.records.Add(int64(len(batch)))
		m.last = time.Now()
		return nil
	})
}
