package sdk_test

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func TestSource_IdsAreMadeOfUidPartitionAndPosition(t *testing.T) {
	c := sdktest.Serve(t, sdk.Source("count", counter))
	got := c.MustOpenSource(t, sdktest.Open{UID: "ns/src"}).Collect(4)
	var ids []string
	for _, r := range got {
		ids = append(ids, r.ID)
	}
	want := []string{
		wire.RecordID("ns/src", "", []byte("1")), wire.RecordID("ns/src", "", []byte("2")),
		wire.InsideID("ns/src", "", []byte("2"), 1), wire.RecordID("ns/src", "", []byte("3")),
	}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
}

func TestSource_OneRecordMayOverdrawWhenNothingIsOutstanding(t *testing.T) {
	c := sdktest.Serve(t, sdk.Source("count", counter))
	p := c.MustOpenSource(t, sdktest.Open{Config: `{"count": 3, "size": 100000}`})
	p.Grant(10, 5000)
	if e := p.Next(); len(e.Records) != 1 {
		t.Fatalf("first event is %d records, want 1: %v", len(e.Records), e.Err)
	}
	if !p.Quiet(50 * time.Millisecond) {
		t.Fatal("a second record overdrew too")
	}
	p.Grant(1, 100100) // the first is answered for
	if e := p.Next(); len(e.Records) != 1 {
		t.Fatalf("next event is %d records, want 1: %v", len(e.Records), e.Err)
	}
}

func TestSource_BatchesGrowUnderLoadAndStayWithinTheirLimits(t *testing.T) {
	c := sdktest.Serve(t, sdk.Source("count", counter))
	p := c.MustOpenSource(t, sdktest.Open{Config: `{"count": 30000, "size": 200}`})
	p.Grant(1<<20, 1<<30)
	batches, largest := 0, 0
	for {
		e := p.Next()
		if e.End != nil {
			break
		}
		batches++
		largest = max(largest, len(e.Records))
	}
	if batches > 2000 || largest > 4096 {
		t.Errorf("40000 records came in %d batches, the largest of %d", batches, largest)
	}
}

func TestSource_BadRecordTakesItsPlaceInTheOrder(t *testing.T) {
	c := sdktest.Serve(t, sdk.Source("s", func(context.Context, noConfig, sdk.Position) iter.Seq2[sdk.Record, error] {
		return func(yield func(sdk.Record, error) bool) {
			_ = yield(sdk.Record{Position: sdk.Position("1")}, nil) &&
				yield(sdk.Record{}, &sdk.BadRecord{
					Record: sdk.Record{Position: sdk.Position("2"), Payload: []byte("{}")}, Err: sdk.Code("NOT_JSON", errors.New("not JSON")),
				}) &&
				yield(sdk.Record{Position: sdk.Position("3"), Payload: make([]byte, 5<<20)}, nil) &&
				yield(sdk.Record{Position: sdk.Position("4")}, nil)
		}
	}))
	p := c.MustOpenSource(t, sdktest.Open{UID: "ns/s"})
	p.Grant(100, 1<<20)
	var got []string
	for {
		e := p.Next()
		for _, r := range e.Records {
			got = append(got, r.ID)
		}
		if e.Failed != nil {
			got = append(got, e.Failed.GetRecord().GetId()+" "+e.Failed.GetFailure().GetCode()+" "+e.Failed.GetFailure().GetClass().String())
		}
		if e.End != nil {
			break
		}
	}
	want := []string{"ns/s//1", "ns/s//2 NOT_JSON FAILURE_CLASS_PERMANENT", "ns/s//3 RECORD_TOO_BIG FAILURE_CLASS_PERMANENT", "ns/s//4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestSource_PositionGoneIsAHardErrorAfterTheRecords(t *testing.T) {
	c := sdktest.Serve(t, sdk.Source("count", counter))
	p := c.MustOpenSource(t, sdktest.Open{Position: sdk.Position("rubbish")})
	p.Grant(10, 1000)
	if err := p.Ended(); status.Code(err) != codes.FailedPrecondition || sdktest.Reason(err) != sdk.CodePositionGone {
		t.Errorf("the stream ended with %v, reason %q", err, sdktest.Reason(err))
	}
}
