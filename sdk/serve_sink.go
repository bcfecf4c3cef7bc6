package sdk

import (
	"cmp"
	"context"
	"errors"

	"google.golang.org/grpc"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

type sinkServer struct {
	conveyorv1.UnimplementedSinkServiceServer
	s *Server
}

func (s *sinkServer) Describe(context.Context, *conveyorv1.SinkServiceDescribeRequest) (*conveyorv1.SinkServiceDescribeResponse, error) {
	return &conveyorv1.SinkServiceDescribeResponse{Abilities: s.s.Describe()}, nil
}

func (s *sinkServer) Write(stream grpc.BidiStreamingServer[conveyorv1.WriteRequest, conveyorv1.WriteResponse]) error {
	open, err := firstOpening(stream, &conveyorv1.WriteRequest{})
	if err != nil {
		return err
	}
	a, err := s.s.find(conveyorv1.ServiceKind_SERVICE_KIND_SINK, open.GetType())
	if err != nil {
		return err
	}
	o := openingOf(open, a.Type(), s.s.settings.log)
	enter := s.s.fence.join
	if a.oneWriter {
		enter = s.s.fence.Enter
	}
	ctx, leave, err := enter(stream.Context(), o.Pipeline+" "+o.Stage, o.Epoch)
	if err != nil {
		return statusOfError(err)
	}
	// The writer may wait to send an answer to a peer that reads nothing: a newer owner must not wait with it. It ends when this stream
	// does, and then closes.
	done := make(chan error, 1)
	s.s.receives.Go(func() {
		err := s.work(ctx, stream, a, o, open.GetConfig())
		leave()
		done <- err
	})
	select {
	case err = <-done:
	case <-ctx.Done():
		if !errors.Is(context.Cause(ctx), ErrFenced) {
			err = <-done // it ends with the stream
		}
	}
	if cause := context.Cause(ctx); errors.Is(cause, ErrFenced) {
		return statusOfError(cause)
	}
	return statusOfError(err)
}

// work writes until the stream or its ownership ends. The writer is closed when it returns.
func (s *sinkServer) work(
	ctx context.Context, stream grpc.BidiStreamingServer[conveyorv1.WriteRequest, conveyorv1.WriteResponse], a Ability, o Opening, config []byte,
) error {
	writer, err := a.sink(ctx, o, config)
	if err != nil {
		return err
	}
	w := &write{ctx: ctx, stream: stream, writer: writer, ability: a, order: order{off: !a.info.Ordered}}
	w.syncer, _ = writer.(Syncer)
	return errors.Join(w.run(s.s), wrapClose(writer.Close()))
}

// maxUnsynced bounds what one Sync makes durable, in records' bytes.
const maxUnsynced = 4 << 20

// write is one open Write stream.
type write struct {
	ctx     context.Context //nolint:containedctx // the stream's own, ended by a newer owner
	stream  grpc.BidiStreamingServer[conveyorv1.WriteRequest, conveyorv1.WriteResponse]
	writer  Writer
	syncer  Syncer // nil when each Write is durable
	ability Ability
	order   order
	decoder decoder
	tried   []int // indexes in the request of the records of a call
	call    []Record

	unsynced      []*written
	unsyncedBytes int
}

// written is a request whose answer waits for a Sync.
type written struct {
	sequence uint64
	batch    *wire.Batch
	errs     []error
}

func (w *write) run(s *Server) error {
	if err := w.answer(&conveyorv1.WriteResponse{Opened: &conveyorv1.WriteOpened{}}); err != nil {
		return err
	}
	in, stop := newIntake(w.ctx, s, w.stream, func() *conveyorv1.WriteRequest { return &conveyorv1.WriteRequest{} })
	defer stop()
	defer w.forget()
	for {
		if len(w.unsynced) > 0 && (w.unsyncedBytes >= maxUnsynced || in.box.empty()) {
			if err := w.sync(); err != nil {
				return err
			}
		}
		head, batch, err := in.next()
		if err != nil {
			if errors.Is(err, ErrFenced) {
				return err // what was not synced belongs to the newer owner
			}
			return endOfStream(errors.Join(err, w.sync()))
		}
		if err := w.take(head, batch); err != nil {
			return err
		}
	}
}

// answer sends a response, unless the stage has a newer owner.
func (w *write) answer(r *conveyorv1.WriteResponse) error {
	// I28: nothing is acknowledged to the older one.
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	return w.stream.Send(r)
}

func (w *write) take(head *conveyorv1.WriteRequest, batch *wire.Batch) error {
	switch r := head.GetRequest().(type) {
	case *conveyorv1.WriteRequest_Released:
		w.order.release(r.Released.GetKey())
	case *conveyorv1.WriteRequest_Complete:
		if err := w.complete(); err != nil {
			return err
		}
	}
	if batch == nil {
		return nil
	}
	done := &written{head.GetSequence(), batch, make([]error, batch.Len())}
	w.unsynced = append(w.unsynced, done)
	w.unsyncedBytes += batch.Bytes()
	if err := w.write(done); err != nil {
		return err
	}
	if w.syncer == nil {
		return w.sync()
	}
	return nil
}

// write hands the records of a request to the writer, in as many calls as its limits ask for.
func (w *write) write(done *written) error {
	w.decoder.reset()
	for i := range done.batch.Len() {
		if err := w.decoder.add(done.batch.Record(i)); err != nil {
			return statusProtocol("request %d, record %d: %v", done.sequence, i, err)
		}
	}
	records := w.decoder.records
	keys := failedKeys{} // of the call in the making
	for i := range records {
		if !w.order.admit(records[i].Key, records[i].ID) {
			done.errs[i] = errNotTried
			continue
		}
		full := w.ability.info.MaxBatch > 0 && len(w.tried) >= int(w.ability.info.MaxBatch)
		if full || w.ability.distinctKeys && keys.has(records[i].Key) {
			w.flush(records, done)
			keys.reset()
			if !w.order.admit(records[i].Key, records[i].ID) {
				done.errs[i] = errNotTried
				continue
			}
		}
		if w.ability.distinctKeys {
			keys.add(records[i].Key)
		}
		w.tried = append(w.tried, i)
	}
	w.flush(records, done)
	if w.order.overflow() {
		return statusProtocol("more than %d keys wait for a failed record", maxBlockedKeys)
	}
	return nil
}

// flush calls the writer with the records in w.tried.
func (w *write) flush(records []Record, done *written) {
	if len(w.tried) == 0 {
		return
	}
	call := records
	if len(w.tried) != len(records) {
		w.call = w.call[:0]
		for _, i := range w.tried {
			w.call = append(w.call, records[i])
		}
		call = w.call
	}
	if err := w.writer.Write(w.ctx, call); err != nil {
		partial, ok := err.(Partial) //nolint:errorlint // a wrapped Partial is about another batch
		if ok {
			err = partial.outside(len(call))
		}
		for at, i := range w.tried {
			if each := cmp.Or(err, partial[at]); each != nil {
				w.settle(&records[i], &done.errs[i], each)
			}
		}
	}
	w.tried = w.tried[:0]
}

// settle notes an error of one record. Once a record of a key failed, the failures behind it count as not tried.
func (w *write) settle(r *Record, to *error, err error) {
	*to = err
	if isAlready(err) {
		return
	}
	if !w.order.off && !w.order.admit(r.Key, r.ID) {
		*to = errNotTried
		return
	}
	w.order.fail(r.Key, r.ID)
}

// sync makes what was written durable and answers it.
func (w *write) sync() error {
	if len(w.unsynced) == 0 {
		return nil
	}
	if w.syncer != nil {
		if err := w.syncer.Sync(w.ctx); err != nil {
			w.undo(err)
		}
	}
	for len(w.unsynced) > 0 {
		done := w.unsynced[0]
		response := &conveyorv1.WriteResponse{Sequence: done.sequence, Results: writeResults(done.errs)}
		if err := w.answer(response); err != nil {
			return err
		}
		done.batch.Free()
		w.unsynced = w.unsynced[1:]
	}
	w.unsynced, w.unsyncedBytes = nil, 0
	return nil
}

// undo turns the successes since the last Sync into failures. A record that was tried had no failed one before it, so the first of a key
// that is undone is the one that holds back the others, also those that failed behind it.
func (w *write) undo(err error) {
	var keys failedKeys
	for _, done := range w.unsynced {
		for i := range done.errs {
			if done.errs[i] != nil && !isAlready(done.errs[i]) {
				continue
			}
			done.errs[i] = err
			fields, scanErr := wire.Scan(done.batch.Record(i))
			if scanErr != nil || w.order.off {
				continue
			}
			if keys.has(fields.Key) {
				done.errs[i] = errNotTried
				continue
			}
			keys.add(fields.Key)
			w.order.release(fields.Key)
			w.order.fail(fields.Key, string(fields.ID))
		}
	}
}

func (w *write) complete() error {
	if err := w.sync(); err != nil {
		return err
	}
	completed := &conveyorv1.WriteCompleted{}
	if c, ok := w.writer.(Completer); ok {
		if err := c.Complete(w.ctx); err != nil {
			completed.Failure = FailureOf(err).proto()
		}
	}
	return w.answer(&conveyorv1.WriteResponse{Completed: completed})
}

// forget frees what was never answered.
func (w *write) forget() {
	for _, done := range w.unsynced {
		done.batch.Free()
	}
	w.unsynced = nil
}

// writeResults answers every input exactly once, in runs of equal answers.
func writeResults(errs []error) []*conveyorv1.WriteResult {
	var results []*conveyorv1.WriteResult
	for from := 0; from < len(errs); {
		to := from + 1
		for to < len(errs) && sameError(errs[to], errs[from]) {
			to++
		}
		r := &conveyorv1.WriteResult{First: uint32(from), Count: uint32(to - from)}
		switch err := errs[from]; {
		case err == nil:
			r.Outcome = &conveyorv1.WriteResult_Ok{Ok: &conveyorv1.Written{}}
		case isAlready(err):
			r.Outcome = &conveyorv1.WriteResult_Already{Already: &conveyorv1.Already{}}
		default:
			r.Outcome = &conveyorv1.WriteResult_Error{Error: FailureOf(err).proto()}
		}
		results = append(results, r)
		from = to
	}
	return results
}

// sameError reports whether two errors are told in the same words. Only the commonest kinds are compared.
func sameError(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	ca, okA := a.(*classError) //nolint:errorlint // identity is meant
	cb, okB := b.(*classError) //nolint:errorlint // identity is meant
	return okA && okB && ca == cb
}
