package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

var leaderKills = flag.Int("leaderkills", 20, "how often the leader is killed")

const (
	// judgeWithin bounds the search for an order of a history.
	judgeWithin = 2 * time.Minute
	historyKeys = 3
	writers     = 3
	// think is how long a client waits between its questions: a history that is too long cannot be judged.
	think = 30 * time.Millisecond
)

// routers is a cluster of three and a client of all of them.
type routers struct {
	t       *testing.T
	cluster proc.Cluster
	client  *client.Client
}

func startRouters(t *testing.T) *routers {
	t.Helper()
	r := &routers{t: t, cluster: proc.NewCluster(t, 3)}
	r.cluster.Start()
	r.client = r.dial()
	return r
}

func (r *routers) dial(opts ...client.Option) *client.Client {
	r.t.Helper()
	c, err := client.Dial(r.t.Context(), strings.Split(r.cluster.Addr(), ","), opts...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// leader is the router that leads.
func (r *routers) leader() *proc.Router {
	r.t.Helper()
	var found *proc.Router
	proc.Until(r.t, func() string {
		info, err := r.client.Cluster(r.t.Context())
		if err != nil {
			return err.Error()
		}
		for _, s := range info.GetServers() {
			for _, router := range r.cluster {
				if s.GetId() == info.GetLeaderId() && s.GetAddress() == router.Addr() && router.Running() {
					found = router
					return ""
				}
			}
		}
		return "no router leads"
	})
	return found
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

// write applies a value, and returns the revision that it made.
func write(ctx context.Context, c *client.Client, key, v string) (uint64, error) {
	applied, err := c.Apply(ctx, value(key, v), client.ApplyOptions{})
	if err != nil {
		return 0, err
	}
	return applied[0].Resource.GetRevision(), nil
}

func read(ctx context.Context, c *client.Client, key string) (string, error) {
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
func (w *watched) judge(t *testing.T, acknowledged map[uint64]string) {
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

// TestCluster_AnswersAreThoseOfOneRouterWhateverFails lets clients write and read while routers are killed and paused.
func TestCluster_AnswersAreThoseOfOneRouterWhateverFails(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("go test ./chaos -run %s -minutes=%v -seed=%d", t.Name(), *minutes, *seed)
	random := rand.New(rand.NewPCG(*seed, 1))
	r := startRouters(t)
	h := chaos.NewHistory()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg, watcher sync.WaitGroup
	var mu sync.Mutex
	acknowledged := map[uint64]string{}
	refused := 0
	for n := range writers {
		// Each has its own client, and with it its own session.
		c := r.dial(client.WithTimeout(8 * time.Second))
		own := rand.New(rand.NewPCG(*seed, uint64(n)+2))
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("k%d", own.IntN(historyKeys))
				if own.IntN(2) == 0 {
					_ = h.Read(n, key, func() (string, error) { return read(ctx, c, key) })
				} else {
					v := fmt.Sprintf("%d-%d", n, i)
					var revision uint64
					err := h.Write(n, key, v, func() (err error) {
						revision, err = write(ctx, c, key, v)
						return err
					})
					mu.Lock()
					if err == nil {
						acknowledged[revision] = key + "=" + v
					} else {
						refused++
					}
					mu.Unlock()
				}
				select {
				case <-ctx.Done():
				case <-time.After(think):
				}
			}
		})
	}
	w := &watched{}
	watching, endWatch := context.WithCancel(t.Context())
	defer endWatch()
	observer := r.dial()
	watcher.Go(func() { w.run(watching, observer) })

	faults := 0
	for until := time.Now().Add(time.Duration(*minutes * float64(time.Minute))); time.Now().Before(until); faults++ {
		victim, name := r.cluster[random.IntN(3)], "a router"
		if random.IntN(2) == 0 {
			victim, name = r.leader(), "the leader"
		}
		down := time.Duration(500+random.IntN(2500)) * time.Millisecond
		if random.IntN(3) > 0 {
			t.Logf("kill %s, back after %v", name, down)
			victim.Kill()
			pass(t, down)
			victim.Start()
		} else {
			t.Logf("pause %s for %v", name, down)
			victim.Pause()
			pass(t, down)
			victim.Resume()
		}
		pass(t, time.Duration(random.IntN(2000))*time.Millisecond)
	}
	stop()
	wg.Wait()
	for _, router := range r.cluster {
		router.AwaitReady()
	}
	final, err := write(t.Context(), r.client, "end", "end")
	if err != nil {
		t.Fatal(err)
	}
	acknowledged[final] = "end=end"
	proc.Until(t, func() string {
		if !w.has(final) {
			return "the watch has not seen the last change"
		}
		return ""
	})
	endWatch()
	watcher.Wait()
	t.Logf("%d faults, %d operations, %d writes acknowledged, %d with unknown outcome", faults, h.Len(), len(acknowledged), refused)
	if len(acknowledged) < faults*3 {
		t.Errorf("only %d writes were acknowledged: the run proves nothing", len(acknowledged))
	}
	w.judge(t, acknowledged)
	if said := h.Linearizable(judgeWithin); said != "" {
		t.Error(said)
	}
}

func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// TestCluster_AWriteIsAcceptedSoonAfterTheLeaderIsKilled measures what users notice of it.
func TestCluster_AWriteIsAcceptedSoonAfterTheLeaderIsKilled(t *testing.T) {
	r := startRouters(t)
	var took []time.Duration
	for n := range *leaderKills {
		lost := r.leader()
		lost.Kill()
		began := time.Now()
		proc.Until(t, func() string {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, err := write(ctx, r.client, "k", fmt.Sprint(n)); err != nil {
				return err.Error()
			}
			return ""
		})
		took = append(took, time.Since(began))
		lost.Start()
		lost.AwaitReady()
	}
	slices.Sort(took)
	t.Logf("%d times, from the kill to the first accepted write: median %v, p99 %v, longest %v",
		len(took), took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	if got, err := read(t.Context(), r.client, "k"); err != nil || got != fmt.Sprint(*leaderKills-1) {
		t.Errorf("the last value is %q, %v", got, err)
	}
}

// TestCluster_APausedLeaderAnswersNothingOld asks a leader that is paused, while another one takes over: what it answers when it goes on must not be what was true before.
func TestCluster_APausedLeaderAnswersNothingOld(t *testing.T) {
	const rounds, readers = 5, 64
	r := startRouters(t)
	for n := range rounds {
		old, want := fmt.Sprint("old-", n), fmt.Sprint("new-", n)
		if _, err := write(t.Context(), r.client, "k", old); err != nil {
			t.Fatal(err)
		}
		paused := r.leader()
		at, others := r.apart(paused)
		// The connection stands before the pause.
		if got, err := read(t.Context(), at, "k"); err != nil || got != old {
			t.Fatalf("%q, %v", got, err)
		}
		paused.Pause()
		proc.Until(t, func() string {
			if _, err := write(t.Context(), others, "k", want); err != nil {
				return err.Error()
			}
			return ""
		})
		var wg sync.WaitGroup
		for range readers {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				if got, err := read(ctx, at, "k"); err == nil && got != want {
					t.Errorf("round %d: the leader that was paused answers %q, and %q was acknowledged before it was asked", n, got, want)
				}
			})
		}
		pass(t, 200*time.Millisecond) // until the questions lie at its door
		paused.Resume()
		wg.Wait()
		paused.AwaitReady()
	}
}

// apart returns a client of one router, and one of the others.
func (r *routers) apart(one *proc.Router) (of, others *client.Client) {
	r.t.Helper()
	var rest []string
	for _, router := range r.cluster {
		if router != one {
			rest = append(rest, router.Addr())
		}
	}
	dial := func(targets ...string) *client.Client {
		c, err := client.Dial(r.t.Context(), targets, client.WithTimeout(20*time.Second))
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { c.Close() })
		return c
	}
	return dial(one.Addr()), dial(rest...)
}
