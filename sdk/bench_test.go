package sdk_test

import (
	"context"
	"iter"
	"strconv"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

// dialFast connects as a sidecar does.
func dialFast(b *testing.B, addr string) *grpc.ClientConn {
	b.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})), experimental.WithBufferPool(wire.Shared()),
		grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(4<<20),
		grpc.WithReadBufferSize(128<<10), grpc.WithWriteBufferSize(128<<10))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return conn
}

func BenchmarkSource_200ByteRecords(b *testing.B) {
	payload := make([]byte, 200)
	addr := sdktest.Listen(b, sdk.Source("s", func(context.Context, noConfig, sdk.Position) iter.Seq2[sdk.Record, error] {
		return func(yield func(sdk.Record, error) bool) {
			var position []byte
			for i := int64(1); ; i++ {
				position = strconv.AppendInt(position[:0], i, 10)
				if !yield(sdk.Record{Position: position, Payload: payload, ContentType: "application/json"}, nil) {
					return
				}
			}
		}
	}))
	stream, err := conveyorv1.NewSourceServiceClient(dialFast(b, addr)).Pull(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	open := sdktest.Open{}.Opening()
	must(b, stream.Send(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Open{Open: &conveyorv1.PullOpen{Opening: open}}}))
	_, err = stream.Recv()
	must(b, err)
	credit := &conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Credit{Credit: &conveyorv1.PullCredit{Records: 1 << 50, Bytes: 1 << 60}}}
	b.ReportAllocs()
	b.ResetTimer()
	must(b, stream.Send(credit))
	for got := 0; got < b.N; {
		m := wire.Message{Head: &conveyorv1.PullResponse{}}
		must(b, stream.RecvMsg(&m))
		got += m.Batch.Len()
		m.Batch.Free()
	}
}

func BenchmarkTransform_200ByteRecords(b *testing.B) {
	addr := sdktest.Listen(b, sdk.Map("m", func(_ context.Context, _ noConfig, r sdk.Record) (sdk.Record, error) { return r, nil }))
	stream, err := conveyorv1.NewTransformServiceClient(dialFast(b, addr)).Process(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	must(b, stream.Send(&conveyorv1.ProcessRequest{Request: &conveyorv1.ProcessRequest_Open{Open: sdktest.Open{}.Opening()}}))
	_, err = stream.Recv()
	must(b, err)
	batch := benchBatch(b)
	defer batch.Free()
	b.ReportAllocs()
	b.ResetTimer()
	pump(b, stream, batch.Len(), func(n uint64) *wire.Message {
		return &wire.Message{Head: &conveyorv1.ProcessRequest{Sequence: n}, Batch: batch}
	}, func() *wire.Message { return &wire.Message{Head: &conveyorv1.ProcessResponse{}} })
}

func BenchmarkSink_200ByteRecords(b *testing.B) {
	addr := sdktest.Listen(b, sdk.Sink("s", func(context.Context, noConfig, []sdk.Record) error { return nil }))
	stream, err := conveyorv1.NewSinkServiceClient(dialFast(b, addr)).Write(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	must(b, stream.Send(&conveyorv1.WriteRequest{Request: &conveyorv1.WriteRequest_Open{Open: sdktest.Open{}.Opening()}}))
	_, err = stream.Recv()
	must(b, err)
	batch := benchBatch(b)
	defer batch.Free()
	b.ReportAllocs()
	b.ResetTimer()
	pump(b, stream, batch.Len(), func(n uint64) *wire.Message {
		return &wire.Message{Head: &conveyorv1.WriteRequest{Sequence: n}, Batch: batch}
	}, func() *wire.Message { return &wire.Message{Head: &conveyorv1.WriteResponse{}} })
}

// pump keeps a few requests unanswered until b.N records are answered.
func pump(b *testing.B, stream grpc.ClientStream, size int, request func(uint64) *wire.Message, response func() *wire.Message) {
	b.Helper()
	requests := uint64((b.N + size - 1) / size)
	window := make(chan struct{}, 8)
	sent := make(chan error, 1)
	go func() {
		defer close(sent)
		for n := uint64(1); n <= requests; n++ {
			window <- struct{}{}
			if err := stream.SendMsg(request(n)); err != nil {
				sent <- err
				return
			}
		}
	}()
	for range requests {
		m := response()
		must(b, stream.RecvMsg(m))
		if m.Batch != nil {
			m.Batch.Free()
		}
		<-window
	}
	must(b, <-sent)
}

func benchBatch(b *testing.B) *wire.Batch {
	b.Helper()
	var w wire.Builder
	for i := range 512 {
		must(b, w.AppendRecord(&conveyorv1.Record{
			Id: "default/in//" + strconv.Itoa(i), Key: []byte(strconv.Itoa(i)), Payload: make([]byte, 200), ContentType: "application/json",
		}))
	}
	return w.Finish()
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
