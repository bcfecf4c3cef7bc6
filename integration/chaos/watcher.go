package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
)

// watcher watches the values whose names begin with prefix, behind a revision.
type watcher struct {
	client *client.Client
	prefix string

	mu     sync.Mutex
	saw    Watching
	failed error
}

// run watches until it has seen a revision, or with 0 until ctx ends.
func (w *watcher) run(ctx context.Context, through uint64) {
	for e, err := range w.client.Watch(ctx, dsl.KindSource, "default", w.saw.After) {
		if w.take(ctx, e, err); through > 0 && e.Revision >= through {
			return
		}
	}
}

func (w *watcher) take(ctx context.Context, e client.Event, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil && ctx.Err() == nil:
		w.failed = err
	case err == nil && strings.HasPrefix(e.Resource.GetName(), w.prefix):
		w.saw.Seen = append(w.saw.Seen, Seen{
			Revision: e.Revision, ResumeAfter: e.ResumeAfter, Name: e.Resource.GetName(), Value: valueOf(e.Resource), Made: e.Resource.GetRevision(), Deleted: e.Deleted,
		})
	}
}

func (w *watcher) has(revision uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.saw.Seen, func(e Seen) bool { return e.Revision == revision })
}

// recent returns the last changes that were seen, so many at most.
func (w *watcher) recent(most int) []Seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.saw.Seen[max(0, len(w.saw.Seen)-most):])
}

const (
	// back is how many changes a watch that begins again may begin behind the last one.
	back = 500
	// restFor is how long it waits at most before it does so once more.
	restFor = 300 * time.Millisecond
)

// resumer begins a watch again and again where another one was before, and lets each come to where that one is by then.
type resumer struct {
	client *client.Client
	first  *watcher
	random *rand.Rand
	// saw is what those saw that have ended, compacted how many of them began too far back for what a router remembers. They belong to the goroutine of run until that has ended.
	saw       []Watching
	compacted int
	failed    error

	mu sync.Mutex
	// waits is what the present one waits for, and ended whether there is none and will be none.
	waits string
	ended bool
}

// run begins watches until stop is closed, and one at least. The present one then goes on to where it must come. All end with ctx.
func (r *resumer) run(ctx context.Context, stop <-chan struct{}) {
	defer r.tell("", true)
	for ctx.Err() == nil {
		select {
		case <-stop:
			if len(r.saw) > 0 {
				return
			}
		default:
		}
		rest, part, behind := time.Duration(r.random.Int64N(int64(restFor))), r.random.Float64(), r.random.IntN(2) == 0
		select {
		case <-ctx.Done():
		case <-time.After(rest):
		}
		if seen := r.first.recent(back); len(seen) > 0 {
			at := seen[int(part*float64(len(seen)))]
			after := at.ResumeAfter
			if behind {
				after = at.Revision
			}
			r.watch(ctx, after, seen[len(seen)-1])
		}
	}
}

// watch begins behind a revision, or before the last change that is there, and goes on until it has seen that.
func (r *resumer) watch(ctx context.Context, after uint64, last Seen) {
	after = min(after, last.ResumeAfter)
	r.tell(fmt.Sprintf("a watch that began behind revision %d has not come to %d", after, last.Revision), false)
	w := watcher{client: r.client, prefix: r.first.prefix, saw: Watching{After: after}}
	w.run(ctx, last.Revision)
	if errors.Is(w.failed, client.ErrRevisionCompacted) {
		r.compacted++
	} else {
		r.failed = errors.Join(r.failed, w.failed)
	}
	r.saw = append(r.saw, w.saw)
}

func (r *resumer) tell(waits string, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits, r.ended = waits, ended
}

// missing is what it has not seen yet, or "" when it has ended.
func (r *resumer) missing() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return ""
	}
	return cmp.Or(r.waits, "no watch began again")
}
