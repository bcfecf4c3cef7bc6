package wire_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

func TestScan_AgreesWithTheDecoder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := drawRecord(rt)
		data, err := proto.Marshal(r)
		if err != nil {
			rt.Fatal(err)
		}
		f, err := wire.Scan(data)
		if err != nil {
			rt.Fatal(err)
		}
		if string(f.ID) != r.GetId() || !bytes.Equal(f.Key, r.GetKey()) || !bytes.Equal(f.Position, r.GetPosition()) {
			rt.Fatalf("got %q %q %q of %v", f.ID, f.Key, f.Position, r)
		}
	})
}

func TestHashKey_IsZeroOnlyWithoutAKey(t *testing.T) {
	if h := wire.HashKey(nil); h != 0 {
		t.Errorf("no key hashes to %d", h)
	}
	// Other programs compute the same: FNV-1a.
	if got, want := wire.HashKey([]byte("foobar")), uint64(0x85944171f73967e8); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	rapid.Check(t, func(rt *rapid.T) {
		if wire.HashKey(rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(rt, "key")) == 0 {
			rt.Fatal("a key hashes to 0")
		}
	})
}

func TestRecordID_DiffersWhereRecordsDiffer(t *testing.T) {
	type record struct {
		partition, position string
		ordinal             int // 0: no unit
	}
	id := func(r record) string {
		if r.ordinal == 0 {
			return wire.RecordID("default/in", r.partition, []byte(r.position))
		}
		return wire.InsideID("default/in", r.partition, []byte(r.position), r.ordinal)
	}
	part := rapid.OneOf(rapid.StringMatching(`[a-c+~/._:@=0-9-]{0,4}`), rapid.StringOfN(rapid.RuneFrom([]rune{0, '/', '~', '+', 'Y', 'é'}), 0, 3, -1))
	draw := rapid.Custom(func(t *rapid.T) record {
		return record{part.Draw(t, "partition"), part.Draw(t, "position"), rapid.IntRange(0, 3).Draw(t, "ordinal")}
	})
	rapid.Check(t, func(rt *rapid.T) {
		a, b := draw.Draw(rt, "a"), draw.Draw(rt, "b")
		if a != b && id(a) == id(b) {
			rt.Fatalf("%+v and %+v have one id: %s", a, b, id(a))
		}
	})
	// What the search may miss: a position that looks like one with an ordinal.
	if a, b := id(record{"", "5+1", 0}), id(record{"", "5", 1}); a == b {
		t.Errorf("two records have the id %s", a)
	}
	if got, want := wire.ChildID(id(record{"p0", "12:7", 0}), "split", 2), "default/in/p0/12:7/split/2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzScan(f *testing.F) {
	seed, err := proto.Marshal(&conveyorv1.Record{Id: "a", Key: []byte("k"), Position: []byte("p"), Payload: []byte("x")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{0x0a})
	f.Add([]byte{0x80, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := wire.Scan(data)
		want := &conveyorv1.Record{}
		if proto.Unmarshal(data, want) != nil {
			return
		}
		// Groups are the one thing that the decoder skips and Scan does not know.
		if err != nil {
			if len(want.ProtoReflect().GetUnknown()) == 0 {
				t.Fatalf("refused %x: %v", data, err)
			}
			return
		}
		if string(got.ID) != want.GetId() || !bytes.Equal(got.Key, want.GetKey()) || !bytes.Equal(got.Position, want.GetPosition()) {
			t.Fatalf("got %q %q %q, want %v", got.ID, got.Key, got.Position, want)
		}
	})
}
