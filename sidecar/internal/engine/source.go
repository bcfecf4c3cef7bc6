package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

// listEvery is how often a source is asked for new partitions.
const listEvery = 30 * time.Second

// maxPartitions bounds the lanes, and so the streams, of one source.
const maxPartitions = 4096

// source reads the partitions of a source, each as a lane of its own.
type source struct {
	s    *stage
	work *controlv1.ServiceWork // nil for the lane of the dead letters

	mu       sync.Mutex
	readings map[string]*reading
	done     map[string]bool // partitions that have ended or were drained
}

func newSource(s *stage, work *controlv1.ServiceWork) *source {
	return &source{s: s, work: work, readings: make(map[string]*reading), done: make(map[string]bool)}
}

func (w *source) inFlight() int {
	n := uint64(0)
	for _, r := range w.all() {
		n += r.tracker.Counts().InFlight()
	}
	return int(n)
}

func (w *source) all() []*reading {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]*reading, 0, len(w.readings))
	for _, r := range w.readings {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *reading) int { return compareStrings(a.partition, b.partition) })
	return all
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (w *source) lanes() []*controlv1.LaneStatus {
	var lanes []*controlv1.LaneStatus
	for _, r := range w.all() {
		lanes = append(lanes, r.status())
	}
	return lanes
}

// run reads until all partitions have ended, a drain stopped them, or ctx ends.
func (w *source) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	from, ok := w.beginnings(ctx)
	if !ok {
		return
	}
	if answer := from.answer; answer != nil {
		wg.Go(func() {
			if resp, ok := w.readCheckpoints(ctx); ok {
				answer <- resp
			}
		})
	}
	ended := make(chan struct{}, 1)
	again := time.NewTicker(listEvery)
	defer again.Stop()
	unknown := 0 // partitions that wait for what the routers know of them
	for failures := 0; ; {
		partitions, err := w.list(ctx)
		if ctx.Err() != nil {
			return
		}
		select {
		case <-w.s.drained:
			// Nothing new begins, so what partitions there are makes no difference.
			if unknown == 0 && w.finished() {
				w.rest(ctx)
				return
			}
		default:
		}
		var retry <-chan time.Time
		if err != nil {
			failures++
			retry = time.After(backoff(failures))
			w.s.wait(err.Error())
			if len(w.all()) == 0 {
				select {
				case <-ctx.Done():
					return
				case <-w.s.drained:
				case <-retry:
				}
				continue
			}
		} else {
			failures = 0
			fresh := 0
			unknown = 0
			for _, p := range partitions {
				if from.partial() && from.known[p] == nil {
					unknown++ // the routers may know where it was read to
					continue
				}
				fresh += w.begin(ctx, &wg, p, from, ended)
			}
			if !from.partial() {
				from.listed = true
			}
			if unknown == 0 && fresh == 0 && w.finished() {
				w.rest(ctx)
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ended:
		case resp := <-from.answer:
			from.complete(resp)
		case <-again.C:
		case <-retry:
		}
	}
}

// begin starts to read a partition, unless it is read already or has ended for good. It returns how many readings it began.
func (w *source) begin(ctx context.Context, wg *sync.WaitGroup, partition string, all *beginnings, ended chan struct{}) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.readings[partition] != nil {
		return 0
	}
	from := all.known[partition]
	beginning := all.listed && from == nil
	r := newReading(w.s, partition, from, all.resumed)
	w.readings[partition] = r
	if from.GetEnded() && from.GetGeneration() == w.s.key.generation {
		r.finishing, r.exhausted, r.closed = true, true, true
		w.done[partition] = true
		return 0
	}
	lane, cancel := context.WithCancelCause(ctx)
	r.cancel = cancel
	wg.Go(func() {
		defer cancel(nil)
		if w.read(lane, r, beginning) {
			w.mu.Lock()
			w.done[partition] = true
			w.mu.Unlock()
			signal(ended)
		}
	})
	return 1
}

// rest ends the stage, whose lanes have ended. A stage that only leaves its sidecar does not tell: it goes on elsewhere. One that is held
// tells when it is released.
func (w *source) rest(ctx context.Context) {
	for w.s.held() {
		w.s.setResting()
		select {
		case <-ctx.Done():
			return
		case <-w.s.in.ready:
		}
	}
	exhausted := len(w.all()) > 0 && w.exhausted()
	if !exhausted && !w.s.assignment().GetDrain() {
		w.s.setResting()
		select {
		case <-ctx.Done():
			return
		case <-w.s.ending:
		}
	}
	w.s.finish(ctx, exhausted)
}

func (w *source) finished() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.done) == len(w.readings)
}

// exhausted reports whether all lanes reached the ends of their partitions.
func (w *source) exhausted() bool {
	for _, r := range w.all() {
		r.mu.Lock()
		exhausted := r.exhausted
		r.mu.Unlock()
		if !exhausted {
			return false
		}
	}
	return true
}

// readCheckpoints asks the routers where to begin, until they answer.
func (w *source) readCheckpoints(ctx context.Context) (*controlv1.ReadCheckpointsResponse, bool) {
	for failures := 1; ; failures++ {
		resp, err := w.s.e.cfg.Control.ReadCheckpoints(ctx, w.s.key.pipeline, w.s.key.stage)
		if err == nil {
			return resp, true
		}
		w.s.wait("its checkpoints: " + err.Error())
		if !sleep(ctx, backoff(failures)) {
			return nil, false
		}
	}
}

// list asks the source for its partitions.
func (w *source) list(ctx context.Context) ([]string, error) {
	if w.work == nil {
		return []string{""}, nil
	}
	conn, err := w.s.dial(w.work)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	resp, err := conveyorv1.NewSourceServiceClient(conn).ListPartitions(ctx, &conveyorv1.ListPartitionsRequest{Opening: w.s.opening(w.work)})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return []string{""}, nil
	case err != nil:
		return nil, fmt.Errorf("source %s at %s: list its partitions: %w", w.s.spec.GetService(), w.work.GetAddress(), err)
	case len(resp.GetPartitions()) > maxPartitions:
		return nil, fmt.Errorf("source %s at %s: it has %d partitions, at most %d are read", w.s.spec.GetService(), w.work.GetAddress(), len(resp.GetPartitions()), maxPartitions)
	case len(resp.GetPartitions()) == 0:
		return []string{""}, nil
	}
	return resp.GetPartitions(), nil
}

// read reads a lane to its end, opening its stream again whenever it breaks. It reports whether the lane has ended; otherwise ctx has.
func (w *source) read(ctx context.Context, r *reading, beginning bool) bool {
	for failures := 0; ; {
		before := r.tracker.Next()
		var exhausted bool
		var err error
		if w.work == nil {
			exhausted, err = w.readLetters(ctx, r)
		} else {
			exhausted, err = w.pull(ctx, r, beginning)
		}
		if err == nil {
			err = r.finish(ctx, exhausted)
			if err == nil {
				r.setProblem("")
				return true
			}
		}
		if ctx.Err() != nil {
			if errors.Is(context.Cause(ctx), errFenced) {
				w.s.wait("a newer assignment: " + errFenced.Error())
			}
			return false
		}
		w.s.refusedBy(err)
		if r.tracker.Next() > before {
			failures = 0
		}
		failures++
		r.setProblem(err.Error())
		w.s.setOpen(false)
		w.s.wait(err.Error())
		// Reading goes on behind the last settled record only when nothing is in flight, so that nothing is read twice.
		if !w.pause(ctx, r, backoff(failures)) {
			return false
		}
		select {
		case <-w.s.drained:
			if err := r.finish(ctx, false); err != nil {
				return false
			}
			return true
		default:
		}
	}
}

// pause waits at least d, and until everything that was read has settled. A drain ends the first wait only.
func (w *source) pause(ctx context.Context, r *reading, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-w.s.drained:
	case <-t.C:
	}
	for !r.tracker.Idle() {
		select {
		case <-ctx.Done():
			return false
		case <-r.moved:
		}
	}
	return true
}

// wireCall makes a call keep records encoded.
func wireCall() []grpc.CallOption {
	return []grpc.CallOption{grpc.ForceCodecV2(wire.Codec{})}
}

// dialStream opens a stream whose messages keep their records encoded.
func dialStream(ctx context.Context, conn *grpc.ClientConn, method string) (grpc.ClientStream, error) {
	return conn.NewStream(ctx, &grpc.StreamDesc{StreamName: method, ClientStreams: true, ServerStreams: true}, method, wireCall()...)
}
