package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/dispatch"
)

// describePatience is how long a service may take to describe itself.
const describePatience = 10 * time.Second

// openPatience is how long a service may take to answer the opening of a stream before the stage says that it waits for it.
const openPatience = 2 * time.Second

// answerPatience is how long a service may leave everything unanswered before the stage says so. It goes on waiting.
const answerPatience = 5 * time.Second

// service is the work of a stage whose records go through a transform, or into a sink.
type service struct {
	s    *stage
	work *controlv1.ServiceWork
	port port
	d    *dispatch.Dispatcher
	held atomic.Int64 // records in the dispatcher
	// before is the last request sent before the current stream, on which requests count from 1.
	before uint64

	mu     sync.Mutex
	buried []*dispatch.Item
	wake   chan struct{} // buried has grown
}

func newService(s *stage, work *controlv1.ServiceWork, p port) *service {
	policy := s.spec.GetRetry()
	ordering := map[controlv1.Ordering]dispatch.Ordering{
		controlv1.Ordering_ORDERING_KEY_STRICT: dispatch.KeyStrict, controlv1.Ordering_ORDERING_LANE: dispatch.Lane,
		controlv1.Ordering_ORDERING_NONE: dispatch.None,
	}[s.spec.GetOrdering()]
	cfg := dispatch.Config{
		Ordering: ordering, HoldResults: p.passesOn(), MaxRecords: s.batchRecords(), MaxBytes: defaultBatchBytes,
		WindowRecords: s.windowRecords(), WindowBytes: s.windowBytes(),
		Retry: dispatch.Policy{
			MaxRetries: int(policy.GetMaxRetries()), Backoff: time.Duration(policy.GetBackoffMillis()) * time.Millisecond,
			MaxBackoff: time.Duration(policy.GetMaxBackoffMillis()) * time.Millisecond,
		},
		Jitter: rand.Float64,
	}
	if cfg.Retry.Backoff <= 0 {
		cfg.Retry.Backoff = 100 * time.Millisecond
	}
	if cfg.Retry.MaxBackoff <= 0 {
		cfg.Retry.MaxBackoff = 30 * time.Second
	}
	return &service{s: s, work: work, port: p, d: dispatch.New(cfg), wake: make(chan struct{}, 1)}
}

func (w *service) inFlight() int { return int(w.held.Load()) }

func (w *service) name() string {
	return fmt.Sprintf("%s %s at %s", kindName(w.port.kind()), w.s.spec.GetService(), w.work.GetAddress())
}

func kindName(k conveyorv1.ServiceKind) string {
	switch k {
	case conveyorv1.ServiceKind_SERVICE_KIND_SOURCE:
		return "source"
	case conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM:
		return "transform"
	default:
		return "sink"
	}
}

// run keeps a stream to the service until the stage has run to its end or ctx ends.
func (w *service) run(ctx context.Context) {
	for failures := 0; ; {
		began := time.Now()
		completed, err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			w.s.finish(ctx, completed)
			return
		}
		w.s.refusedBy(err)
		if err := w.do(ctx, w.d.Lost(time.Now())); err != nil {
			return
		}
		w.s.setOpen(false)
		w.s.wait(fmt.Sprintf("%s: %s", w.name(), describeError(err)))
		if time.Since(began) > 5*time.Second {
			failures = 0
		}
		failures++
		if !sleep(ctx, backoff(failures)) {
			return
		}
	}
}

// describeError is the message of an error of a call, without gRPC's wrapping.
func describeError(err error) string {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Message()
	}
	return err.Error()
}

// session works over one stream until it breaks, or until nothing is left to do.
func (w *service) session(ctx context.Context) (completed bool, err error) {
	conn, err := w.s.dial(w.work)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	ability, err := w.describe(ctx, conn)
	if err != nil {
		return false, err
	}
	w.d.Adapt(ability.GetOrdered(), int(ability.GetMaxBatch()))
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	stream, err := dialStream(ctx, conn, w.port.method())
	if err != nil {
		return false, err
	}
	if err := stream.SendMsg(w.port.open(w.s.opening(w.work))); err != nil {
		return false, streamError(stream, err)
	}
	out := make(chan *wire.Message, 64)
	answers := make(chan *answer, 4)
	wg.Go(func() { cancel(w.receive(ctx, stream, answers)) })
	silent := time.AfterFunc(openPatience, func() { w.s.wait(w.name() + ": it has not answered the opening of the stream yet") })
	defer silent.Stop()
	select {
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case a := <-answers:
		if !a.opened {
			return false, errors.New("its first response is not an opened")
		}
	}
	silent.Stop()
	w.s.setOpen(true)
	w.before = w.d.Sent()
	wg.Go(func() {
		if err := w.send(ctx, stream, out); err != nil {
			cancel(err)
		}
	})
	return w.loop(ctx, out, answers)
}

// describe finds out what the service can do.
func (w *service) describe(ctx context.Context, conn *grpc.ClientConn) (*conveyorv1.Ability, error) {
	ctx, cancel := context.WithTimeout(ctx, describePatience)
	defer cancel()
	var abilities []*conveyorv1.Ability
	var err error
	if w.port.passesOn() {
		var resp *conveyorv1.TransformServiceDescribeResponse
		resp, err = conveyorv1.NewTransformServiceClient(conn).Describe(ctx, &conveyorv1.TransformServiceDescribeRequest{})
		abilities = resp.GetAbilities()
	} else {
		var resp *conveyorv1.SinkServiceDescribeResponse
		resp, err = conveyorv1.NewSinkServiceClient(conn).Describe(ctx, &conveyorv1.SinkServiceDescribeRequest{})
		abilities = resp.GetAbilities()
	}
	if status.Code(err) == codes.Unimplemented {
		return nil, fmt.Errorf("it is not a %s: it does not describe itself as one", kindName(w.port.kind()))
	}
	if err != nil {
		return nil, err
	}
	for _, a := range abilities {
		if a.GetKind() == w.port.kind() && (w.work.GetType() == "" || a.GetType() == w.work.GetType()) {
			return a, nil
		}
	}
	return nil, fmt.Errorf("it has no %s of type %q", kindName(w.port.kind()), w.work.GetType())
}

// receive takes what the service answers.
func (w *service) receive(ctx context.Context, stream grpc.ClientStream, answers chan<- *answer) error {
	for {
		m := &wire.Message{Head: w.port.response()}
		// Only what passes records on answers with a batch.
		var into any = m.Head
		if w.port.passesOn() {
			into = m
		}
		if err := stream.RecvMsg(into); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("it ended the stream")
			}
			return err
		}
		a, err := w.port.answer(m.Head, m.Batch)
		if err != nil {
			return err
		}
		select {
		case answers <- a:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// send gives requests to the service.
func (w *service) send(ctx context.Context, stream grpc.ClientStream, out <-chan *wire.Message) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-out:
			err := stream.SendMsg(m)
			if m.Batch != nil {
				m.Batch.Free()
			}
			if errors.Is(err, io.EOF) {
				return nil // the receiver says why
			}
			if err != nil {
				return err
			}
		}
	}
}

// loop is the stage at work.
func (w *service) loop(ctx context.Context, out chan<- *wire.Message, answers <-chan *answer) (completed bool, err error) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	completing := false
	var heard time.Time // when the service last answered, or had nothing to answer
	silent, unwell := false, false
	for {
		for _, b := range w.s.in.take(&w.held) {
			w.s.recordsIn.Add(uint64(b.Len()))
			w.d.Add(b)
		}
		now := time.Now()
		if w.d.Unanswered() == 0 && !completing {
			heard = now
		}
		for len(out) < cap(out)-8 {
			r := w.d.Next(now)
			if r == nil {
				break
			}
			out <- &wire.Message{Head: w.port.request(r.Sequence - w.before), Batch: requestBatch(r)}
		}
		w.held.Store(int64(w.d.InFlight()))
		w.s.retries.Store(w.d.Retries())
		wait := time.Hour
		if quiet := now.Sub(heard); quiet >= answerPatience && !silent {
			silent = true
			w.s.wait(fmt.Sprintf("%s: it has not answered for %s", w.name(), answerPatience))
		} else if !silent && (completing || w.d.Unanswered() > 0) {
			wait = answerPatience - quiet
		}
		if over, whole := w.s.inputOver(); over && w.d.Idle() && !completing {
			if w.s.outputIdle() {
				head := w.port.complete()
				if head == nil || !whole {
					return whole, nil
				}
				if err := push(ctx, out, &wire.Message{Head: head}); err != nil {
					return false, err
				}
				completing, wait = true, answerPatience
			} else {
				wait = restPoll
			}
		} else if due, ok := w.d.Due(); ok {
			wait = max(0, min(wait, due.Sub(now)))
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			// I2: what the service answered before its stream ended is done.
			for {
				select {
				case a := <-answers:
					if completed, err := w.answered(ctx, a, out, completing); completed || err != nil {
						return completed, err
					}
				default:
					return false, context.Cause(ctx)
				}
			}
		case <-w.s.in.ready:
		case <-timer.C:
		case <-w.wake:
			if err := w.resume(ctx, out); err != nil {
				return false, err
			}
		case a := <-answers:
			if heard = now; silent {
				silent = false
				w.s.setOpen(true)
			}
			if completed, err := w.answered(ctx, a, out, completing); completed || err != nil {
				return completed, err
			}
			unwell = w.tellHealth(a.results, unwell)
		}
	}
}

// answered takes in an answer of the service. It blocks while what the service made has no credit.
func (w *service) answered(ctx context.Context, a *answer, out chan<- *wire.Message, completing bool) (completed bool, err error) {
	if a.completed {
		if !completing {
			return false, errors.New("it says that it completed, which it was not asked to")
		}
		if a.failure != nil {
			return false, fmt.Errorf("it could not complete: %s: %s", a.failure.GetCode(), a.failure.GetMessage())
		}
		return true, nil
	}
	if err := w.giveIDs(a); err != nil {
		return false, err
	}
	steps, err := w.d.Answer(a.sequence+w.before, a.results, a, time.Now())
	if err != nil {
		return false, err
	}
	return false, w.act(ctx, steps, out)
}

// tellHealth says what keeps a service from working that answers, and takes it back once it works; was is what it returned last.
func (w *service) tellHealth(results []dispatch.Result, was bool) bool {
	works := false
	for _, r := range results {
		switch {
		case r.Failure == nil:
			works = true
		case r.Failure.Class == dispatch.Unavailable:
			w.s.wait(fmt.Sprintf("%s: %s: %s", w.name(), r.Failure.Code, r.Failure.Message))
			return true
		}
	}
	if was && works {
		w.s.setOpen(true)
		return false
	}
	return was
}

// push hands a message to the sending side of the stream.
func push(ctx context.Context, out chan<- *wire.Message, m *wire.Message) error {
	select {
	case out <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// resume goes on with the records behind items that are buried.
func (w *service) resume(ctx context.Context, out chan<- *wire.Message) error {
	for _, it := range w.takeBuried() {
		if err := w.act(ctx, w.d.Buried(it), out); err != nil {
			return err
		}
	}
	return nil
}

func (w *service) takeBuried() []*dispatch.Item {
	w.mu.Lock()
	defer w.mu.Unlock()
	items := w.buried
	w.buried = nil
	return items
}

// requestBatch returns the records of a request, under a reference of their own.
func requestBatch(r *dispatch.Request) *wire.Batch {
	if len(r.Inputs) == 1 && r.Inputs[0].Item == nil {
		in := r.Inputs[0]
		return in.Batch.Records.Slice(in.From, in.To)
	}
	var b wire.Builder
	b.Expect(int(r.Bytes) + wire.FramingBytes*r.Records)
	for _, in := range r.Inputs {
		if in.Item != nil {
			b.AppendEncoded(in.Item.Record)
		} else {
			b.AppendRun(in.Batch.Records, in.From, in.To)
		}
	}
	return b.Finish()
}

// act does what follows from answers. out takes what the service must be told, nil when there is no stream.
func (w *service) act(ctx context.Context, steps []dispatch.Step, out chan<- *wire.Message) error {
	for _, step := range steps {
		switch step.Kind {
		case dispatch.Finish:
			// I2: what was taken goes on. So this waits for credit under the stage's context, which outlives the stream's.
			if err := w.finish(w.s.ctx, step); err != nil {
				return err
			}
		case dispatch.Bury:
			w.bury(step)
		case dispatch.Release:
			if f, err := wire.Scan(step.Item.Record); err == nil && out != nil {
				if push(ctx, out, &wire.Message{Head: w.port.released(append([]byte(nil), f.Key...))}) != nil {
					out = nil // the stream has broken, and with it what the service remembers of failures
				}
			}
		}
	}
	letGo(steps)
	return nil
}

// do does what follows when there is no stream: a new one knows nothing of failed records, so nothing needs to be released.
func (w *service) do(ctx context.Context, steps []dispatch.Step) error {
	return w.act(ctx, steps, nil)
}

func (w *service) bury(step dispatch.Step) {
	it := step.Item
	letter := w.s.letter(it.Batch, it.Record, w.s.key.stage, it.Batch.From, step.Failure, it.Attempts)
	w.s.e.letters.bury(letter, burial{batch: it.Batch, index: it.Index, lane: it.Batch.Lane, stage: w.s, then: func() {
		w.mu.Lock()
		w.buried = append(w.buried, it)
		w.mu.Unlock()
		signal(w.wake)
	}})
}
