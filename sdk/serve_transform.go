package sdk

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

type transformServer struct {
	conveyorv1.UnimplementedTransformServiceServer
	s *Server
}

func (s *transformServer) Describe(context.Context, *conveyorv1.TransformServiceDescribeRequest) (*conveyorv1.TransformServiceDescribeResponse, error) {
	return &conveyorv1.TransformServiceDescribeResponse{Abilities: s.s.Describe()}, nil
}

// Process refuses no older owner: a transform keeps nothing of what it is given, and whatever it makes for an owner that was replaced is
// refused by the stages behind, which know the epochs of both. A newer owner would only have to wait for the older one.
func (s *transformServer) Process(stream grpc.BidiStreamingServer[conveyorv1.ProcessRequest, conveyorv1.ProcessResponse]) error {
	open, err := firstOpening(stream, &conveyorv1.ProcessRequest{})
	if err != nil {
		return err
	}
	a, err := s.s.find(conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM, open.GetType())
	if err != nil {
		return err
	}
	o := openingOf(open, a.Type(), s.s.settings.log)
	processor, err := a.transform(stream.Context(), o, open.GetConfig())
	if err != nil {
		return statusOfError(err)
	}
	p := &process{
		stream: stream, processor: processor, stage: o.Stage, maxBatch: int(a.info.MaxBatch), order: order{off: !a.info.Ordered},
	}
	return statusOfError(errors.Join(p.run(s.s), wrapClose(processor.Close())))
}

// process is one open Process stream.
type process struct {
	stream    grpc.BidiStreamingServer[conveyorv1.ProcessRequest, conveyorv1.ProcessResponse]
	processor Processor
	stage     string
	maxBatch  int
	order     order
	decoder   decoder
	tried     []int // indexes in the request of the records of a call
	call      []Record
	results   []Result
	scratch   conveyorv1.Record
	runs      runs
}

// runs are the results of one response after the other: most say the same few things, so their memory is used again.
type runs struct {
	list []*conveyorv1.ProcessResult
	used int
}

// next returns a result without an outcome.
func (r *runs) next() *conveyorv1.ProcessResult {
	if r.used == len(r.list) {
		r.list = append(r.list, &conveyorv1.ProcessResult{})
	}
	r.used++
	return r.list[r.used-1]
}

// The outcomes of nearly all results. They are never changed.
var (
	outcomeFiltered = &conveyorv1.ProcessResult_Filtered{Filtered: &conveyorv1.Filtered{}}
	outcomeOne      = &conveyorv1.ProcessResult_Ok{Ok: &conveyorv1.Outputs{Each: 1}}
)

func (p *process) run(s *Server) error {
	if err := p.stream.Send(&conveyorv1.ProcessResponse{Opened: &conveyorv1.ProcessOpened{}}); err != nil {
		return err
	}
	in, stop := newIntake(p.stream.Context(), s, p.stream, func() *conveyorv1.ProcessRequest { return &conveyorv1.ProcessRequest{} })
	defer stop()
	for {
		head, batch, err := in.next()
		if err != nil {
			return endOfStream(err)
		}
		if r := head.GetReleased(); r != nil {
			p.order.release(r.GetKey())
		}
		if batch == nil {
			continue
		}
		err = p.answer(head.GetSequence(), batch)
		batch.Free()
		if err != nil {
			return err
		}
	}
}

// answer processes one request. Batches are answered one after the other, in order.
func (p *process) answer(sequence uint64, batch *wire.Batch) error {
	p.decoder.reset()
	for i := range batch.Len() {
		if err := p.decoder.add(batch.Record(i)); err != nil {
			return statusProtocol("request %d, record %d: %v", sequence, i, err)
		}
	}
	p.runs.used = 0 // the last response was encoded when it was sent
	answer := answerBuilder{p: p, batch: batch}
	answer.outputs.Expect(batch.Bytes() + wire.FramingBytes*batch.Len()) // most transforms change little
	defer answer.free()
	step := len(p.decoder.records)
	if p.maxBatch > 0 {
		step = p.maxBatch
	}
	for from := 0; from < len(p.decoder.records); from += step {
		p.part(&answer, from, min(from+step, len(p.decoder.records)))
	}
	if p.order.overflow() {
		return statusProtocol("more than %d keys wait for a failed record", maxBlockedKeys)
	}
	out := wire.Message{
		Head:  &conveyorv1.ProcessResponse{Sequence: sequence, Results: answer.results},
		Batch: answer.outputs.Finish(),
	}
	err := p.stream.SendMsg(&out)
	if out.Batch != nil {
		out.Batch.Free()
	}
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// part processes the records from..to-1 of a request in one call.
func (p *process) part(answer *answerBuilder, from, to int) {
	records := p.decoder.records[from:to]
	p.tried = p.tried[:0]
	for i := range records {
		if p.order.admit(records[i].Key, records[i].ID) {
			p.tried = append(p.tried, i)
		}
	}
	call := records
	if len(p.tried) != len(records) {
		p.call = p.call[:0]
		for _, i := range p.tried {
			p.call = append(p.call, records[i])
		}
		call = p.call
	}
	p.results = slices.Grow(p.results[:0], len(call))[:len(call)]
	clear(p.results)
	var err error
	if len(call) > 0 {
		err = p.processor.Process(p.stream.Context(), call, p.results)
	}
	next := 0 // in call
	for i := range records {
		if next == len(p.tried) || p.tried[next] != i {
			answer.fail(errNotTried)
			continue
		}
		p.settle(answer, from+i, &records[i], &p.results[next], err)
		next++
	}
}

// settle answers for one record that was tried. What came out of a record behind a failed one of its key is thrown away, since it must
// not be delivered first.
func (p *process) settle(answer *answerBuilder, index int, r *Record, result *Result, err error) {
	switch {
	case !p.order.off && !p.order.admit(r.Key, r.ID):
		err = errNotTried
	case err == nil:
		err = result.Err
	}
	if err == nil {
		err = answer.add(index, r, result)
	}
	if err != nil {
		if !errors.Is(err, errNotTried) {
			p.order.fail(r.Key, r.ID)
		}
		answer.fail(err)
	}
}

// answerBuilder makes the response to one request.
type answerBuilder struct {
	p       *process
	batch   *wire.Batch
	outputs wire.Builder
	results []*conveyorv1.ProcessResult
	inputs  uint32
	last    error // of the last result, to make runs
}

// extend makes the last result a longer run when fits says that it says the same, and otherwise appends a new one.
func (b *answerBuilder) extend(fits bool, fresh func(*conveyorv1.ProcessResult)) {
	if n := len(b.results); n > 0 && fits {
		b.results[n-1].Count++
	} else {
		r := b.p.runs.next()
		r.First, r.Count = b.inputs, 1
		fresh(r)
		b.results = b.p.runs.list[:b.p.runs.used]
	}
	b.inputs++
}

func (b *answerBuilder) lastResult() *conveyorv1.ProcessResult {
	if len(b.results) == 0 {
		return nil
	}
	return b.results[len(b.results)-1]
}

func (b *answerBuilder) fail(err error) {
	b.extend(b.last != nil && sameError(b.last, err), func(r *conveyorv1.ProcessResult) {
		r.Outcome = &conveyorv1.ProcessResult_Error{Error: FailureOf(err).proto()}
	})
	b.last = err
}

func (b *answerBuilder) filtered() {
	b.extend(b.lastResult().GetFiltered() != nil, func(r *conveyorv1.ProcessResult) {
		r.Outcome = outcomeFiltered
	})
	b.last = nil
}

func (b *answerBuilder) ok(each int, route []string) {
	ok := b.lastResult().GetOk()
	b.extend(ok.GetEach() == uint32(each) && slices.Equal(ok.GetRoute(), route), func(r *conveyorv1.ProcessResult) {
		if each == 1 && len(route) == 0 {
			r.Outcome = outcomeOne
		} else {
			r.Outcome = &conveyorv1.ProcessResult_Ok{Ok: &conveyorv1.Outputs{Each: uint32(each), Route: slices.Clone(route)}}
		}
	})
	b.last = nil
}

// add takes the outputs of one input. When it errs, nothing was added.
func (b *answerBuilder) add(index int, parent *Record, result *Result) error {
	if result.same {
		b.outputs.AppendEncoded(b.batch.Record(index))
		b.ok(1, nil)
		return nil
	}
	if result.single {
		result.Records = result.one[:]
	}
	if len(result.Records) == 0 {
		b.filtered()
		return nil
	}
	route, err := routeOf(result)
	if err != nil {
		return err
	}
	size := 0
	for i := range result.Records {
		b.child(parent, result.Records, i)
		n := b.p.scratch.SizeVT()
		if n > wire.MaxRecordBytes {
			return Permanent(Code(CodeRecordTooBig, fmt.Errorf("output %d of the transform has %d bytes, %d are allowed", i, n, wire.MaxRecordBytes)))
		}
		size += n
	}
	if b.outputs.Bytes()+size > wire.MaxRecordBytes && b.outputs.Len() > 0 {
		return errAnswerFull
	}
	if size > wire.MaxRecordBytes {
		return Permanent(Code(CodeRecordTooBig, fmt.Errorf("the outputs of one record have %d bytes, %d are allowed", size, wire.MaxRecordBytes)))
	}
	for i := range result.Records {
		if len(result.Records) > 1 { // a single one is in the scratch record already
			b.child(parent, result.Records, i)
		}
		if err := b.outputs.AppendRecord(&b.p.scratch); err != nil {
			return fmt.Errorf("output %d: %w", i, err)
		}
	}
	b.ok(len(result.Records), route)
	return nil
}

// errAnswerFull answers an input whose outputs have no room in the response: it comes again, at no cost, in a smaller request.
var errAnswerFull = Unavailable(Code("ANSWER_FULL", errors.New("the outputs of the request are larger than a message")))

// child fills the scratch record with output i.
func (b *answerBuilder) child(parent *Record, outputs []Record, i int) {
	s := &b.p.scratch
	outputs[i].ToProto(s)
	s.Position = nil
	if s.Id == "" || s.Id == parent.ID {
		s.Id = parent.ID
		if len(outputs) > 1 {
			s.Id = wire.ChildID(parent.ID, b.p.stage, i)
		}
	}
}

func (b *answerBuilder) free() {
	if batch := b.outputs.Finish(); batch != nil {
		batch.Free()
	}
}

// routeOf returns the route that a result names, on itself or on its records.
func routeOf(result *Result) ([]string, error) {
	route := result.Route
	if len(route) == 0 {
		route = result.Records[0].route
	}
	for i := range result.Records {
		if r := result.Records[i].route; len(r) > 0 && !slices.Equal(r, route) || len(r) == 0 && len(result.Route) == 0 && len(route) > 0 {
			return nil, Permanent(Code(CodeMixedRoutes, fmt.Errorf("records of one input have the routes %q and %q", route, r)))
		}
	}
	return route, nil
}
