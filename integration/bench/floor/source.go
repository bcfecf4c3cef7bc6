package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// distinct is how many different records there are; the source sends them round and round.
const distinct = 1024

// payloads returns JSON objects of about size bytes, a tenth of which have the level debug.
func payloads(size int) [][]byte {
	levels := []string{"info", "warn", "error", "info", "debug", "info", "info", "warn", "info", "info"}
	out := make([][]byte, distinct)
	for i := range out {
		b := fmt.Appendf(nil, `{"id":%d,"ts":"2026-11-22T08:31:%02d.%03dZ","level":"%s","user":"u-%06d","amount":%d.25,"region":"eu-west-%d","msg":"`,
			100000+i, i%60, i%1000, levels[i%10], i*7, i*3, i%3)
		for j := range max(0, size-len(b)-2) {
			b = append(b, "abcdefghijklmnopqrstuvwxyz 0123456789"[(i+j*7)%37])
		}
		out[i] = append(b, `"}`...)
	}
	return out
}

// sent holds when the batches in flight were sent.
type sent struct {
	mu    sync.Mutex
	times []time.Time
}

func (s *sent) at(id uint64) *time.Time { return &s.times[id%uint64(len(s.times))] }

// source sends the records and returns when the last one is acknowledged.
func source(ctx context.Context, c config) (usage, error) {
	values := payloads(c.size)
	keys := make([][]byte, len(values))
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "key-%012d", i)
	}
	down, conn, err := open(ctx, c.downstream)
	if err != nil {
		return usage{}, err
	}
	defer func() { _ = conn.Close() }()

	window := max(4, c.window/c.batch)
	total := (c.records + c.batch - 1) / c.batch
	inFlight := &sent{times: make([]time.Time, window+1)}
	credit := make(chan struct{}, window)
	for range window {
		credit <- struct{}{}
	}
	var m meter
	m.start()
	latencies := make([]time.Duration, 0, total)
	acked := make(chan error, 1)
	go func() {
		var err error
		latencies, err = receiveAcks(down, inFlight, uint64(total), latencies, credit)
		acked <- err
	}()

	var u usage
	for id := 1; id <= total; id++ {
		select {
		case <-credit:
		case err := <-acked:
			return u, err
		}
		b := newBatch()
		b.id = uint64(id)
		for range min(c.batch, c.records-u.Records) {
			i := u.Records % distinct
			b.records = append(b.records, record{key: keys[i], value: values[i], time: int64(u.Records)})
			u.Bytes += int64(len(values[i]))
			u.Records++
		}
		inFlight.mu.Lock()
		*inFlight.at(b.id) = time.Now()
		inFlight.mu.Unlock()
		if err := down.SendMsg(b); err != nil {
			return u, errors.Join(fmt.Errorf("send batch %d: %w", id, err), <-acked)
		}
		b.release()
	}
	if err := <-acked; err != nil {
		return u, err
	}
	m.stop(&u)
	slices.Sort(latencies)
	u.P50 = float64(latencies[len(latencies)/2].Microseconds()) / 1e3
	u.P99 = float64(latencies[len(latencies)*99/100].Microseconds()) / 1e3
	if err := down.CloseSend(); err != nil {
		return u, err
	}
	if err := down.RecvMsg(&ack{}); !errors.Is(err, io.EOF) {
		return u, fmt.Errorf("the chain did not end with the records: %w", err)
	}
	return u, nil
}

// receiveAcks returns a credit for every batch that is acknowledged, until the last one is.
func receiveAcks(down grpc.ClientStream, inFlight *sent, total uint64, latencies []time.Duration, credit chan<- struct{}) ([]time.Duration, error) {
	var a ack
	for acked := uint64(0); acked < total; {
		if err := down.RecvMsg(&a); err != nil {
			return latencies, fmt.Errorf("after batch %d of %d: %w", acked, total, err)
		}
		if a.id <= acked || a.id > total {
			return latencies, fmt.Errorf("ack of batch %d after that of %d", a.id, acked)
		}
		now := time.Now()
		for acked < a.id {
			acked++
			inFlight.mu.Lock()
			latencies = append(latencies, now.Sub(*inFlight.at(acked)))
			inFlight.mu.Unlock()
			credit <- struct{}{}
		}
	}
	return latencies, nil
}
