package lifecycle_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conveyor-etl/conveyor/internal/lifecycle"
)

// trace records what happened, in order.
type trace struct {
	mu     sync.Mutex
	events []string
}

func (tr *trace) add(event string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.events = append(tr.events, event)
}

// component takes a second to start, to end its run, and to stop.
func (tr *trace) component(name string) lifecycle.Component {
	step := func(event string) error {
		time.Sleep(time.Second)
		tr.add(event + " " + name)
		return nil
	}
	return lifecycle.Component{
		Name:  name,
		Start: func(context.Context) error { return step("start") },
		Run: func(ctx context.Context) error {
			<-ctx.Done()
			_ = step("end")
			return ctx.Err()
		},
		Stop: func(context.Context) error { return step("stop") },
	}
}

func (tr *trace) want(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(tr.events, want) {
		t.Errorf("got  %v\nwant %v", tr.events, want)
	}
}

func TestGroup_StopsInReverseOrderOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr trace
		var g lifecycle.Group
		g.Add(tr.component("store"), tr.component("api"))
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(&lifecycle.SignalError{}) })
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
		tr.want(t, "start store", "start api", "end api", "stop api", "end store", "stop store")
	})
}

func TestGroup_FirstFailureStopsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr trace
		var g lifecycle.Group
		boom := errors.New("boom")
		g.Add(tr.component("store"), lifecycle.Component{
			Name: "link",
			Run:  func(context.Context) error { time.Sleep(time.Minute); return boom },
			Stop: func(context.Context) error { return errors.New("file is gone") },
		}, tr.component("api"))
		err := g.Run(t.Context())
		if !errors.Is(err, boom) {
			t.Errorf("Run = %v, want boom", err)
		}
		if want := "link: boom\nstop link: file is gone"; err.Error() != want {
			t.Errorf("message %q, want %q", err, want)
		}
		tr.want(t, "start store", "start api", "end api", "stop api", "end store", "stop store")
	})
}

func TestGroup_FailedStartStopsWhatWasStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr trace
		var g lifecycle.Group
		g.Add(tr.component("store"), lifecycle.Component{
			Name:  "api",
			Start: func(context.Context) error { return errors.New("port is taken") },
			Stop:  func(context.Context) error { tr.add("stop api"); return nil },
		}, tr.component("scanner"))
		err := g.Run(t.Context())
		if err == nil || err.Error() != "start api: port is taken" {
			t.Errorf("Run = %v", err)
		}
		tr.want(t, "start store", "end store", "stop store")
	})
}

func TestGroup_NamesWhatDoesNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr trace
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		var g lifecycle.Group
		g.Add(tr.component("store"), lifecycle.Component{
			Name:        "stuck run",
			Run:         func(context.Context) error { cancel(); <-release; return nil },
			StopTimeout: 5 * time.Second,
		}, lifecycle.Component{
			Name: "stuck stop",
			Stop: func(context.Context) error { <-release; return nil },
		})
		begin := time.Now()
		err := g.Run(ctx)
		for _, want := range []string{"stop stuck run: still running after 5s", "stop stuck stop: still stopping after 10s"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Run = %v, want %q in it", err, want)
			}
		}
		if took := time.Since(begin); took != 18*time.Second { // 1 start + 10 + 5 + 2
			t.Errorf("took %v", took)
		}
		tr.want(t, "start store", "end store", "stop store")
		close(release)
	})
}

func TestGroup_EndsWhenTheWorkIsDone(t *testing.T) {
	finished := func(name string, ends bool) lifecycle.Component {
		return lifecycle.Component{Name: name, EndsGroup: ends, Run: func(context.Context) error { return nil }}
	}
	t.Run("the component that ends the group finishes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var tr trace
			var g lifecycle.Group
			g.Add(tr.component("api"), finished("pipelines", true))
			if err := g.Run(t.Context()); err != nil {
				t.Errorf("Run = %v", err)
			}
			tr.want(t, "start api", "end api", "stop api")
		})
	})
	t.Run("all finish", func(t *testing.T) {
		var g lifecycle.Group
		g.Add(finished("a", false), finished("b", false), lifecycle.Component{Name: "passive"})
		if err := g.Run(t.Context()); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	t.Run("one of two finishes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var tr trace
			var g lifecycle.Group
			g.Add(finished("a", false), tr.component("b"))
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			begin := time.Now()
			if err := g.Run(ctx); err != nil {
				t.Errorf("Run = %v", err)
			}
			if took := time.Since(begin); took < time.Hour {
				t.Errorf("the group ended after %v", took)
			}
		})
	})
}

func TestGroup_StopDuringStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr trace
		var g lifecycle.Group
		g.Add(tr.component("store"), lifecycle.Component{
			Name:  "join",
			Start: func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) },
		}, tr.component("api"))
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(errors.New("asked to")) })
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
		tr.want(t, "start store", "end store", "stop store")
	})
}
