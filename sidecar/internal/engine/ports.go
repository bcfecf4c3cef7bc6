package engine

import (
	"fmt"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/dispatch"
)

// port speaks the protocol of one kind of service.
type port interface {
	kind() conveyorv1.ServiceKind
	method() string
	// passesOn says that what comes out of the service goes on to the stages behind.
	passesOn() bool
	open(o *conveyorv1.Opening) wire.Head
	request(sequence uint64) wire.Head
	released(key []byte) wire.Head
	// complete is nil for services that have nothing to finish.
	complete() wire.Head
	response() wire.Head
	// answer reads a response, and takes over the reference of its batch.
	answer(head wire.Head, batch *wire.Batch) (*answer, error)
}

// answer is a response of a service.
type answer struct {
	opened    bool
	completed bool
	failure   *conveyorv1.Failure // why it could not complete
	sequence  uint64
	results   []dispatch.Result
	outs      []outs
	batch     *wire.Batch
}

// outs says what became of the inputs from..to-1 that did not fail.
type outs struct {
	from, to int
	filtered bool
	each     int      // records that each input became
	first    int      // index of the first of them in the batch
	route    []string // the only stages that are offered them, if not empty
}

func failureOf(f *conveyorv1.Failure) dispatch.Failure {
	class := dispatch.Retryable
	switch f.GetClass() {
	case conveyorv1.FailureClass_FAILURE_CLASS_PERMANENT:
		class = dispatch.Permanent
	case conveyorv1.FailureClass_FAILURE_CLASS_UNAVAILABLE:
		class = dispatch.Unavailable
	case conveyorv1.FailureClass_FAILURE_CLASS_NOT_TRIED:
		class = dispatch.NotTried
	}
	return dispatch.Failure{Class: class, Code: f.GetCode(), Message: f.GetMessage()}
}

// failed returns the result of a run of inputs that failed.
func failed(from, to int, f *conveyorv1.Failure) dispatch.Result {
	failure := failureOf(f)
	return dispatch.Result{From: from, To: to, Failure: &failure}
}

// maxInputs bounds the indexes in an answer, so that rubbish cannot overflow them.
const maxInputs = 1 << 20

func span(first, count uint32) (from, to int, err error) {
	if first > maxInputs || count == 0 || count > maxInputs {
		return 0, 0, fmt.Errorf("a result for %d inputs from %d on: %w", count, first, dispatch.ErrMismatch)
	}
	return int(first), int(first) + int(count), nil
}

// transformPort speaks to transforms.
type transformPort struct{}

func (transformPort) kind() conveyorv1.ServiceKind {
	return conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM
}

func (transformPort) method() string      { return conveyorv1.TransformService_Process_FullMethodName }
func (transformPort) passesOn() bool      { return true }
func (transformPort) complete() wire.Head { return nil }
func (transformPort) response() wire.Head { return &processHead{} }

func (transformPort) open(o *conveyorv1.Opening) wire.Head {
	return &conveyorv1.ProcessRequest{Request: &conveyorv1.ProcessRequest_Open{Open: o}}
}

func (transformPort) request(sequence uint64) wire.Head {
	return &conveyorv1.ProcessRequest{Sequence: sequence}
}

func (transformPort) released(key []byte) wire.Head {
	return &conveyorv1.ProcessRequest{Request: &conveyorv1.ProcessRequest_Released{Released: &conveyorv1.Released{Key: key}}}
}

func (transformPort) answer(head wire.Head, batch *wire.Batch) (*answer, error) {
	r := head.(*processHead)
	a := &answer{opened: r.opened, sequence: r.sequence, batch: batch}
	if r.resolved {
		return nil, fmt.Errorf("it resolved records as held, which this version of the sidecar does not do: %w", dispatch.ErrMismatch)
	}
	a.outs = make([]outs, 0, len(r.results))
	at := 0
	for _, res := range r.results {
		from, to, err := span(res.first, res.count)
		if err != nil {
			return nil, err
		}
		switch res.kind {
		case resultOK:
			each := int(res.each)
			if each < 1 || each > maxInputs {
				return nil, fmt.Errorf("request %d: an input became %d records: %w", a.sequence, each, dispatch.ErrMismatch)
			}
			a.outs = append(a.outs, outs{from: from, to: to, each: each, first: at, route: res.route})
			at += each * (to - from)
			a.done(from, to)
		case resultFiltered:
			a.outs = append(a.outs, outs{from: from, to: to, filtered: true})
			a.done(from, to)
		case resultError:
			a.results = append(a.results, failed(from, to, res.failure))
		case resultHeld:
			return nil, fmt.Errorf("request %d: it held or merged records, which this version of the sidecar does not do: %w", a.sequence, dispatch.ErrMismatch)
		default:
			return nil, fmt.Errorf("request %d: a result without outcome: %w", a.sequence, dispatch.ErrMismatch)
		}
	}
	got := 0
	if batch != nil {
		got = batch.Len()
	}
	if at != got {
		return nil, fmt.Errorf("request %d: its results speak of %d records, its batch has %d: %w", a.sequence, at, got, dispatch.ErrMismatch)
	}
	return a, nil
}

// done adds that the service is done with the inputs from..to-1. To the dispatcher it makes no difference what became of them.
func (a *answer) done(from, to int) {
	if n := len(a.results); n > 0 && a.results[n-1].Failure == nil && a.results[n-1].To == from {
		a.results[n-1].To = to
		return
	}
	a.results = append(a.results, dispatch.Result{From: from, To: to})
}

// sinkPort speaks to sinks.
type sinkPort struct{}

func (sinkPort) kind() conveyorv1.ServiceKind { return conveyorv1.ServiceKind_SERVICE_KIND_SINK }
func (sinkPort) method() string               { return conveyorv1.SinkService_Write_FullMethodName }
func (sinkPort) passesOn() bool               { return false }
func (sinkPort) response() wire.Head          { return &conveyorv1.WriteResponse{} }

func (sinkPort) complete() wire.Head {
	return &conveyorv1.WriteRequest{Request: &conveyorv1.WriteRequest_Complete{Complete: &conveyorv1.Complete{}}}
}

func (sinkPort) open(o *conveyorv1.Opening) wire.Head {
	return &conveyorv1.WriteRequest{Request: &conveyorv1.WriteRequest_Open{Open: o}}
}

func (sinkPort) request(sequence uint64) wire.Head {
	return &conveyorv1.WriteRequest{Sequence: sequence}
}

func (sinkPort) released(key []byte) wire.Head {
	return &conveyorv1.WriteRequest{Request: &conveyorv1.WriteRequest_Released{Released: &conveyorv1.Released{Key: key}}}
}

func (sinkPort) answer(head wire.Head, batch *wire.Batch) (*answer, error) {
	if batch != nil {
		batch.Free()
	}
	r := head.(*conveyorv1.WriteResponse)
	a := &answer{
		opened: r.GetOpened() != nil, completed: r.GetCompleted() != nil, failure: r.GetCompleted().GetFailure(), sequence: r.GetSequence(),
	}
	if len(r.GetResolved()) > 0 {
		return nil, fmt.Errorf("it resolved records as held, which this version of the sidecar does not do: %w", dispatch.ErrMismatch)
	}
	for _, res := range r.GetResults() {
		from, to, err := span(res.GetFirst(), res.GetCount())
		if err != nil {
			return nil, err
		}
		switch out := res.GetOutcome().(type) {
		case *conveyorv1.WriteResult_Ok, *conveyorv1.WriteResult_Already:
			a.results = append(a.results, dispatch.Result{From: from, To: to})
		case *conveyorv1.WriteResult_Error:
			a.results = append(a.results, failed(from, to, out.Error))
		case *conveyorv1.WriteResult_Held:
			return nil, fmt.Errorf("request %d: it held records, which this version of the sidecar does not do: %w", a.sequence, dispatch.ErrMismatch)
		default:
			return nil, fmt.Errorf("request %d: a result without outcome: %w", a.sequence, dispatch.ErrMismatch)
		}
	}
	return a, nil
}
