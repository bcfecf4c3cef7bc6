package sdktest

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sdk"
)

// window is how many requests Pump keeps unanswered.
const window = 8

// Pump measures a source: it takes n records as a sidecar does, which keeps them encoded. Credit is without end.
func (c *Conn) Pump(b *testing.B, o Open, n int) {
	b.Helper()
	conn, err := grpc.NewClient(c.conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})), experimental.WithBufferPool(wire.Shared()),
		grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(4<<20),
		grpc.WithReadBufferSize(128<<10), grpc.WithWriteBufferSize(128<<10))
	check(b, err)
	defer func() { check(b, conn.Close()) }()
	stream, err := conveyorv1.NewSourceServiceClient(conn).Pull(b.Context())
	check(b, err)
	check(b, stream.Send(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Open{
		Open: &conveyorv1.PullOpen{Opening: o.Opening(), Partition: o.Partition, Position: o.Position},
	}}))
	check(b, stream.Send(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Credit{
		Credit: &conveyorv1.PullCredit{Records: 1 << 50, Bytes: 1 << 60},
	}}))
	for got := 0; got < n; {
		m := wire.Message{Head: &conveyorv1.PullResponse{}}
		check(b, stream.RecvMsg(&m))
		if m.Batch != nil {
			got += m.Batch.Len()
			m.Batch.Free()
		}
	}
}

// Pump measures a sink: it sends batches until n records are answered, a few of them unanswered at any time.
func (w *Write) Pump(n int, batch []sdk.Record) {
	w.t.Helper()
	encoded := batchOf(batch)
	requests := (n + len(batch) - 1) / len(batch)
	free := make(chan struct{}, window)
	sent := make(chan error, 1)
	first := w.sequence + 1
	w.sequence += uint64(requests)
	go func() {
		defer close(sent)
		for i := range requests {
			free <- struct{}{}
			if err := w.stream.stream.Send(&conveyorv1.WriteRequest{Sequence: first + uint64(i), Batch: encoded}); err != nil {
				sent <- err
				return
			}
		}
	}()
	for range requests {
		for _, result := range w.recv().GetResults() {
			if result.GetOk() == nil {
				w.t.Fatalf("result is %v", result)
			}
		}
		<-free
	}
	if err := <-sent; err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
