// Package replay hands dead letters to the sidecars that run their stages, and takes the outcomes.
package replay

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
)

const (
	// maxInFlight bounds the letters that one sidecar replays at a time.
	maxInFlight = 64
	// maxWait is how long a letter waits for a sidecar that runs its stage but has no stream.
	maxWait = 15 * time.Second
	// maxIdle is how long one waits for a sidecar that has a stream, while that takes and ends none. A service may be away for a while, or work on one record for minutes.
	maxIdle = 10 * time.Minute
	// sweepEvery is how often waiting letters are looked at.
	sweepEvery = time.Second
	// discardTimeout bounds the removal of a letter after its record settled.
	discardTimeout = 30 * time.Second
)

// Result is what became of one letter.
type Result struct {
	// FailedAgain: a newer letter has taken its place.
	FailedAgain bool
	// Problem says why the letter was not replayed; it is kept. Empty when the record settled and the letter is gone.
	Problem string
}

// Config connects a broker with the rest of the router. All fields are required.
type Config struct {
	// Owner returns the sidecar that runs a stage of a pipeline (namespace/name), or "".
	Owner func(pipeline, stage string) string
	// Load reads a letter.
	Load func(ctx context.Context, id uint64) (*controlv1.Letter, error)
	// Discard removes a letter durably. A letter that is gone is no error.
	Discard func(ctx context.Context, id uint64) error
	Logger  *slog.Logger
}

// Broker joins those who ask for replays with the streams of sidecars. Its memory is the letters under way: when the leader is lost, they stay in the store.
type Broker struct {
	cfg Config

	mu      sync.Mutex
	waiting []*job
	handed  map[uint64]*job
	streams map[*stream]struct{}
	wake    chan struct{} // closed and replaced when something may be handed out
}

type job struct {
	id              uint64
	pipeline, stage string
	since           time.Time // when it began to wait
	seen            time.Time // when the sidecar that runs its stage was last seen to have a stream
	by              *stream   // nil while it waits
	settled         bool      // its letter is being removed
	done            chan Result
}

type stream struct {
	sidecar  string
	inFlight int
	moved    time.Time // when it last took or ended a letter
}

// New returns a broker. Run it.
func New(cfg Config) *Broker {
	return &Broker{cfg: cfg, handed: map[uint64]*job{}, streams: map[*stream]struct{}{}, wake: make(chan struct{})}
}

// Replay asks for the replay of a letter at a stage. The result comes on the channel, which has room for it: nobody needs to wait.
func (b *Broker) Replay(id uint64, pipeline, stage string) <-chan Result {
	j := &job{id: id, pipeline: pipeline, stage: stage, since: time.Now(), done: make(chan Result, 1)}
	if b.cfg.Owner(pipeline, stage) == "" {
		j.done <- Result{Problem: notRunning(j)}
		return j.done
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known(id) {
		j.done <- Result{Problem: "it is being replayed already"}
		return j.done
	}
	b.waiting = append(b.waiting, j)
	b.signal()
	return j.done
}

func notRunning(j *job) string {
	return fmt.Sprintf("stage %s of pipeline %s is not running", j.stage, j.pipeline)
}

func (b *Broker) known(id uint64) bool {
	if b.handed[id] != nil {
		return true
	}
	for _, j := range b.waiting {
		if j.id == id {
			return true
		}
	}
	return false
}

// signal wakes the streams; the caller holds mu.
func (b *Broker) signal() {
	close(b.wake)
	b.wake = make(chan struct{})
}

// Run gives up on letters that nobody can replay, until ctx ends, and then on all.
func (b *Broker) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			b.sweep(func(*job) string { return "the router is stopping" })
			return
		case <-tick.C:
			b.sweep(b.hopeless)
		}
	}
}

// hopeless says why a letter need not wait any longer; the caller holds mu. A sidecar that has all it can replay at a time is no reason, however long each takes.
func (b *Broker) hopeless(j *job) string {
	owner := b.cfg.Owner(j.pipeline, j.stage)
	if owner == "" {
		return notRunning(j)
	}
	now, idle := time.Now(), true
	for s := range b.streams {
		if s.sidecar == owner {
			j.seen = now
			idle = idle && now.Sub(later(j.since, s.moved)) > maxIdle
		}
	}
	switch {
	case now.Sub(later(j.since, j.seen)) > maxWait:
		return fmt.Sprintf("the sidecar that runs stage %s of pipeline %s takes no replays", j.stage, j.pipeline)
	case j.seen.Equal(now) && idle:
		return fmt.Sprintf("the sidecar that runs stage %s of pipeline %s has ended none of the letters that it replays for %s", j.stage, j.pipeline, maxIdle)
	}
	return ""
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (b *Broker) sweep(problem func(*job) string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := b.waiting[:0]
	for _, j := range b.waiting {
		if p := problem(j); p != "" {
			j.done <- Result{Problem: p}
		} else {
			kept = append(kept, j)
		}
	}
	clear(b.waiting[len(kept):])
	b.waiting = kept
}

// Serve works on the stream of one sidecar until ctx ends or the stream breaks. Letters without an outcome wait again then.
func (b *Broker) Serve(ctx context.Context, sidecar string, send func(*controlv1.Letter) error, recv func() (*controlv1.ReplayOutcome, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &stream{sidecar: sidecar}
	b.mu.Lock()
	b.streams[s] = struct{}{}
	b.mu.Unlock()
	defer b.drop(s)
	go func() { // ends with the stream, which ends when the handler returns
		for {
			o, err := recv()
			if err != nil {
				cancel(err)
				return
			}
			if o != nil {
				b.outcome(s, o)
			}
		}
	}()
	for {
		b.mu.Lock()
		wake := b.wake
		j := b.next(s)
		b.mu.Unlock()
		if j == nil {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-wake:
			}
			continue
		}
		letter, err := b.cfg.Load(ctx, j.id)
		if ctx.Err() != nil {
			return context.Cause(ctx) // the letter waits for the next stream: that this one broke is not its fault
		}
		if err != nil {
			b.finish(s, j, Result{Problem: err.Error()})
			continue
		}
		if err := send(letter); err != nil {
			return err
		}
	}
}

// next takes a letter for the stream; the caller holds mu.
func (b *Broker) next(s *stream) *job {
	if s.inFlight >= maxInFlight {
		return nil
	}
	for i, j := range b.waiting {
		if b.cfg.Owner(j.pipeline, j.stage) == s.sidecar {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			j.by = s
			s.inFlight++
			s.moved = time.Now()
			b.handed[j.id] = j
			return j
		}
	}
	return nil
}

func (b *Broker) outcome(s *stream, o *controlv1.ReplayOutcome) {
	b.mu.Lock()
	j := b.handed[o.GetLetterId()]
	b.mu.Unlock()
	if j == nil || j.by != s {
		return
	}
	switch {
	case o.GetProblem() != "":
		b.finish(s, j, Result{Problem: o.GetProblem()})
		return
	case o.GetOutcome() == linkv1.Outcome_OUTCOME_UNSPECIFIED && o.GetFailedAgain() == 0:
		b.finish(s, j, Result{Problem: "the sidecar did not say how the record ended"})
		return
	}
	b.mu.Lock()
	j.settled = true
	b.mu.Unlock()
	// The record settled, so the letter goes whether or not somebody still waits for that.
	ctx, cancel := context.WithTimeout(context.Background(), discardTimeout)
	defer cancel()
	r := Result{FailedAgain: o.GetFailedAgain() != 0 || o.GetOutcome() == linkv1.Outcome_OUTCOME_DEAD}
	if err := b.cfg.Discard(ctx, j.id); err != nil {
		b.cfg.Logger.Warn("dead letter stays although its record settled", "letter", j.id, "err", err)
		r = Result{Problem: fmt.Sprintf("its record settled, but the letter could not be removed: %v", err)}
	}
	b.finish(s, j, r)
}

func (b *Broker) finish(s *stream, j *job, r Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.handed[j.id] != j || j.by != s {
		return
	}
	delete(b.handed, j.id)
	s.inFlight--
	s.moved = time.Now()
	j.done <- r
	b.signal()
}

// drop lets the letters of a broken stream wait for the next one.
func (b *Broker) drop(s *stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.streams, s)
	for id, j := range b.handed {
		if j.by == s && !j.settled {
			delete(b.handed, id)
			j.by, j.since = nil, time.Now()
			b.waiting = append(b.waiting, j)
		}
	}
	b.signal()
}
