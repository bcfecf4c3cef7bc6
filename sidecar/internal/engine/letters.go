package engine

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/dispatch"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// The size of one call that stores letters.
const (
	maxLetters     = 256
	maxLetterBytes = 2 << 20
)

// burial is what follows when a letter is durable.
type burial struct {
	// batch and index are the record, which settles as dead.
	batch *flow.Batch
	index int
	lane  *flow.Lane
	stage *stage
	// then is called after the record has settled, if not nil; it must not block.
	then func()
}

type grave struct {
	letter *controlv1.Letter
	size   int
	burial burial
}

// undertaker stores dead letters and settles their records once they are durable: acknowledged only after the store has them. While the
// store cannot take them they wait, and with them the credit that their records hold.
type undertaker struct {
	control Control
	log     *slog.Logger
	wake    chan struct{}

	mu      sync.Mutex
	waiting []grave
	fault   string
}

func newUndertaker(control Control, log *slog.Logger) *undertaker {
	return &undertaker{control: control, log: log, wake: make(chan struct{}, 1)}
}

// bury takes a letter. It does not block.
func (u *undertaker) bury(l *controlv1.Letter, b burial) {
	b.stage.failed.Add(1)
	b.stage.burying.Add(1)
	u.mu.Lock()
	u.waiting = append(u.waiting, grave{l, l.SizeVT(), b})
	u.mu.Unlock()
	signal(u.wake)
}

// buryPaid takes a letter that no edge pays for: it waits until the stage's letters leave room.
func (s *stage) buryPaid(ctx context.Context, l *controlv1.Letter, b burial) error {
	size := int64(l.SizeVT())
	if err := s.graves.Acquire(ctx, 1, size); err != nil {
		return fmt.Errorf("wait for the dead letters of stage %s: %w", s.key.stage, err)
	}
	b.then = func() { s.graves.Release(1, size) }
	s.e.letters.bury(l, b)
	return nil
}

// problem says that letters of a stage wait because the store does not take them.
func (u *undertaker) problem(k key) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fault == "" {
		return ""
	}
	for _, g := range u.waiting {
		if g.burial.stage.key == k {
			return "the dead-letter store: " + u.fault
		}
	}
	return ""
}

func (u *undertaker) run(ctx context.Context) {
	most := maxLetters
	for failures := 0; ; {
		batch := u.next(most)
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-u.wake:
				continue
			}
		}
		letters := make([]*controlv1.Letter, len(batch))
		for i, g := range batch {
			letters[i] = g.letter
		}
		stored, err := u.control.StoreDeadLetters(ctx, letters)
		if ctx.Err() != nil {
			return
		}
		if err == nil && len(stored) != len(letters) {
			err = fmt.Errorf("the store answered for %d of %d letters", len(stored), len(letters))
		}
		if err != nil {
			failures++
			u.mu.Lock()
			u.fault = err.Error()
			// One letter that the store can never take must not keep the others from it: they are tried in ever smaller company, and who
			// fails alone goes to the end of the queue.
			if most = max(1, len(batch)/2); len(batch) == 1 {
				u.waiting = append(u.waiting[1:], batch[0])
			}
			u.mu.Unlock()
			u.log.Warn("dead letters wait", "letters", len(batch), "err", err)
			if !sleep(ctx, backoff(failures)) {
				return
			}
			continue
		}
		failures = 0
		most = min(2*most, maxLetters)
		u.mu.Lock()
		u.fault = ""
		u.waiting = slices.Delete(u.waiting, 0, len(batch))
		u.mu.Unlock()
		for i, g := range batch {
			if r := g.burial.lane.Replay; r != nil {
				r.Letter.Store(stored[i].GetId())
			}
			// I6: dead once the letter is durable.
			g.burial.batch.Settle(g.burial.index, g.burial.index+1, flow.Dead)
			g.burial.stage.burying.Add(-1)
			if g.burial.then != nil {
				g.burial.then()
			}
		}
	}
}

// next returns the letters of the next call; they stay in the queue until they are stored.
func (u *undertaker) next(most int) []grave {
	u.mu.Lock()
	defer u.mu.Unlock()
	n, size := 0, 0
	for n < len(u.waiting) && n < most && (n == 0 || size+u.waiting[n].size <= maxLetterBytes) {
		size += u.waiting[n].size
		n++
	}
	return append([]grave(nil), u.waiting[:n]...)
}

// letter makes the dead letter of a record that failed at a stage.
func (s *stage) letter(b *flow.Batch, record []byte, at, edge string, f dispatch.Failure, attempts []dispatch.Attempt) *controlv1.Letter {
	namespace, name, _ := strings.Cut(s.key.pipeline, "/")
	l := &controlv1.Letter{
		Record: &conveyorv1.Record{}, Namespace: namespace, Pipeline: name, Generation: s.key.generation, Stage: at, Edge: edge,
		Source: b.Lane.Source, Partition: b.Lane.Partition, Class: classes[f.Class], Code: f.Code, Message: f.Message, Service: s.spec.GetService(),
	}
	if b.Lane.Replay != nil {
		l.Replays = b.Lane.Replay.Count
	}
	if err := l.Record.UnmarshalVT(record); err != nil {
		l.Record = &conveyorv1.Record{Payload: append([]byte(nil), record...), ContentType: "application/octet-stream"}
		l.Message += " (the record itself cannot be decoded: " + err.Error() + ")"
	}
	for _, a := range attempts {
		l.Attempts = append(l.Attempts, &controlv1.Attempt{At: timestamppb.New(a.At), Code: a.Code, Message: a.Message})
	}
	if len(attempts) == 0 {
		l.Attempts = []*controlv1.Attempt{{At: timestamppb.Now(), Code: f.Code, Message: f.Message}}
	}
	return l
}

var classes = map[dispatch.Class]conveyorv1.FailureClass{
	dispatch.Retryable:   conveyorv1.FailureClass_FAILURE_CLASS_RETRYABLE,
	dispatch.Permanent:   conveyorv1.FailureClass_FAILURE_CLASS_PERMANENT,
	dispatch.Unavailable: conveyorv1.FailureClass_FAILURE_CLASS_UNAVAILABLE,
	dispatch.NotTried:    conveyorv1.FailureClass_FAILURE_CLASS_NOT_TRIED,
}

// backoff returns the wait after n failures in a row of something that is not about a record: full jitter up to 5 s.
func backoff(n int) time.Duration {
	limit := min(100*time.Millisecond<<min(n-1, 10), 5*time.Second)
	return limit/10 + rand.N(limit)
}

// sleep waits, and reports false when ctx ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
