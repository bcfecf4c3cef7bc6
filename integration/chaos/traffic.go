package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
	trafficClients = 3
	// trafficKeys are written one by one, and trafficTogether all at once.
	trafficKeys     = 3
	trafficTogether = 3
	// think is how long a client waits between its questions: a history that is too long cannot be judged.
	think = 30 * time.Millisecond
)

// Traffic is clients that write, delete and read values of a cluster of routers and store dead letters there, and others that watch the values, until End judges what they were
// answered.
type Traffic struct {
	t       testing.TB
	name    string
	last    *client.Client
	history *History
	letters letters
	watch   watcher
	again   *resumer

	stop, endWatch    context.CancelFunc
	clients, watchers sync.WaitGroup

	mu    sync.Mutex
	asked []Asked
	// acknowledged is how many of these were, and unknown how many may have been made or not.
	acknowledged, unknown int
}

// Dial returns a client of the routers that a traffic is for.
type Dial func(...client.Option) *client.Client

// StartTraffic starts clients, each with a connection of its own: a sidecar that stores letters, and others. A name is for one traffic of a cluster.
func StartTraffic(t testing.TB, name string, seed uint64, dial, sidecar Dial) *Traffic {
	t.Helper()
	tr := &Traffic{t: t, name: name, last: dial(), history: NewHistory(), letters: letters{pipeline: name}}
	begin := tr.mark("begin")
	tr.watch = watcher{client: dial(), prefix: name + "-", saw: Watching{After: begin}}
	tr.again = &resumer{client: dial(), first: &tr.watch, random: Generator(seed, "watches of "+name)}
	var ctx, watching context.Context
	ctx, tr.stop = context.WithCancel(t.Context())
	watching, tr.endWatch = context.WithCancel(t.Context())
	for n := range trafficClients {
		c := &asker{tr: tr, n: n, client: dial(client.WithTimeout(8 * time.Second)), random: Generator(seed, fmt.Sprintf("client %d of %s", n, name))}
		tr.clients.Go(func() { c.run(ctx) })
	}
	writer := sidecar(client.WithTimeout(8 * time.Second))
	tr.clients.Go(func() { tr.letters.run(ctx, writer) })
	tr.watchers.Go(func() { tr.watch.run(watching, 0) })
	tr.watchers.Go(func() { tr.again.run(watching, ctx.Done()) })
	t.Cleanup(func() { // when End was not reached
		tr.stop()
		tr.endWatch()
		tr.clients.Wait()
		tr.watchers.Wait()
	})
	return tr
}

// note keeps what a client asked for, and what it was answered.
func (tr *Traffic) note(a Asked, err error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	switch a.Acknowledged = err == nil; {
	case err == nil:
		tr.acknowledged++
	case errors.Is(err, ErrRefused), errors.Is(err, ErrAbsent):
		return
	default:
		tr.unknown++
	}
	tr.asked = append(tr.asked, a)
}

// Acknowledged is how many changes were acknowledged.
func (tr *Traffic) Acknowledged() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.acknowledged
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

// mark writes a value that no client of the traffic writes, and returns the revision that it made.
func (tr *Traffic) mark(what string) (revision uint64) {
	tr.t.Helper()
	proc.Until(tr.t, func() string {
		var err error
		if revision, err = Write(tr.t.Context(), tr.last, tr.name+"-"+what, what); err != nil {
			return err.Error()
		}
		return ""
	})
	return revision
}

// Tally is how much a traffic was.
type Tally struct {
	// Operations of clients, Changes that were acknowledged to them, and Unknown, whose outcome they were not told.
	Operations, Changes, Unknown int
	// Letters that were acknowledged.
	Letters int
	// Watches that began again behind an earlier change.
	Watches int
}

// End ends the traffic and fails the test if an answer was not that of one router which does one thing after the other, a watch did not see what was done, or an acknowledged
// letter is not there. All routers run by then, and no path is cut.
func (tr *Traffic) End() Tally {
	tr.t.Helper()
	tr.stop()
	tr.clients.Wait()
	final := tr.mark("end")
	tr.note(Asked{Values: map[string]string{tr.name + "-end": "end"}, Revision: final}, nil)
	proc.Until(tr.t, func() string {
		if !tr.watch.has(final) {
			return "the watch has not seen the last change"
		}
		return ""
	})
	proc.Until(tr.t, tr.again.missing)
	tr.endWatch()
	tr.watchers.Wait()
	tally := Tally{
		Operations: tr.history.Len(), Changes: tr.acknowledged, Unknown: tr.unknown, Letters: len(tr.letters.stored), Watches: len(tr.again.saw),
	}
	tr.t.Logf("%d operations, %d changes acknowledged, %d with unknown outcome, %d letters acknowledged, %d watches began again, %d of them too far back",
		tally.Operations, tally.Changes, tally.Unknown, tally.Letters, tally.Watches, tr.again.compacted)
	tr.judgeWatches(final)
	if said := tr.history.Linearizable(judgeWithin); said != "" {
		tr.t.Error(said)
	}
	tr.letters.judge(tr.t, tr.last)
	return tally
}

// judgeWatches judges what the watches saw that have ended.
func (tr *Traffic) judgeWatches(through uint64) {
	tr.t.Helper()
	if err := errors.Join(tr.watch.failed, tr.again.failed); err != nil {
		tr.t.Errorf("a watch ended: %v", err)
	}
	for _, said := range JudgeWatch(tr.asked, tr.watch.saw, through) {
		tr.t.Errorf("the watch: %s", said)
	}
	for _, w := range tr.again.saw {
		for _, said := range JudgeAgain(tr.watch.saw, w) {
			tr.t.Errorf("a watch that began behind revision %d: %s", w.After, said)
		}
	}
}

// asker is one client of a traffic. It belongs to the goroutine of run.
type asker struct {
	tr     *Traffic
	n      int
	client *client.Client
	random *rand.Rand
}

// run asks one thing after the other. The draws for each are made whatever was answered before.
func (c *asker) run(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		what, alone, member := c.random.IntN(20), c.tr.alone(c.random.IntN(trafficKeys)), c.tr.together(c.random.IntN(trafficTogether))
		v := fmt.Sprintf("%d-%d", c.n, i)
		switch {
		case what < 8:
			c.read(ctx, alone)
		case what < 10:
			c.read(ctx, member)
		case what < 17:
			c.write(ctx, map[string]string{alone: v})
		case what < 19:
			values := map[string]string{}
			for m := range trafficTogether {
				values[c.tr.together(m)] = v
			}
			c.write(ctx, values)
		default:
			c.delete(ctx, member)
		}
		select {
		case <-ctx.Done():
		case <-time.After(think):
		}
	}
}

// alone is the name of a value that is written by itself, and together of one that is written with all others that are, and is deleted.
func (tr *Traffic) alone(n int) string    { return fmt.Sprintf("%s-%d", tr.name, n) }
func (tr *Traffic) together(n int) string { return fmt.Sprintf("%s-together-%d", tr.name, n) }

func (c *asker) read(ctx context.Context, key string) {
	// A read that fails says nothing about the order of things, and users see it as such.
	_ = c.tr.history.Read(c.n, key, func() (string, error) { return Read(ctx, c.client, key) })
}

func (c *asker) write(ctx context.Context, values map[string]string) {
	var revision uint64
	err := c.tr.history.WriteAll(c.n, values, func() (err error) {
		revision, err = apply(ctx, c.client, values)
		return refusal(err)
	})
	c.tr.note(Asked{Values: values, Revision: revision}, err)
}

func (c *asker) delete(ctx context.Context, key string) {
	err := c.tr.history.Delete(c.n, key, func() error { return refusal(c.client.Delete(ctx, dsl.KindSource, "default", key)) })
	c.tr.note(Asked{Deleted: key}, err)
}

// refusal adds to an error that it says that a change was not made, where it does.
func refusal(err error) error {
	switch {
	case errors.Is(err, client.ErrOutcomeUnknown):
		return err
	case errors.Is(err, client.ErrLowDisk):
		return errors.Join(ErrRefused, err)
	case errors.Is(err, client.ErrNotFound):
		return errors.Join(ErrAbsent, err)
	default:
		return err
	}
}

// source is one whose configuration carries a value.
func source(name, v string) *dsl.Resource {
	r, diags := dsl.FromJSON(fmt.Appendf(nil, `{"apiVersion":"conveyor.etl/v1","kind":"Source","metadata":{"name":%q,"labels":{"value":%q}},"spec":{"connector":{"type":"generate"}}}`, name, v))
	if dsl.HasErrors(diags) {
		panic(fmt.Sprint(diags))
	}
	return r
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
	return apply(ctx, c, map[string]string{key: v})
}

// apply applies values together.
func apply(ctx context.Context, c *client.Client, values map[string]string) (revision uint64, err error) {
	var resources []*dsl.Resource
	for _, name := range slices.Sorted(maps.Keys(values)) {
		resources = append(resources, source(name, values[name]))
	}
	applied, err := c.Apply(ctx, resources, client.ApplyOptions{})
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
