package sdk_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func TestSource_NewerOwnerNeedNotWaitForAPeerThatReadsNothing(t *testing.T) {
	addr := sdktest.Listen(t, sdk.Source("count", counter))
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	older, err := conveyorv1.NewSourceServiceClient(conn).Pull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o := sdktest.Open{Config: `{"count": 1000000, "size": 10000}`, Epoch: 1}
	for _, r := range []*conveyorv1.PullRequest{
		{Request: &conveyorv1.PullRequest_Open{Open: &conveyorv1.PullOpen{Opening: o.Opening()}}},
		{Request: &conveyorv1.PullRequest_Credit{Credit: &conveyorv1.PullCredit{Records: 1 << 40, Bytes: 1 << 50}}},
	} {
		if err := older.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := older.Recv(); err != nil {
		t.Fatal(err)
	}
	// Let the sender run into the end of the flow control window; where it has not, the test is only easier to pass.
	timer := time.NewTimer(200 * time.Millisecond)
	defer timer.Stop()
	<-timer.C

	o.Epoch = 2
	began := time.Now()
	sdktest.Dial(t, addr).MustOpenSource(t, o).Collect(10)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the newer owner waited for %v", took)
	}
}

// owning is a writer of which there is one at a time.
type owning struct {
	ctx   context.Context
	leave func()
}

func (o *owning) Owned() context.Context { return o.ctx }
func (o *owning) Write(context.Context, []sdk.Record) error {
	return sdk.Partial{0: sdk.Permanent(errors.New(strings.Repeat("x", 4000)))}
}
func (o *owning) Close() error { o.leave(); return nil }

func TestSink_NewerOwnerNeedNotWaitForAPeerThatReadsNothing(t *testing.T) {
	var fence sdk.Fence
	c := sdktest.Serve(t, sdk.OpenSink("s", func(ctx context.Context, o sdk.Opening, _ noConfig) (sdk.Writer, error) {
		owned, leave, err := fence.Enter(ctx, "thing", o.Epoch)
		return &owning{owned, leave}, err
	}))
	older := c.MustOpenSink(t, sdktest.Open{Epoch: 1})
	for range 100 { // the answers, which nobody reads, are larger than the flow control window
		older.Send(rec("id", "", "x"))
	}
	newer := c.MustOpenSink(t, sdktest.Open{Epoch: 2})
	newer.Ask(rec("id", "", "x"))
	if err := older.Ended(); sdktest.Reason(err) != "FENCED" {
		t.Errorf("the older stream ended with %v", err)
	}
}
