package wire_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

func drawRecord(t *rapid.T) *conveyorv1.Record {
	r := &conveyorv1.Record{
		Id:                rapid.StringMatching(`[a-z/0-9]{0,40}`).Draw(t, "id"),
		Key:               rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "key"),
		Position:          rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "position"),
		Payload:           rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "payload"),
		EventTimeUnixNano: rapid.Int64().Draw(t, "time"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "headers") {
		r.Headers = append(r.Headers, &conveyorv1.Header{Name: "n", Value: []byte("v")})
	}
	return r
}

func build(t testing.TB, records ...*conveyorv1.Record) *wire.Batch {
	t.Helper()
	var w wire.Builder
	for _, r := range records {
		if err := w.AppendRecord(r); err != nil {
			t.Fatal(err)
		}
	}
	return w.Finish()
}

func decode(t testing.TB, b *wire.Batch) []*conveyorv1.Record {
	t.Helper()
	var out []*conveyorv1.Record
	for i := range b.Len() {
		r := &conveyorv1.Record{}
		if err := proto.Unmarshal(b.Record(i), r); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		if b.Size(i) != len(b.Record(i)) {
			t.Fatalf("record %d: size %d, have %d bytes", i, b.Size(i), len(b.Record(i)))
		}
		out = append(out, r)
	}
	return out
}

func TestMessage_IsOrdinaryProtobufBothWays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		records := rapid.SliceOfN(rapid.Custom(drawRecord), 0, 12).Draw(rt, "records")
		head := &linkv1.LinkRequest{Header: &linkv1.FrameHeader{First: rapid.Uint64().Draw(rt, "first"), Records: uint32(len(records))}}
		whole := &linkv1.LinkRequest{Header: head.GetHeader(), Batch: &conveyorv1.RecordBatch{Records: records}}

		// Written by the codec, read by anybody.
		b := build(t, records...)
		data, err := wire.Codec{}.Marshal(&wire.Message{Head: head, Batch: b})
		if err != nil {
			rt.Fatal(err)
		}
		got := &linkv1.LinkRequest{}
		if err := proto.Unmarshal(data.Materialize(), got); err != nil {
			rt.Fatal(err)
		}
		if b == nil {
			whole.Batch = nil
		}
		if diff := cmp.Diff(whole, got, protocmp.Transform()); diff != "" {
			rt.Fatalf("read by the standard decoder (-want +got):\n%s", diff)
		}
		data.Free()
		if b != nil {
			b.Free()
		}

		// Written by anybody, read by the codec; cut into pieces as a connection does.
		raw, err := proto.Marshal(whole)
		if err != nil {
			rt.Fatal(err)
		}
		m := &wire.Message{Head: &linkv1.LinkRequest{}}
		if err := (wire.Codec{}).Unmarshal(pieces(rt, raw), m); err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(head, m.Head, protocmp.Transform()); diff != "" {
			rt.Fatalf("head (-want +got):\n%s", diff)
		}
		if m.Batch == nil {
			if len(records) > 0 {
				rt.Fatal("no batch")
			}
			return
		}
		if diff := cmp.Diff(records, decode(t, m.Batch), protocmp.Transform()); diff != "" {
			rt.Fatalf("records (-want +got):\n%s", diff)
		}
		m.Batch.Free()
	})
}

func pieces(t *rapid.T, data []byte) mem.BufferSlice {
	var out mem.BufferSlice
	for len(data) > 0 {
		n := rapid.IntRange(1, len(data)).Draw(t, "piece")
		out = append(out, mem.SliceBuffer(data[:n]))
		data = data[n:]
	}
	return out
}

func TestMessage_KnowsItsBatchWhereverItStands(t *testing.T) {
	record, err := proto.Marshal(&conveyorv1.Record{Id: "a", Payload: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	batch := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), record)
	// A field of a later version inside the batch, between two records.
	batch = protowire.AppendVarint(protowire.AppendTag(batch, 9, protowire.VarintType), 7)
	batch = protowire.AppendBytes(protowire.AppendTag(batch, 1, protowire.BytesType), record)
	inMessage := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), batch)
	header, err := proto.Marshal(&linkv1.LinkRequest{Header: &linkv1.FrameHeader{First: 7}})
	if err != nil {
		t.Fatal(err)
	}
	end, err := proto.Marshal(&linkv1.LinkRequest{Request: &linkv1.LinkRequest_End{End: &linkv1.LinkEnd{Completed: true}}})
	if err != nil {
		t.Fatal(err)
	}
	want := &linkv1.LinkRequest{Header: &linkv1.FrameHeader{First: 7}, Request: &linkv1.LinkRequest_End{End: &linkv1.LinkEnd{Completed: true}}}
	for name, parts := range map[string][][]byte{
		"first":  {inMessage, header, end},
		"middle": {header, inMessage, end},
		"last":   {header, end, inMessage},
	} {
		t.Run(name, func(t *testing.T) {
			m := &wire.Message{Head: &linkv1.LinkRequest{}}
			if err := (wire.Codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(bytes.Join(parts, nil))}, m); err != nil {
				t.Fatal(err)
			}
			defer m.Batch.Free()
			if diff := cmp.Diff(want, m.Head, protocmp.Transform()); diff != "" {
				t.Errorf("head (-want +got):\n%s", diff)
			}
			if m.Batch.Len() != 2 || m.Batch.Bytes() != 2*len(record) {
				t.Fatalf("batch of %d records, %d bytes", m.Batch.Len(), m.Batch.Bytes())
			}
			// Sent on, the records are whole although something lay between them.
			data, err := wire.Codec{}.Marshal(&wire.Message{Head: &linkv1.LinkRequest{}, Batch: m.Batch})
			if err != nil {
				t.Fatal(err)
			}
			defer data.Free()
			on := &linkv1.LinkRequest{}
			if err := proto.Unmarshal(data.Materialize(), on); err != nil {
				t.Fatal(err)
			}
			if n := len(on.GetBatch().GetRecords()); n != 2 {
				t.Errorf("%d records sent on, want 2", n)
			}
		})
	}
}

func TestCodec_RefusesWhatCouldExhaustMemory(t *testing.T) {
	encode := func(batch []byte) mem.BufferSlice {
		return mem.BufferSlice{mem.SliceBuffer(protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), batch))}
	}
	one := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), make([]byte, wire.MaxRecordBytes+1))
	empty := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), nil)
	twice := append(encode(empty), encode(empty)...)
	for name, data := range map[string]mem.BufferSlice{
		"a record over the limit":          encode(one),
		"millions of empty records":        encode(bytes.Repeat(empty, 1<<20)),
		"two batches":                      twice,
		"a record longer than its batch":   encode([]byte{1<<3 | 2, 5, 0}),
		"a batch longer than its message":  {mem.SliceBuffer{2<<3 | 2, 5, 0}},
		"a length that overflows":          encode([]byte{1<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}),
		"a length with too many bytes":     encode([]byte{1<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}),
		"a group, which nobody uses":       encode([]byte{1<<3 | 3}),
		"a tag that is cut off":            encode([]byte{0x80}),
		"a field number that is not there": encode([]byte{2, 0}),
	} {
		t.Run(name, func(t *testing.T) {
			m := &wire.Message{Head: &linkv1.LinkRequest{}}
			if err := (wire.Codec{}).Unmarshal(data, m); err == nil {
				t.Fatal("accepted")
			}
			if m.Batch != nil {
				t.Error("a batch came with the error")
			}
		})
	}
}

func TestBuilder_CopiesRunsOfOtherBatches(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		records := rapid.SliceOfN(rapid.Custom(drawRecord), 1, 12).Draw(rt, "records")
		b := build(t, records...)
		defer b.Free()
		var w wire.Builder
		var want []*conveyorv1.Record
		bytes := 0
		for range rapid.IntRange(1, 5).Draw(rt, "runs") {
			from := rapid.IntRange(0, len(records)).Draw(rt, "from")
			to := rapid.IntRange(0, len(records)).Draw(rt, "to")
			w.AppendRun(b, from, to)
			if from < to {
				want = append(want, records[from:to]...)
			}
			if rapid.Bool().Draw(rt, "one more") {
				w.AppendEncoded(b.Record(0))
				want = append(want, records[0])
			}
		}
		for _, r := range want {
			bytes += proto.Size(r)
		}
		if w.Len() != len(want) || w.Bytes() != bytes {
			rt.Fatalf("builder has %d records, %d bytes; want %d, %d", w.Len(), w.Bytes(), len(want), bytes)
		}
		out := w.Finish()
		if out == nil {
			if len(want) != 0 {
				rt.Fatal("nothing built")
			}
			return
		}
		defer out.Free()
		if diff := cmp.Diff(want, decode(t, out), protocmp.Transform()); diff != "" {
			rt.Fatalf("records (-want +got):\n%s", diff)
		}
		from := rapid.IntRange(0, out.Len()-1).Draw(rt, "slice from")
		to := rapid.IntRange(from+1, out.Len()).Draw(rt, "slice to")
		part := out.Slice(from, to)
		defer part.Free()
		if diff := cmp.Diff(want[from:to], decode(t, part), protocmp.Transform()); diff != "" {
			rt.Fatalf("slice (-want +got):\n%s", diff)
		}
	})
}

func TestBuilder_GrowsToTheLargestRecordAndRefusesMore(t *testing.T) {
	var w wire.Builder
	small := &conveyorv1.Record{Id: "small"}
	large := &conveyorv1.Record{Id: "large", Payload: bytes.Repeat([]byte("x"), wire.MaxRecordBytes-64)}
	for _, r := range []*conveyorv1.Record{small, large, small, large} {
		if err := w.AppendRecord(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.AppendRecord(&conveyorv1.Record{Payload: make([]byte, wire.MaxRecordBytes)}); err == nil {
		t.Error("a record over the limit was taken")
	}
	b := w.Finish()
	defer b.Free()
	got := decode(t, b)
	for i, want := range []*conveyorv1.Record{small, large, small, large} {
		if !proto.Equal(got[i], want) {
			t.Errorf("record %d differs", i)
		}
	}
	if w.Finish() != nil || w.Len() != 0 || w.Bytes() != 0 {
		t.Error("the builder is not empty after Finish")
	}
}

func TestBatch_FreedTooOftenPanics(t *testing.T) {
	b := build(t, &conveyorv1.Record{Id: "a"})
	b.Ref()
	b.Free()
	b.Free()
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "freed too often") {
			t.Errorf("recovered %v", r)
		}
	}()
	b.Free()
}
