package replay_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	"github.com/conveyor-etl/conveyor/router/internal/replay"
)

// router is a broker that runs, and says who runs the stage of all letters.
type router struct {
	*replay.Broker
	t     *testing.T
	owner atomic.Value
}

// start runs a broker in the bubble of the test.
func start(t *testing.T) *router {
	r := &router{t: t}
	r.owner.Store("a")
	r.Broker = replay.New(replay.Config{
		Owner:   func(string, string) string { return r.owner.Load().(string) },
		Load:    func(_ context.Context, id uint64) (*controlv1.Letter, error) { return &controlv1.Letter{Id: id}, nil },
		Discard: func(context.Context, uint64) error { return nil },
		Logger:  slog.New(slog.DiscardHandler),
	})
	go r.Run(t.Context())
	return r
}

// replay asks for letters 1 to n.
func (r *router) replay(n uint64) []<-chan replay.Result {
	var all []<-chan replay.Result
	for id := range n {
		all = append(all, r.Replay(id+1, "ns/p", "s"))
	}
	return all
}

// serve is a sidecar that works for a time on each letter, and on as many at once as it is given.
func (r *router) serve(ctx context.Context, sidecar string, each time.Duration) {
	outcomes := make(chan *controlv1.ReplayOutcome, 1000)
	send := func(l *controlv1.Letter) error {
		time.AfterFunc(each, func() {
			outcomes <- &controlv1.ReplayOutcome{LetterId: l.GetId(), Outcome: linkv1.Outcome_OUTCOME_ACKNOWLEDGED}
		})
		return nil
	}
	recv := func() (*controlv1.ReplayOutcome, error) {
		select {
		case o := <-outcomes:
			return o, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	_ = r.Serve(ctx, sidecar, send, recv)
}

// waits checks that a letter has no result yet.
func (r *router) waits(done <-chan replay.Result) {
	r.t.Helper()
	synctest.Wait()
	select {
	case got := <-done:
		r.t.Fatalf("after %s: %+v", time.Since(began), got)
	default:
	}
}

// fails checks that a letter is given up within a time, for a reason.
func (r *router) fails(done <-chan replay.Result, within time.Duration, why string) {
	r.t.Helper()
	asked := time.Now()
	got := <-done
	if took := time.Since(asked); !strings.Contains(got.Problem, why) || took > within {
		r.t.Errorf("after %s: %+v", took, got)
	}
}

// began is when the clock of every bubble starts.
var began = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func TestReplay_LettersWaitForAStageThatIsSlowAsLongAsItTakes(t *testing.T) {
	for _, each := range []time.Duration{10 * time.Second, 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t)
			all := r.replay(256)
			go r.serve(t.Context(), "a", each)
			for i, done := range all {
				if got := <-done; got != (replay.Result{}) {
					t.Fatalf("letter %d of a stage that takes %s, after %s: %+v", i+1, each, time.Since(began), got)
				}
			}
		})
	}
}

func TestReplay_ALetterIsGivenUpWhenItsSidecarHasNoStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		done := r.replay(1)[0]
		time.Sleep(14 * time.Second)
		r.waits(done)
		r.fails(done, 3*time.Second, "takes no replays")
	})
}

func TestReplay_ALetterWaitsAnewWhenItsSidecarWentAwayOrIsAnotherOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		ctx, leave := context.WithCancel(t.Context())
		go r.serve(ctx, "a", time.Hour)
		all := r.replay(65)
		time.Sleep(time.Minute)
		// The stage moves before the stream of the one that had it ends.
		r.owner.Store("b")
		time.Sleep(5 * time.Second)
		leave()
		time.Sleep(9 * time.Second)
		for _, done := range all {
			r.waits(done)
		}
		go r.serve(t.Context(), "b", time.Second)
		for _, done := range all {
			if got := <-done; got != (replay.Result{}) {
				t.Fatalf("%+v", got)
			}
		}
	})
}

func TestReplay_ALetterDoesNotWaitForEverForASidecarThatEndsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		go r.serve(t.Context(), "a", 24*time.Hour)
		all := r.replay(65)
		time.Sleep(10 * time.Minute)
		r.waits(all[64])
		r.fails(all[64], 3*time.Second, "has ended none")
		// Those that it has may still end.
		r.waits(all[0])
		// One that comes later is given the same time.
		done := r.Replay(66, "ns/p", "s")
		time.Sleep(9 * time.Minute)
		r.waits(done)
	})
}

func TestReplay_ALetterIsGivenUpWhenNobodyRunsItsStageAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		done := r.replay(1)[0]
		r.owner.Store("")
		r.fails(done, 2*time.Second, "is not running")
	})
}
