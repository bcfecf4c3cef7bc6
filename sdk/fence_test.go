package sdk_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

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

// openRaw opens a sink and sends it requests of one record each, over a connection that takes little that is not read.
func openRaw(t *testing.T, addr string, o sdktest.Open, requests uint64) grpc.BidiStreamingClient[conveyorv1.WriteRequest, conveyorv1.WriteResponse] {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), sdktest.Patience)
	t.Cleanup(cancel)
	stream, err := conveyorv1.NewSinkServiceClient(conn).Write(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := &conveyorv1.WriteRequest{Request: &conveyorv1.WriteRequest_Open{Open: o.Opening()}}
	for sequence := range requests + 1 {
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		r = &conveyorv1.WriteRequest{Sequence: sequence + 1, Batch: &conveyorv1.RecordBatch{Records: []*conveyorv1.Record{{Id: "id"}}}}
	}
	if r, err := stream.Recv(); r.GetOpened() == nil {
		t.Fatal(r, err)
	}
	return stream
}

func TestSink_NewerOwnerNeedNotWaitForAPeerThatReadsNothing(t *testing.T) {
	var calls atomic.Int64
	addr := sdktest.Listen(t, sdk.Sink("s", func(context.Context, noConfig, []sdk.Record) error {
		calls.Add(1)
		return sdk.Partial{0: sdk.Permanent(errors.New(strings.Repeat("x", 4000)))}
	}))
	older := openRaw(t, addr, sdktest.Open{Epoch: 1}, 200) // the answers are larger than everything that takes them
	for before := int64(0); before == 0 || calls.Load() > before; {
		before = calls.Load()
		<-time.After(50 * time.Millisecond) // where it has not run into the end of the window yet, the test is only easier to pass
	}
	began := time.Now()
	newer := sdktest.Dial(t, addr).MustOpenSink(t, sdktest.Open{Epoch: 2})
	if took := time.Since(began); took > sdktest.Patience/2 {
		t.Errorf("the newer owner waited for %v", took)
	}
	newer.Ask(rec("id", "", "x"))
	for {
		if _, err := older.Recv(); err != nil {
			if sdktest.Reason(err) != "FENCED" {
				t.Errorf("the older stream ended with %v", err)
			}
			return
		}
	}
}

func TestSink_AnOlderOwnerIsRefusedAndNobodyElse(t *testing.T) {
	c := sdktest.Serve(t, sdk.Sink("s", func(context.Context, noConfig, []sdk.Record) error { return nil }))
	works := func(who string, w *sdktest.Write) {
		t.Helper()
		if got := w.Ask(rec("id", "", "x")); got[0].Outcome != "ok" {
			t.Errorf("%s was answered %+v", who, got)
		}
	}
	otherStage := c.MustOpenSink(t, sdktest.Open{Epoch: 1, Stage: "other"})
	otherPipeline := c.MustOpenSink(t, sdktest.Open{Epoch: 1, Pipeline: "default/other"})
	older := []*sdktest.Write{c.MustOpenSink(t, sdktest.Open{Epoch: 5}), c.MustOpenSink(t, sdktest.Open{Epoch: 5})}
	for _, w := range older {
		works("a stream beside another one of the same owner", w)
	}
	newer := c.MustOpenSink(t, sdktest.Open{Epoch: 6})
	for _, w := range older {
		if err := w.Ended(); sdktest.Reason(err) != "FENCED" || status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a stream of the older owner ended with %v", err)
		}
	}
	if _, err := c.OpenSink(t, sdktest.Open{Epoch: 5}); sdktest.Reason(err) != "FENCED" || status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the older owner opened again and got %v", err)
	}
	works("the newer owner", newer)
	works("the owner of another stage", otherStage)
	works("the owner of a stage of another pipeline", otherPipeline)
}

// holding is a writer that says when it writes, and holds on to the records until it may go on, whatever its context says.
type holding struct {
	writes chan<- context.Context
	goOn   <-chan struct{}
	closed chan<- struct{}
}

func (h holding) Write(ctx context.Context, _ []sdk.Record) error {
	h.writes <- ctx
	<-h.goOn
	return nil
}

func (h holding) Close() error { close(h.closed); return nil }

func TestSink_NothingOfAnOwnerThatWasReplacedIsWrittenBesideTheNewerOneOrAcknowledged(t *testing.T) {
	writes, goOn, closed := make(chan context.Context), make(chan struct{}), make(chan struct{})
	opened := make(chan struct{})
	addr := sdktest.Listen(t, sdk.OpenSink("s", func(_ context.Context, o sdk.Opening, _ noConfig) (sdk.Writer, error) {
		if o.Epoch.Index == 1 {
			return holding{writes, goOn, closed}, nil
		}
		close(opened)
		return &syncing{}, nil
	}))
	older := openRaw(t, addr, sdktest.Open{Epoch: 1}, 2)
	ctx := <-writes
	go func() {
		defer close(goOn) // the second request is not written: this would block
		<-ctx.Done()
		if err := context.Cause(ctx); !errors.Is(err, sdk.ErrFenced) {
			t.Errorf("the writer of the older owner was told %v", err)
		}
		select {
		case <-opened:
			t.Error("the newer owner opened while the older one wrote")
		case <-time.After(50 * time.Millisecond):
		}
	}()
	newer := sdktest.Dial(t, addr).MustOpenSink(t, sdktest.Open{Epoch: 2})
	select {
	case <-closed:
	default:
		t.Error("the writer of the older owner is open")
	}
	newer.Ask(rec("id", "", "x"))
	if r, err := older.Recv(); sdktest.Reason(err) != "FENCED" {
		t.Fatalf("the older owner was told %v, %v", r, err)
	}
}

func TestSink_OfOneWriterAStreamOfItsOwnerEndsTheOneBefore(t *testing.T) {
	c := sdktest.Serve(t, sdk.Sink("s", func(context.Context, noConfig, []sdk.Record) error { return nil }, sdk.OneWriter()))
	before := c.MustOpenSink(t, sdktest.Open{Epoch: 3})
	again := c.MustOpenSink(t, sdktest.Open{Epoch: 3})
	if err := before.Ended(); sdktest.Reason(err) != "FENCED" {
		t.Errorf("the stream before ended with %v", err)
	}
	if got := again.Ask(rec("id", "", "x")); got[0].Outcome != "ok" {
		t.Errorf("the answer is %+v", got)
	}
}
