package api

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/conveyor-etl/conveyor/dlq"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router/internal/letters"
	"github.com/conveyor-etl/conveyor/router/internal/replay"
)

const (
	maxLettersPerStore = 5000
	maxFilterIDs       = 100_000
	discardBatch       = 1000
	// replayWindow bounds the letters of one ReplayLetters that are under way at a time.
	replayWindow  = 256
	progressEvery = 250 * time.Millisecond
	// openTimeout bounds how long a replay waits until pipelines that had completed run again.
	openTimeout = 15 * time.Second
)

// StoreDeadLetters implements controlv1.SidecarCoordinatorServer. The letters are on stable storage when this returns.
func (c *coordinator) StoreDeadLetters(ctx context.Context, req *controlv1.StoreDeadLettersRequest) (*controlv1.StoreDeadLettersResponse, error) {
	if err := c.session(req.GetSession()); err != nil {
		return nil, err
	}
	if n := len(req.GetLetters()); n == 0 || n > maxLettersPerStore {
		return nil, invalid("%d letters are to be stored, want 1 to %d", n, maxLettersPerStore)
	}
	store := make([]dlq.Letter, 0, len(req.GetLetters()))
	for _, l := range req.GetLetters() {
		if l.GetNamespace() == "" || l.GetPipeline() == "" || l.GetStage() == "" {
			return nil, invalid("a letter names no namespace, pipeline or stage")
		}
		converted, err := letters.ToStore(l)
		if err != nil {
			return nil, invalid("%v", err)
		}
		store = append(store, converted)
	}
	results, err := c.Letters.Append(ctx, store)
	if err != nil {
		return nil, toWire(err)
	}
	resp := &controlv1.StoreDeadLettersResponse{}
	for _, r := range results {
		resp.Results = append(resp.Results, &controlv1.StoredLetter{Id: r.ID, Duplicate: r.Duplicate})
	}
	return resp, nil
}

type deadLetters struct {
	controlv1.UnimplementedDeadLetterServiceServer
	Config
}

// selection is a checked filter.
type selection struct {
	query dlq.Query
	ids   []uint64
}

func selectLetters(f *controlv1.LetterFilter) (*selection, error) {
	if f.GetNamespace() == "" && !f.GetAllNamespaces() {
		return nil, invalid("a filter of dead letters needs a namespace, or all namespaces")
	}
	if f.GetNamespace() != "" && f.GetAllNamespaces() {
		return nil, invalid("a filter of dead letters has a namespace and all namespaces")
	}
	if len(f.GetIds()) > maxFilterIDs {
		return nil, fail(codes.ResourceExhausted, reasonLimitExceeded, "a filter of dead letters has %d ids, at most %d are taken", len(f.GetIds()), maxFilterIDs)
	}
	s := &selection{query: dlq.Query{Namespace: f.GetNamespace(), Pipeline: f.GetPipeline(), Stage: f.GetStage()}, ids: slices.Clone(f.GetIds())}
	slices.Sort(s.ids)
	s.ids = slices.Compact(s.ids)
	if code := f.GetCode(); code != "" {
		s.query.Match = func(l *dlq.Letter) bool { return l.Code == code }
	}
	return s, nil
}

// takes applies the query to a letter that was read by its id.
func (s *selection) takes(l *dlq.Letter) bool {
	q := &s.query
	return (q.Namespace == "" || q.Namespace == l.Namespace) && (q.Pipeline == "" || q.Pipeline == l.Pipeline) &&
		(q.Stage == "" || q.Stage == l.Stage) && (q.Match == nil || q.Match(l))
}

// each calls do for the selected letters in the order of their ids, until it returns false. A damaged letter comes with corrupt set.
func (d *deadLetters) each(ctx context.Context, s *selection, do func(l *dlq.Letter, corrupt *dlq.CorruptError) (bool, error)) error {
	visit := func(l dlq.Letter, err error) (bool, error) {
		var corrupt *dlq.CorruptError
		if errors.As(err, &corrupt) {
			return do(&l, corrupt)
		}
		if err != nil {
			return false, err
		}
		return do(&l, nil)
	}
	if len(s.ids) == 0 {
		for l, err := range d.Letters.List(ctx, s.query) {
			if more, err := visit(l, err); err != nil || !more {
				return err
			}
		}
		return nil
	}
	for _, id := range s.ids {
		if id <= s.query.After {
			continue
		}
		l, err := d.Letters.Get(ctx, id)
		if err == nil && !s.takes(&l) {
			err = dlq.ErrNotFound
		}
		if errors.Is(err, dlq.ErrNotFound) {
			return fail(codes.NotFound, reasonNotFound, "there is no dead letter %d that the filter selects", id)
		}
		if more, err := visit(l, err); err != nil || !more {
			return err
		}
	}
	return nil
}

// selected collects the ids of the selected letters, and the stages of their pipelines (namespace/name).
func (d *deadLetters) selected(ctx context.Context, f *controlv1.LetterFilter) (ids []uint64, stages map[string][]string, err error) {
	s, err := selectLetters(f)
	if err != nil {
		return nil, nil, err
	}
	stages = map[string][]string{}
	err = d.each(ctx, s, func(l *dlq.Letter, corrupt *dlq.CorruptError) (bool, error) {
		if corrupt != nil {
			// Whose a damaged letter is cannot be told; it goes only by its id.
			if slices.Contains(s.ids, corrupt.ID) {
				ids = append(ids, corrupt.ID)
			}
			return true, nil
		}
		ids = append(ids, l.ID)
		if name := l.Namespace + "/" + l.Pipeline; !slices.Contains(stages[name], l.Stage) {
			stages[name] = append(stages[name], l.Stage)
		}
		return true, nil
	})
	return ids, stages, toWire(err)
}

// ListLetters implements controlv1.DeadLetterServiceServer. A damaged letter is listed with its id and the code LETTER_CORRUPT.
func (d *deadLetters) ListLetters(req *controlv1.ListLettersRequest, stream grpc.ServerStreamingServer[controlv1.ListLettersResponse]) error {
	s, err := selectLetters(req.GetFilter())
	if err != nil {
		return err
	}
	ctx, cancel := d.streamContext(stream.Context())
	defer cancel()
	s.query.After = req.GetAfter()
	left := req.GetLimit()
	err = d.each(ctx, s, func(l *dlq.Letter, corrupt *dlq.CorruptError) (bool, error) {
		letter, err := wireLetter(l, corrupt)
		if err != nil {
			return false, err
		}
		if err := stream.Send(&controlv1.ListLettersResponse{Letter: letter}); err != nil {
			return false, err
		}
		left--
		return req.GetLimit() == 0 || left > 0, nil
	})
	return toWire(err)
}

func wireLetter(l *dlq.Letter, corrupt *dlq.CorruptError) (*controlv1.Letter, error) {
	if corrupt != nil {
		return letters.Corrupt(corrupt), nil
	}
	return letters.FromStore(l)
}

// GetLetter implements controlv1.DeadLetterServiceServer.
func (d *deadLetters) GetLetter(ctx context.Context, req *controlv1.GetLetterRequest) (*controlv1.GetLetterResponse, error) {
	l, err := d.Letters.Get(ctx, req.GetId())
	if err != nil {
		return nil, toWire(err)
	}
	letter, err := letters.FromStore(&l)
	if err != nil {
		return nil, toWire(err)
	}
	return &controlv1.GetLetterResponse{Letter: letter}, nil
}

// DiscardLetters implements controlv1.DeadLetterServiceServer.
func (d *deadLetters) DiscardLetters(ctx context.Context, req *controlv1.DiscardLettersRequest) (*controlv1.DiscardLettersResponse, error) {
	if req.GetCommand().GetClientSession() != 0 {
		return nil, notAvailable("recognising a repeated discard: discarding again what is gone is harmless")
	}
	ids, _, err := d.selected(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	for part := range slices.Chunk(ids, discardBatch) {
		// One that is gone meanwhile is what was asked for.
		if err := d.Letters.Discard(ctx, part...); err != nil && !errors.Is(err, dlq.ErrNotFound) {
			return nil, toWire(err)
		}
	}
	return &controlv1.DiscardLettersResponse{Discarded: uint64(len(ids))}, nil
}

// ReplayLetters implements controlv1.DeadLetterServiceServer. Pipelines that had completed run for as long as it takes. When the caller goes away, letters
// that were handed out are still finished.
func (d *deadLetters) ReplayLetters(req *controlv1.ReplayLettersRequest, stream grpc.ServerStreamingServer[controlv1.ReplayLettersResponse]) error {
	ctx, cancel := d.streamContext(stream.Context())
	defer cancel()
	ids, stages, err := d.selected(ctx, req.GetFilter())
	if err != nil {
		return err
	}
	progress := &controlv1.ReplayLettersResponse{Selected: uint64(len(ids))}
	if err := stream.Send(progress); err != nil {
		return err
	}
	release, err := d.hold(ctx, stages)
	var handedOut sync.WaitGroup
	defer func() {
		go func() { // ends with the letters
			handedOut.Wait()
			release()
		}()
	}()
	if err != nil {
		return toWire(err)
	}
	type finished struct {
		id     uint64
		result replay.Result
	}
	results := make(chan finished, replayWindow)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	dirty := false
	for next, underWay := 0, 0; next < len(ids) || underWay > 0; {
		for next < len(ids) && underWay < replayWindow {
			id := ids[next]
			next++
			underWay++
			done, problem := d.replay(ctx, id)
			if problem != "" {
				results <- finished{id, replay.Result{Problem: problem}}
				continue
			}
			handedOut.Go(func() { // ends with the letter, at the latest when the broker stops
				results <- finished{id, <-done}
			})
		}
		select {
		case <-ctx.Done():
			return d.stopped(ctx)
		case f := <-results:
			underWay--
			dirty = true
			switch {
			case f.result.Problem != "":
				progress.Problems = append(progress.Problems, &controlv1.ReplayProblem{LetterId: f.id, Message: f.result.Problem})
			case f.result.FailedAgain:
				progress.FailedAgain++
			default:
				progress.Settled++
			}
			continue
		case <-tick.C:
		}
		if dirty {
			if err := stream.Send(progress); err != nil {
				return err
			}
			// Each problem is told once.
			progress.Problems, dirty = nil, false
		}
	}
	progress.Done = true
	return stream.Send(progress)
}

// hold lets pipelines that had completed run until release is called, which is never nil.
func (d *deadLetters) hold(ctx context.Context, stages map[string][]string) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var releases []func()
	var errs []error
	for name, of := range stages {
		wg.Go(func() {
			release, err := d.Controller.Hold(ctx, name, of)
			mu.Lock()
			defer mu.Unlock()
			releases, errs = append(releases, release), append(errs, err)
		})
	}
	wg.Wait()
	return func() {
		for _, release := range releases {
			release()
		}
	}, errors.Join(errs...)
}

// replay hands a letter to the broker, or says why not.
func (d *deadLetters) replay(ctx context.Context, id uint64) (<-chan replay.Result, string) {
	l, err := d.Letters.Get(ctx, id)
	if err != nil {
		return nil, err.Error()
	}
	return d.Broker.Replay(id, l.Namespace+"/"+l.Pipeline, l.Stage), ""
}
