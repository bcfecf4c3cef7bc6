package sdk_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sdk"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type noConfig struct{}

type countConfig struct {
	Count int `default:"10"`
	Size  int
}

// counter yields count, count-1, ... positions, and an unpositioned record inside every third.
func counter(_ context.Context, cfg countConfig, from sdk.Position) iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		first := 0
		if len(from) > 0 {
			n, err := strconv.Atoi(string(from))
			if err != nil {
				yield(sdk.Record{}, fmt.Errorf("position %q: %w", from, sdk.ErrPositionGone))
				return
			}
			first = n
		}
		payload := []byte(strings.Repeat("x", cfg.Size))
		for i := first + 1; i <= cfg.Count; i++ {
			if i%3 == 0 && !yield(sdk.Record{Payload: append([]byte("inner"), payload...)}, nil) {
				return
			}
			n := strconv.Itoa(i)
			if !yield(sdk.Record{Key: []byte(n), Position: sdk.Position(n), Payload: append([]byte(n), payload...)}, nil) {
				return
			}
		}
	}
}

// picky fails the records whose payload says so.
func picky(r sdk.Record) error {
	switch string(r.Payload) {
	case "permanent":
		return sdk.Permanent(sdk.Code("BAD_ROW", errors.New("a bad row")))
	case "unavailable":
		return sdk.Unavailable(errors.New("down"))
	case "retryable":
		return errors.New("plain")
	}
	return nil
}

func rec(id, key, payload string) sdk.Record {
	return sdk.Record{ID: id, Key: []byte(key), Payload: []byte(payload)}
}

func inputs(n int) []sdk.Record {
	var all []sdk.Record
	for i := range n {
		all = append(all, rec(fmt.Sprintf("in/%d", i), fmt.Sprintf("key%d", i%3), fmt.Sprintf(`{"n":%d}`, i)))
	}
	return all
}

func TestServices_PassTheSuiteThatEveryServiceMustPass(t *testing.T) {
	failing := rec("bad", "k", "permanent")
	addr := sdktest.Listen(t,
		sdk.Source("count", counter),
		sdk.Transform("upper", func(_ context.Context, _ noConfig, r sdk.Record) ([]sdk.Record, error) {
			return []sdk.Record{r}, picky(r)
		}),
		sdk.Filter("keep", func(_ context.Context, _ noConfig, r sdk.Record) (bool, error) { return true, picky(r) }),
		sdk.TransformBatch("bulk", func(_ context.Context, _ noConfig, batch []sdk.Record) ([]sdk.Result, error) {
			results := make([]sdk.Result, len(batch))
			for i, r := range batch {
				results[i] = sdk.Result{Records: []sdk.Record{r}, Err: picky(r)}
			}
			return results, nil
		}, sdk.MaxBatch(2)),
		sdk.SinkEach("each", func(_ context.Context, _ noConfig, r sdk.Record) error { return picky(r) }),
		sdk.Sink("bulk", func(_ context.Context, _ noConfig, batch []sdk.Record) error {
			partial := sdk.Partial{}
			for i, r := range batch {
				if err := picky(r); err != nil {
					partial[i] = err
				}
			}
			return partial
		}, sdk.DistinctKeys(), sdk.MaxBatch(3)),
		sdk.OpenSink("sync", func(context.Context, sdk.Opening, noConfig) (sdk.Writer, error) { return &syncing{}, nil }),
	)
	sdktest.Run(t, addr, sdktest.Suite{
		Sources: []sdktest.SourceCase{{Type: "count", Records: 13, Ends: true}},
		Transforms: []sdktest.TransformCase{
			{Type: "upper", Inputs: inputs(7), Failing: &failing},
			{Type: "keep", Inputs: inputs(7), Failing: &failing},
			{Type: "bulk", Inputs: inputs(7), Failing: &failing},
		},
		Sinks: []sdktest.SinkCase{
			{Type: "each", Inputs: inputs(7), Failing: &failing},
			{Type: "bulk", Inputs: inputs(7), Failing: &failing},
			{Type: "sync", Inputs: inputs(7), Failing: &failing},
		},
	})
}

// syncing is a writer whose Sync fails while a record asks for it.
type syncing struct {
	broken  bool
	batches int
	syncs   *atomic.Int64
	hold    chan struct{} // closed when writes may go on
}

func (s *syncing) Write(_ context.Context, batch []sdk.Record) error {
	if s.hold != nil {
		<-s.hold
	}
	s.batches++
	return sdk.Each(batch, func(r sdk.Record) error {
		if string(r.Payload) == "break sync" {
			s.broken = true
		}
		return picky(r)
	})
}

func (s *syncing) Sync(context.Context) error {
	if s.syncs != nil {
		s.syncs.Add(1)
	}
	defer func() { s.broken = false }()
	if s.broken {
		return sdk.Unavailable(sdk.Code("NO_SPACE", errors.New("disk is full")))
	}
	return nil
}

func (s *syncing) Close() error { return nil }

func TestSink_SyncsSeveralWaitingRequestsTogether(t *testing.T) {
	var syncs atomic.Int64
	hold := make(chan struct{})
	c := sdktest.Serve(t, sdk.OpenSink("s", func(context.Context, sdk.Opening, noConfig) (sdk.Writer, error) {
		return &syncing{syncs: &syncs, hold: hold}, nil
	}))
	w := c.MustOpenSink(t, sdktest.Open{})
	for range 12 {
		w.Send(rec("a", "", "x"))
	}
	close(hold)
	w.Answers(12)
	if n := syncs.Load(); n > 12 || n < 1 {
		t.Errorf("12 requests took %d syncs", n)
	}
}

func TestSink_AFailedSyncFailsEverythingSinceTheLastOne(t *testing.T) {
	c := sdktest.Serve(t, sdk.OpenSink("s", func(context.Context, sdk.Opening, noConfig) (sdk.Writer, error) { return &syncing{}, nil }))
	w := c.MustOpenSink(t, sdktest.Open{})
	got := w.Ask(rec("a", "k", "x"), rec("b", "k", "break sync"), rec("c", "k", "permanent"), rec("d", "", "x"), rec("e", "j", "permanent"))
	want := []string{"unavailable", "not tried", "permanent", "unavailable", "permanent"}
	if diff := cmp.Diff(want, sdktest.Outcomes(got)); diff != "" {
		t.Fatalf("outcomes (-want +got):\n%s", diff)
	}
	if got[0].Code != "NO_SPACE" || got[0].Message != "disk is full" {
		t.Errorf("the failure is %+v", got[0])
	}
	again := w.Ask(rec("b", "k", "x"), rec("a", "k", "x"), rec("b", "k", "x"))
	if diff := cmp.Diff([]string{"not tried", "ok", "ok"}, sdktest.Outcomes(again)); diff != "" {
		t.Errorf("outcomes when they come again (-want +got):\n%s", diff)
	}
}

func TestErrors_KeepTheirClassCodeAndMessage(t *testing.T) {
	c := sdktest.Serve(t, sdk.SinkEach("s", func(_ context.Context, _ noConfig, r sdk.Record) error {
		if string(r.Payload) == "known" {
			return sdk.ErrAlready
		}
		return picky(r)
	}))
	got := c.MustOpenSink(t, sdktest.Open{}).Ask(
		rec("1", "", "permanent"), rec("2", "", "unavailable"), rec("3", "", "retryable"), rec("4", "", "known"), rec("5", "", "x"))
	want := []sdktest.Answer{
		{Outcome: "permanent", Code: "BAD_ROW", Message: "a bad row"},
		{Outcome: "unavailable", Code: "HANDLER_ERROR", Message: "down"},
		{Outcome: "retryable", Code: "HANDLER_ERROR", Message: "plain"},
		{Outcome: "already"},
		{Outcome: "ok"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(sdk.Record{})); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

func TestSink_ErrorOfAWholeBatchFailsTheFirstOfEachKey(t *testing.T) {
	c := sdktest.Serve(t, sdk.Sink("s", func(context.Context, noConfig, []sdk.Record) error { return errors.New("no") }))
	got := c.MustOpenSink(t, sdktest.Open{}).Ask(rec("1", "a", ""), rec("2", "a", ""), rec("3", "b", ""), rec("4", "", ""), rec("5", "", ""))
	want := []string{"retryable", "not tried", "retryable", "retryable", "retryable"}
	if diff := cmp.Diff(want, sdktest.Outcomes(got)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

func TestSink_PartialThatNamesARecordOutsideTheBatchFailsTheBatch(t *testing.T) {
	c := sdktest.Serve(t, sdk.Sink("s", func(context.Context, noConfig, []sdk.Record) error { return sdk.Partial{7: errors.New("seven")} }))
	got := c.MustOpenSink(t, sdktest.Open{}).Ask(rec("1", "", ""))
	if got[0].Outcome != "retryable" || !strings.Contains(got[0].Message, "record 7 of a batch of 1") {
		t.Errorf("answer is %+v", got[0])
	}
}

func TestSink_DistinctKeysNeverMeetInOneCall(t *testing.T) {
	var mu sync.Mutex
	var calls [][]string
	c := sdktest.Serve(t, sdk.Sink("s", func(_ context.Context, _ noConfig, batch []sdk.Record) error {
		var keys []string
		for _, r := range batch {
			keys = append(keys, string(r.Key))
		}
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, keys)
		return nil
	}, sdk.DistinctKeys()))
	c.MustOpenSink(t, sdktest.Open{}).Ask(rec("1", "a", ""), rec("2", "b", ""), rec("3", "", ""), rec("4", "", ""), rec("5", "a", ""), rec("6", "b", ""))
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff([][]string{{"a", "b", "", ""}, {"a", "b"}}, calls); diff != "" {
		t.Errorf("keys of the calls (-want +got):\n%s", diff)
	}
}

func TestTransform_NamesChildrenAndForwardsRoutes(t *testing.T) {
	c := sdktest.Serve(t, sdk.Transform("t", func(_ context.Context, _ noConfig, r sdk.Record) ([]sdk.Record, error) {
		switch string(r.Payload) {
		case "none":
			return nil, nil
		case "two":
			return []sdk.Record{{Payload: []byte("first")}, {Payload: []byte("second")}}, nil
		case "routed":
			return sdk.Route([]sdk.Record{r}, "left", "right"), nil
		case "mixed":
			return append(sdk.Route([]sdk.Record{r}, "left"), sdk.Route([]sdk.Record{r}, "right")...), nil
		}
		r.SetHeader("seen", []byte("yes"))
		return []sdk.Record{r}, nil
	}))
	in := rec("p", "k", "one")
	in.Position = sdk.Position("7")
	got := c.MustOpenTransform(t, sdktest.Open{Stage: "split"}).Ask(in, rec("q", "", "none"), rec("r", "", "two"), rec("s", "", "routed"), rec("t", "", "mixed"))
	want := []sdktest.Answer{
		{Outcome: "ok", Records: []sdk.Record{{ID: "p", Key: []byte("k"), Payload: []byte("one"), Headers: []sdk.Header{{Name: "seen", Value: []byte("yes")}}}}},
		{Outcome: "filtered"},
		{Outcome: "ok", Records: []sdk.Record{
			{ID: wire.ChildID("r", "split", 0), Payload: []byte("first")}, {ID: wire.ChildID("r", "split", 1), Payload: []byte("second")},
		}},
		{Outcome: "ok", Route: []string{"left", "right"}, Records: []sdk.Record{{ID: "s", Payload: []byte("routed")}}},
		{Outcome: "permanent", Code: "MIXED_ROUTES", Message: got[4].Message},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(equalRecords)); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

// equalRecords compares what crosses the wire.
func equalRecords(a, b sdk.Record) bool {
	var pa, pb conveyorv1.Record
	a.ToProto(&pa)
	b.ToProto(&pb)
	ea, _ := pa.MarshalVT()
	eb, _ := pb.MarshalVT()
	return string(ea) == string(eb)
}

func TestTransform_OutputOfARecordBehindAFailedOneOfItsKeyIsNotDelivered(t *testing.T) {
	c := sdktest.Serve(t, sdk.TransformBatch("t", func(_ context.Context, _ noConfig, batch []sdk.Record) ([]sdk.Result, error) {
		results := make([]sdk.Result, len(batch))
		for i, r := range batch {
			results[i] = sdk.Result{Records: batch[i : i+1], Err: picky(r)}
		}
		return results, nil
	}))
	got := c.MustOpenTransform(t, sdktest.Open{}).Ask(rec("1", "a", "retryable"), rec("2", "a", "x"), rec("3", "b", "x"))
	if diff := cmp.Diff([]string{"retryable", "not tried", "ok"}, sdktest.Outcomes(got)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

func TestTransform_WrongNumberOfResultsIsAnErrorOfEveryRecord(t *testing.T) {
	c := sdktest.Serve(t, sdk.TransformBatch("t", func(context.Context, noConfig, []sdk.Record) ([]sdk.Result, error) {
		return make([]sdk.Result, 1), nil
	}))
	got := c.MustOpenTransform(t, sdktest.Open{}).Ask(rec("1", "", ""), rec("2", "", ""))
	if got[0].Outcome != "permanent" || got[1].Outcome != "permanent" {
		t.Errorf("answers are %+v", got)
	}
}

func TestOpen_ConfigFaultsNameTheirFields(t *testing.T) {
	type config struct {
		URL     string        `conveyor:"required"`
		Timeout time.Duration `default:"5s"`
		Format  string        `conveyor:"enum=ndjson|csv" default:"ndjson"`
	}
	c := sdktest.Serve(t, sdk.Sink("s", func(_ context.Context, cfg config, _ []sdk.Record) error {
		return fmt.Errorf("%+v", cfg)
	}))
	for config, want := range map[string][]string{
		`{}`:                            {"url: is required"},
		`{"url": 7}`:                    {"url: must be a string, not 7"},
		`{"url": "x", "timeot": "1s"}`:  {`timeot: unknown field, did you mean "timeout"?`},
		`{"url": "x", "timeout": "1x"}`: {`timeout: must be a duration like "10s", not "1x"`},
		`{"format": "xml"}`:             {"url: is required", `format: "xml" is not one of ndjson, csv`},
		`{"url": `:                      {"must be an object"},
	} {
		_, err := c.OpenSink(t, sdktest.Open{Config: config})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want INVALID_ARGUMENT", config, err)
		}
		for _, text := range want {
			if !strings.Contains(fmt.Sprint(err), text) {
				t.Errorf("%s: %v, want %q in it", config, err, text)
			}
		}
	}
	got := c.MustOpenSink(t, sdktest.Open{Config: `{"url": "u"}`}).Ask(rec("1", "", ""))
	if got[0].Message != "{URL:u Timeout:5s Format:ndjson}" {
		t.Errorf("the config was %s", got[0].Message)
	}
}

func TestOpen_TypeMayBeLeftOutOnlyWhereThereIsOne(t *testing.T) {
	nothing := func(context.Context, noConfig, []sdk.Record) error { return nil }
	c := sdktest.Serve(t, sdk.Sink("a", nothing), sdk.Sink("b", nothing), sdk.Source("count", counter))
	if _, err := c.OpenSink(t, sdktest.Open{}); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `"a", "b"`) {
		t.Errorf("no type of two gave %v, want the choices", err)
	}
	if _, err := c.OpenSink(t, sdktest.Open{Type: "c"}); !strings.Contains(fmt.Sprint(err), `no sink of type "c", there are "a", "b"`) {
		t.Errorf("an unknown type gave %v", err)
	}
	c.MustOpenSource(t, sdktest.Open{})
	if _, err := c.OpenTransform(t, sdktest.Open{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a transform of a service without any gave %v, want UNIMPLEMENTED", err)
	}
}

func TestServer_SlowHandlerHoldsUpItsSender(t *testing.T) {
	release := make(chan struct{})
	c := sdktest.Serve(t, sdk.Sink("slow", func(ctx context.Context, _ noConfig, _ []sdk.Record) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	}))
	w := c.MustOpenSink(t, sdktest.Open{})
	var sent atomic.Int64
	done := make(chan struct{})
	payload := strings.Repeat("x", 1<<20)
	go func() {
		defer close(done)
		for range 64 {
			w.Send(rec("id", "", payload))
			sent.Add(1)
		}
	}()
	settled := int64(-1)
	for now := int64(0); now != settled; now = sent.Load() {
		settled = now
		select {
		case <-done:
			t.Fatal("64 MiB were taken while the handler was busy")
		case <-time.After(300 * time.Millisecond):
		}
	}
	close(release)
	<-done
	w.Answers(64)
}

func TestServer_StopsGracefully(t *testing.T) {
	server, err := sdk.NewServer(sdk.Source("count", counter), sdk.WithGrace(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	lis := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, lis) }()
	p := sdktest.Dial(t, lis.Addr().String()).MustOpenSource(t, sdktest.Open{Config: `{"count": 1000000}`})
	all := p.Collect(10)
	stop()
	for e := p.Next(); e.End == nil; e = p.Next() {
		if e.Err != nil {
			t.Fatalf("the stream broke: %v", e.Err)
		}
	}
	p.Commit(all[4].Position)
	if err := p.Hangup(); err != nil {
		t.Errorf("the stream ended with %v", err)
	}
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	case <-time.After(sdktest.Patience):
		t.Fatal("the server did not stop")
	}
}

func TestRecord_CloneSharesNothing(t *testing.T) {
	r := rec("id", "key", "payload")
	r.SetHeader("h", []byte("v"))
	clone := r.Clone()
	r.Key[0], r.Payload[0], r.Headers[0].Value[0] = 'X', 'X', 'X'
	if diff := cmp.Diff([]string{"key", "payload", "v"}, []string{string(clone.Key), string(clone.Payload), string(clone.Headers[0].Value)}); diff != "" {
		t.Errorf("the clone changed (-want +got):\n%s", diff)
	}
}

func TestFence_OneOwnerAtATimeTheNewestWins(t *testing.T) {
	var f sdk.Fence
	older, leave, err := f.Enter(t.Context(), "thing", sdk.Epoch{Index: 1})
	if err != nil {
		t.Fatal(err)
	}
	entered := make(chan func())
	go func() {
		_, leaveNewer, err := f.Enter(t.Context(), "thing", sdk.Epoch{Index: 2})
		if err != nil {
			t.Error(err)
		}
		entered <- leaveNewer
	}()
	<-older.Done()
	if !errors.Is(context.Cause(older), sdk.ErrFenced) {
		t.Errorf("the older owner ended because of %v", context.Cause(older))
	}
	select {
	case <-entered:
		t.Fatal("two owners at once")
	case <-time.After(20 * time.Millisecond):
	}
	leave()
	(<-entered)()
	if _, _, err := f.Enter(t.Context(), "thing", sdk.Epoch{Index: 1}); !errors.Is(err, sdk.ErrFenced) {
		t.Errorf("an older epoch entered: %v", err)
	}
}

func TestPartial_TellsTheFirstFailures(t *testing.T) {
	p := sdk.Partial{}
	for i := range 5 {
		p[i] = fmt.Errorf("e%d", i)
	}
	if got := p.Error(); got != "5 records failed; record 0: e0; record 1: e1; record 2: e2; ..." {
		t.Error(got)
	}
}
