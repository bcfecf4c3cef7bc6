package wire_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plane checks every frame and answers with its number and count.
type plane struct {
	controlv1.UnimplementedSidecarDataPlaneServer
	check func(first uint64, b *wire.Batch) error
}

func (p *plane) Link(stream grpc.BidiStreamingServer[linkv1.LinkRequest, linkv1.LinkResponse]) error {
	for {
		head := &linkv1.LinkRequest{}
		m := &wire.Message{Head: head}
		err := stream.RecvMsg(m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		n := 0
		if m.Batch != nil {
			n = m.Batch.Len()
			err = p.check(head.GetHeader().GetFirst(), m.Batch)
			m.Batch.Free()
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&linkv1.LinkResponse{Settled: &linkv1.SettledRuns{First: []uint64{head.GetHeader().GetFirst()}, Count: []uint64{uint64(n)}}}); err != nil {
			return err
		}
	}
}

func recordOf(number uint64, size int) *conveyorv1.Record {
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(number)
	}
	return &conveyorv1.Record{Id: fmt.Sprint(number), Payload: payload}
}

// One batch goes to several receivers at once, while its maker lets go of it: nobody may see a buffer that was given back.
func TestMessage_ReachesSeveralReceiversWhole(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}), experimental.BufferPool(wire.Shared()))
	controlv1.RegisterSidecarDataPlaneServer(server, &plane{check: func(first uint64, b *wire.Batch) error {
		for i := range b.Len() {
			r := &conveyorv1.Record{}
			if err := proto.Unmarshal(b.Record(i), r); err != nil {
				return err
			}
			if want := recordOf(first+uint64(i), len(r.GetPayload())); !proto.Equal(r, want) {
				return fmt.Errorf("record %d came as %s with %d bytes", first+uint64(i), r.GetId(), len(r.GetPayload()))
			}
		}
		return nil
	}})
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(lis) })
	defer wg.Wait()
	defer server.Stop()

	const receivers, frames = 3, 60
	edges := make([]chan frame, receivers)
	failed := make(chan error, receivers)
	for i := range edges {
		edges[i] = make(chan frame, 4)
		conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})), experimental.WithBufferPool(wire.Shared()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		wg.Go(func() { failed <- send(t.Context(), conn, edges[i]) })
	}
	// Sizes around the limits of the pool's classes, and batches of which gRPC copies the small ones.
	sizes := []int{0, 1, 100, 200, 255, 900, 1024, 4000, 40_000, 300_000}
	number := uint64(1)
	for i := range frames {
		var w wire.Builder
		first := number
		for range i % 5 {
			if err := w.AppendRecord(recordOf(number, sizes[int(number)%len(sizes)])); err != nil {
				t.Fatal(err)
			}
			number++
		}
		b := w.Finish()
		for _, e := range edges {
			if b != nil {
				b.Ref()
			}
			e <- frame{first, b}
		}
		if b != nil {
			b.Free()
		}
	}
	for _, e := range edges {
		close(e)
	}
	for range edges {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

type frame struct {
	first uint64
	batch *wire.Batch
}

func send(ctx context.Context, conn *grpc.ClientConn, frames <-chan frame) error {
	stream, err := controlv1.NewSidecarDataPlaneClient(conn).Link(ctx)
	if err != nil {
		return err
	}
	for f := range frames {
		n := 0
		if f.batch != nil {
			n = f.batch.Len()
		}
		err := stream.SendMsg(&wire.Message{Head: &linkv1.LinkRequest{Header: &linkv1.FrameHeader{First: f.first}}, Batch: f.batch})
		if f.batch != nil {
			f.batch.Free()
		}
		if err != nil {
			return err
		}
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		if got := answer.GetSettled(); got.GetFirst()[0] != f.first || got.GetCount()[0] != uint64(n) {
			return fmt.Errorf("sent %d records from %d on, answered %v", n, f.first, got)
		}
	}
	return stream.CloseSend()
}

func FuzzCodec(f *testing.F) {
	whole, err := proto.Marshal(&linkv1.LinkRequest{
		Header: &linkv1.FrameHeader{First: 1, Records: 2, KeyHashes: []uint64{1, 2}},
		Batch:  &conveyorv1.RecordBatch{Records: []*conveyorv1.Record{{Id: "a"}, {Id: "b", Payload: []byte("x")}}},
		Lanes:  []*linkv1.Lane{{Index: 1, Source: "default/in"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte{2<<3 | 2, 0})
	f.Add([]byte{2<<3 | 2, 2, 1<<3 | 2, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &wire.Message{Head: &linkv1.LinkRequest{}}
		if err := (wire.Codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, m); err != nil {
			if m.Batch != nil {
				t.Fatal("a batch came with an error")
			}
			return
		}
		if m.Batch == nil {
			return
		}
		defer m.Batch.Free()
		var records [][]byte
		total := 0
		for i := range m.Batch.Len() {
			records = append(records, m.Batch.Record(i))
			total += len(m.Batch.Record(i))
		}
		if total != m.Batch.Bytes() {
			t.Fatalf("%d bytes of records, batch says %d", total, m.Batch.Bytes())
		}
		// What is sent on has the same records.
		sent, err := wire.Codec{}.Marshal(&wire.Message{Head: &linkv1.LinkRequest{}, Batch: m.Batch})
		if err != nil {
			t.Fatal(err)
		}
		defer sent.Free()
		again := &wire.Message{Head: &linkv1.LinkRequest{}}
		if err := (wire.Codec{}).Unmarshal(sent, again); err != nil {
			t.Fatal(err)
		}
		defer again.Batch.Free()
		if again.Batch.Len() != len(records) {
			t.Fatalf("%d records, sent on %d", len(records), again.Batch.Len())
		}
		for i, r := range records {
			if string(again.Batch.Record(i)) != string(r) {
				t.Fatalf("record %d changed", i)
			}
		}
	})
}
