package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

const (
	// judgeWithin bounds the search for an order of a history.
	judgeWithin    = 2 * time.Minute
	trafficKeys    = 3
	trafficClients = 3
	// think is how long a client waits between its questions: a history that is too long cannot be judged.
	think = 30 * time.Millisecond
)

// Traffic is clients that write and read values of a cluster of routers, and one that watches them, until End judges what they were answered.
type Traffic struct {
	t       testing.TB
	last    *client.Client
	history *History
	watch   watched

	stop, endWatch   context.CancelFunc
	clients, watcher sync.WaitGroup

	mu           sync.Mutex
	acknowledged map[uint64]string
	unknown      int
}

// StartTraffic starts clients, each with a connection of its own.
func StartTraffic(t testing.TB, seed uint64, dial func(...client.Option) *client.Client) *Traffic {
	t.Helper()
	tr := &Traffic{t: t, last: dial(), history: NewHistory(), acknowledged: map[uint64]string{}}
	var ctx, watching context.Context
	ctx, tr.stop = context.WithCancel(t.Context())
	watching, tr.endWatch = context.WithCancel(t.Context())
	for n := range trafficClients {
		c := dial(client.WithTimeout(8 * time.Second))
		random := rand.New(rand.NewPCG(seed, uint64(n)+2))
		tr.clients.Go(func() { tr.run(ctx, c, n, random) })
	}
	observer := dial()
	tr.watcher.Go(func() { tr.watch.run(watching, observer) })
	t.Cleanup(func() { // when End was not reached
		tr.stop()
		tr.endWatch()
		tr.clients.Wait()
		tr.watcher.Wait()
	})
	return tr
}

func (tr *Traffic) run(ctx context.Context, c *client.Client, n int, random *rand.Rand) {
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("k%d", random.IntN(trafficKeys))
		if random.IntN(2) == 0 {
			// A read that fails says nothing about the order of things, and users see it as such.
			_ = tr.history.Read(n, key, func() (string, error) { return Read(ctx, c, key) })
		} else {
			v := fmt.Sprintf("%d-%d", n, i)
			var revision uint64
			err := tr.history.Write(n, key, v, func() (err error) {
				revision, err = Write(ctx, c, key, v)
				return err
			})
			tr.mu.Lock()
			if err == nil {
				tr.acknowledged[revision] = key + "=" + v
			} else {
				tr.unknown++
			}
			tr.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(think):
		}
	}
}

// Acknowledged is how many writes were acknowledged.
func (tr *Traffic) Acknowledged() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return len(tr.acknowledged)
}

// GoesOn waits until some more writes were acknowledged.
func (tr *Traffic) GoesOn() {
	tr.t.Helper()
	const some = 10
	began := tr.Acknowledged()
	proc.Until(tr.t, func() string {
		if got := tr.Acknowledged() - began; got < some {
			return fmt.Sprintf("%d writes were accepted", got)
		}
		return ""
	})
}

// End ends the traffic and fails the test if an answer was not that of one router which does one thing after the other. All routers run by then, and no path is cut.
func (tr *Traffic) End() {
	tr.t.Helper()
	tr.stop()
	tr.clients.Wait()
	var final uint64
	proc.Until(tr.t, func() (said string) {
		var err error
		if final, err = Write(tr.t.Context(), tr.last, "end", "end"); err != nil {
			return err.Error()
		}
		return ""
	})
	tr.acknowledged[final] = "end=end"
	proc.Until(tr.t, func() string {
		if !tr.watch.has(final) {
			return "the watch has not seen the last change"
		}
		return ""
	})
	tr.endWatch()
	tr.watcher.Wait()
	tr.t.Logf("%d operations, %d writes acknowledged, %d with unknown outcome", tr.history.Len(), len(tr.acknowledged), tr.unknown)
	tr.watch.judge(tr.t, tr.acknowledged)
	if said := tr.history.Linearizable(judgeWithin); said != "" {
		tr.t.Error(said)
	}
}

// value is a source whose configuration carries a value.
func value(key, v string) []*dsl.Resource {
	r, diags := dsl.FromJSON(fmt.Appendf(nil, `{"apiVersion":"conveyor.etl/v1","kind":"Source","metadata":{"name":%q,"labels":{"value":%q}},"spec":{"connector":{"type":"generate"}}}`, key, v))
	if dsl.HasErrors(diags) {
		panic(fmt.Sprint(diags))
	}
	return []*dsl.Resource{r}
}

func valueOf(r *controlv1.Resource) string {
	var m struct {
		Metadata struct{ Labels struct{ Value string } }
	}
	if json.Unmarshal(r.GetManifest(), &m) != nil {
		return "unreadable"
	}
	return m.Metadata.Labels.Value
}

// Write applies a value, and returns the revision that it made.
func Write(ctx context.Context, c *client.Client, key, v string) (uint64, error) {
	applied, err := c.Apply(ctx, value(key, v), client.ApplyOptions{})
	if err != nil {
		return 0, err
	}
	return applied[0].Resource.GetRevision(), nil
}

// Read returns a value, or "" when there is none.
func Read(ctx context.Context, c *client.Client, key string) (string, error) {
	r, err := c.Get(ctx, dsl.KindSource, "default", key)
	switch {
	case errors.Is(err, client.ErrNotFound):
		return "", nil
	case err != nil:
		return "", err
	}
	return valueOf(r), nil
}

// watched is what a watcher saw, in the order in which it came.
type watched struct {
	mu     sync.Mutex
	events []client.Event
	failed error
}

func (w *watched) run(ctx context.Context, c *client.Client) {
	for e, err := range c.Watch(ctx, dsl.KindSource, "default", 0) {
		w.mu.Lock()
		if err != nil && ctx.Err() == nil {
			w.failed = err
		} else if err == nil {
			w.events = append(w.events, e)
		}
		w.mu.Unlock()
	}
}

func (w *watched) has(revision uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.events, func(e client.Event) bool { return e.Revision == revision })
}

// judge holds the watch against what watches promise: events come in the order of their revisions, none twice, none of what was acknowledged is missing, and each holds
// what was written.
func (w *watched) judge(t testing.TB, acknowledged map[uint64]string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		t.Errorf("the watch ended: %v", w.failed)
	}
	last := uint64(0)
	seen := map[uint64]string{}
	for _, e := range w.events {
		if e.Revision <= last {
			t.Errorf("revision %d was seen after %d", e.Revision, last)
		}
		last = e.Revision
		seen[e.Revision] = e.Resource.GetName() + "=" + valueOf(e.Resource)
	}
	for revision, want := range acknowledged {
		if got := seen[revision]; got != want {
			t.Errorf("at revision %d the watch saw %q, and %q was acknowledged", revision, got, want)
		}
	}
}
