package sdktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sdk"
)

// Answer is what became of one input of a transform or a sink.
type Answer struct {
	// Outcome is "ok", "already", "filtered", "held", "merged", or the class of a failure: "retryable", "permanent", "unavailable",
	// "not tried".
	Outcome string
	Code    string
	Message string
	// Records and Route are a transform's.
	Records []sdk.Record
	Route   []string
}

func answerOf(f *conveyorv1.Failure) Answer {
	a := Answer{Code: f.GetCode(), Message: f.GetMessage()}
	switch f.GetClass() {
	case conveyorv1.FailureClass_FAILURE_CLASS_RETRYABLE:
		a.Outcome = "retryable"
	case conveyorv1.FailureClass_FAILURE_CLASS_PERMANENT:
		a.Outcome = "permanent"
	case conveyorv1.FailureClass_FAILURE_CLASS_UNAVAILABLE:
		a.Outcome = "unavailable"
	case conveyorv1.FailureClass_FAILURE_CLASS_NOT_TRIED:
		a.Outcome = "not tried"
	default:
		a.Outcome = f.GetClass().String()
	}
	return a
}

// Outcomes returns the outcomes of answers in order.
func Outcomes(answers []Answer) []string {
	var all []string
	for _, a := range answers {
		all = append(all, a.Outcome)
	}
	return all
}

// stream is what Process and Write have in common.
type stream[Req, Res any] struct {
	t        testing.TB
	stream   grpc.BidiStreamingClient[Req, Res]
	cancel   context.CancelFunc
	sequence uint64
	sizes    map[uint64]int // of requests without an answer
	answers  map[uint64][]Answer
}

func (s *stream[Req, Res]) recv() *Res {
	s.t.Helper()
	timer := time.AfterFunc(Patience, s.cancel)
	defer timer.Stop()
	r, err := s.stream.Recv()
	if err != nil {
		s.t.Fatalf("receive: %v", err)
	}
	return r
}

func (s *stream[Req, Res]) sendOrFail(r *Req) {
	s.t.Helper()
	if err := s.stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
		s.t.Fatalf("send: %v", err)
	}
}

// Ended waits for the end of the stream and returns its error, nil when it ends well. Answers that come first are lost to the test.
func (s *stream[Req, Res]) Ended() error {
	s.t.Helper()
	timer := time.AfterFunc(Patience, s.cancel)
	defer timer.Stop()
	for {
		if _, err := s.stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Hangup closes the sending side and returns the error that the stream ends with, nil when it ends well.
func (s *stream[Req, Res]) Hangup() error {
	s.t.Helper()
	if err := s.stream.CloseSend(); err != nil {
		s.t.Fatalf("close send: %v", err)
	}
	return s.Ended()
}

// Close breaks the stream, as a sidecar that dies does.
func (s *stream[Req, Res]) Close() { s.cancel() }

// note files the answers to a request after checking that there is exactly one for each input, in order.
func (s *stream[Req, Res]) note(sequence uint64, firsts, counts []uint32, each []Answer) {
	s.t.Helper()
	size, ok := s.sizes[sequence]
	if !ok {
		s.t.Fatalf("an answer to request %d, which is answered or was never sent", sequence)
	}
	delete(s.sizes, sequence)
	next := uint32(0)
	for i := range firsts {
		if firsts[i] != next || counts[i] == 0 {
			s.t.Fatalf("request %d: result %d is of inputs %d+%d, want from %d", sequence, i, firsts[i], counts[i], next)
		}
		next += counts[i]
	}
	if int(next) != size {
		s.t.Fatalf("request %d: results for %d inputs of %d", sequence, next, size)
	}
	s.answers[sequence] = each
}

// Process is an open stream of a transform.
type Process struct {
	stream[conveyorv1.ProcessRequest, conveyorv1.ProcessResponse]
}

// OpenTransform opens a transform. An error is what the service refused the opening with.
func (c *Conn) OpenTransform(t testing.TB, o Open) (*Process, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	timer := time.AfterFunc(Patience, cancel)
	defer timer.Stop()
	st, err := conveyorv1.NewTransformServiceClient(c.conn).Process(ctx)
	if err != nil {
		return nil, err
	}
	p := &Process{stream[conveyorv1.ProcessRequest, conveyorv1.ProcessResponse]{t, st, cancel, 0, map[uint64]int{}, map[uint64][]Answer{}}}
	p.sendOrFail(&conveyorv1.ProcessRequest{Request: &conveyorv1.ProcessRequest_Open{Open: o.Opening()}})
	if r, err := st.Recv(); err != nil {
		return nil, err
	} else if r.GetOpened() == nil {
		return nil, fmt.Errorf("the first response is %v, not opened", r)
	}
	return p, nil
}

// MustOpenTransform is OpenTransform for a test that cannot go on without.
func (c *Conn) MustOpenTransform(t testing.TB, o Open) *Process {
	t.Helper()
	p, err := c.OpenTransform(t, o)
	if err != nil {
		t.Fatalf("open transform: %v", err)
	}
	return p
}

// Send sends a request and returns its sequence.
func (p *Process) Send(records ...sdk.Record) uint64 {
	p.t.Helper()
	p.sequence++
	p.sizes[p.sequence] = len(records)
	p.sendOrFail(&conveyorv1.ProcessRequest{Sequence: p.sequence, Batch: batchOf(records)})
	return p.sequence
}

// Release tells the transform that the failed record of a key will not come again.
func (p *Process) Release(key string) {
	p.t.Helper()
	p.sendOrFail(&conveyorv1.ProcessRequest{Request: &conveyorv1.ProcessRequest_Released{Released: &conveyorv1.Released{Key: []byte(key)}}})
}

// Answers waits for the answers to a request.
func (p *Process) Answers(sequence uint64) []Answer {
	p.t.Helper()
	for p.answers[sequence] == nil {
		r := p.recv()
		var firsts, counts []uint32
		var each []Answer
		outputs := records(r.GetBatch())
		for _, result := range r.GetResults() {
			firsts, counts = append(firsts, result.GetFirst()), append(counts, result.GetCount())
			for range result.GetCount() {
				a := transformAnswer(result)
				if n := int(result.GetOk().GetEach()); n > 0 {
					if n > len(outputs) {
						p.t.Fatalf("request %d: the results name more records than the response has", r.GetSequence())
					}
					a.Records, outputs = outputs[:n], outputs[n:]
				}
				each = append(each, a)
			}
		}
		if len(outputs) > 0 {
			p.t.Fatalf("request %d: %d records that no result names", r.GetSequence(), len(outputs))
		}
		p.note(r.GetSequence(), firsts, counts, each)
	}
	return p.answers[sequence]
}

func transformAnswer(r *conveyorv1.ProcessResult) Answer {
	switch o := r.GetOutcome().(type) {
	case *conveyorv1.ProcessResult_Ok:
		return Answer{Outcome: "ok", Route: o.Ok.GetRoute()}
	case *conveyorv1.ProcessResult_Filtered:
		return Answer{Outcome: "filtered"}
	case *conveyorv1.ProcessResult_Error:
		return answerOf(o.Error)
	case *conveyorv1.ProcessResult_Held:
		return Answer{Outcome: "held"}
	case *conveyorv1.ProcessResult_Merged:
		return Answer{Outcome: "merged"}
	}
	return Answer{Outcome: "none"}
}

// Ask sends a request and waits for its answers.
func (p *Process) Ask(records ...sdk.Record) []Answer {
	p.t.Helper()
	return p.Answers(p.Send(records...))
}

// Write is an open stream of a sink.
type Write struct {
	stream[conveyorv1.WriteRequest, conveyorv1.WriteResponse]
}

// OpenSink opens a sink. An error is what the service refused the opening with.
func (c *Conn) OpenSink(t testing.TB, o Open) (*Write, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	timer := time.AfterFunc(Patience, cancel)
	defer timer.Stop()
	st, err := conveyorv1.NewSinkServiceClient(c.conn).Write(ctx)
	if err != nil {
		return nil, err
	}
	w := &Write{stream[conveyorv1.WriteRequest, conveyorv1.WriteResponse]{t, st, cancel, 0, map[uint64]int{}, map[uint64][]Answer{}}}
	w.sendOrFail(&conveyorv1.WriteRequest{Request: &conveyorv1.WriteRequest_Open{Open: o.Opening()}})
	if r, err := st.Recv(); err != nil {
		return nil, err
	} else if r.GetOpened() == nil {
		return nil, fmt.Errorf("the first response is %v, not opened", r)
	}
	return w, nil
}

// MustOpenSink is OpenSink for a test that cannot go on without.
func (c *Conn) MustOpenSink(t testing.TB, o Open) *Write {
	t.Helper()
	w, err := c.OpenSink(t, o)
	if err != nil {
		t.Fatalf("open sink: %v", err)
	}
	return w
}

// Send sends a request and returns its sequence.
func (w *Write) Send(records ...sdk.Record) uint64 {
	w.t.Helper()
	w.sequence++
	w.sizes[w.sequence] = len(records)
	w.sendOrFail(&conveyorv1.WriteRequest{Sequence: w.sequence, Batch: batchOf(records)})
	return w.sequence
}

// Release tells the sink that the failed record of a key will not come again.
func (w *Write) Release(key string) {
	w.t.Helper()
	w.sendOrFail(&conveyorv1.WriteRequest{Request: &conveyorv1.WriteRequest_Released{Released: &conveyorv1.Released{Key: []byte(key)}}})
}

// Answers waits for the answers to a request.
func (w *Write) Answers(sequence uint64) []Answer {
	w.t.Helper()
	for w.answers[sequence] == nil {
		w.file(w.recv())
	}
	return w.answers[sequence]
}

func (w *Write) file(r *conveyorv1.WriteResponse) {
	w.t.Helper()
	var firsts, counts []uint32
	var each []Answer
	for _, result := range r.GetResults() {
		firsts, counts = append(firsts, result.GetFirst()), append(counts, result.GetCount())
		for range result.GetCount() {
			each = append(each, sinkAnswer(result))
		}
	}
	w.note(r.GetSequence(), firsts, counts, each)
}

func sinkAnswer(r *conveyorv1.WriteResult) Answer {
	switch o := r.GetOutcome().(type) {
	case *conveyorv1.WriteResult_Ok:
		return Answer{Outcome: "ok"}
	case *conveyorv1.WriteResult_Already:
		return Answer{Outcome: "already"}
	case *conveyorv1.WriteResult_Error:
		return answerOf(o.Error)
	case *conveyorv1.WriteResult_Held:
		return Answer{Outcome: "held"}
	}
	return Answer{Outcome: "none"}
}

// Ask sends a request and waits for its answers.
func (w *Write) Ask(records ...sdk.Record) []Answer {
	w.t.Helper()
	return w.Answers(w.Send(records...))
}

// Complete tells the sink that the pipeline is complete and returns the failure that it answers with, nil when all is well.
func (w *Write) Complete() *conveyorv1.Failure {
	w.t.Helper()
	w.sendOrFail(&conveyorv1.WriteRequest{Request: &conveyorv1.WriteRequest_Complete{Complete: &conveyorv1.Complete{}}})
	for {
		r := w.recv()
		if c := r.GetCompleted(); c != nil {
			return c.GetFailure()
		}
		w.file(r)
	}
}
