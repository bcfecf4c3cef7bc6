package chaos_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// writePoints are those that a router passes which takes commands, and installPoints those of one to which a snapshot is sent.
var (
	writePoints   = []string{"log-before-append", "log-durable", "before-apply", "applied", "snapshot-half-written", "snapshot-before-rename"}
	installPoints = []string{"snapshot-half-received", "snapshot-before-restore"}
)

// ended waits until a process has ended at a point.
func ended(t *testing.T, trap chaos.Trap, point string, running func() bool) {
	t.Helper()
	proc.Until(t, func() string {
		if !trap.Sprung(point) || running() {
			return "nothing has ended at the point " + point
		}
		return ""
	})
}

func TestFailpoints_ARouterThatEndsInTheMiddleOfAWriteHasMadeItOnceWhenItIsBack(t *testing.T) {
	run := record(t)
	trap := chaos.NewTrap(t)
	router := proc.NewRouter(t, trap.Env())
	router.Use(chaos.RouterFailpoints.Build(t))
	router.Start()
	router.AwaitReady()
	c, err := client.Dial(t.Context(), []string{router.Addr()}, client.WithTimeout(time.Minute), client.WithRetryFor(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := &writer{client: c, kept: map[string]string{}}
	for _, point := range writePoints {
		if err := w.write(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		trap.Set(point, 0)
		done := make(chan error, 1)
		go func() { done <- w.deleteUntil(t.Context(), func() bool { return trap.Sprung(point) }) }()
		ended(t, trap, point, router.Running)
		run.Faults["router ended at a point"]++
		router.Start()
		router.AwaitReady()
		// A deletion that was made twice would find nothing at the second time.
		if err := <-done; err != nil {
			t.Errorf("over the end at %s: %v", point, err)
		}
		for key, want := range w.kept {
			if got, err := chaos.Read(t.Context(), c, key); err != nil || got != want {
				t.Errorf("after the end at %s the value %s is %q (%v), and %q was acknowledged", point, key, got, err, want)
			}
		}
	}
}

// writer makes one change after the other. What it keeps was acknowledged.
type writer struct {
	client *client.Client
	n      int
	kept   map[string]string
}

func (w *writer) write(ctx context.Context, key string) error {
	w.n++
	value := fmt.Sprint(w.n)
	if _, err := chaos.Write(ctx, w.client, key, value); err != nil {
		return err
	}
	w.kept[key] = value
	return nil
}

// deleteUntil deletes the value k, and writes it and others, again and again until enough says so.
func (w *writer) deleteUntil(ctx context.Context, enough func() bool) error {
	for {
		if err := w.client.Delete(ctx, dsl.KindSource, "default", "k"); err != nil {
			return err
		}
		delete(w.kept, "k")
		if got, err := chaos.Read(ctx, w.client, "k"); err != nil || got != "" {
			return fmt.Errorf("a value that was deleted is %q, %w", got, err)
		}
		if err := w.write(ctx, fmt.Sprintf("kept-%d", w.n%20)); err != nil {
			return err
		}
		if enough() {
			return nil
		}
		if err := w.write(ctx, "k"); err != nil {
			return err
		}
	}
}

func TestFailpoints_ClientsOfAClusterSeeOneRouterWhereverOneEnds(t *testing.T) {
	run := record(t)
	trap := chaos.NewTrap(t)
	r := &routers{t: t, cluster: proc.NewCluster(t, 3, trap.Env())}
	binary := chaos.RouterFailpoints.Build(t)
	for _, router := range r.cluster {
		router.Use(binary)
	}
	r.cluster.Start()
	r.client = r.dial()
	traffic := chaos.StartTraffic(t, "points", *seed, r.dial, r.dial)
	traffic.GoesOn()
	again := func(point string) {
		t.Helper()
		run.Faults["router ended at a point"]++
		var lost *proc.Router
		ended(t, trap, point, func() bool {
			at := slices.IndexFunc(r.cluster, func(router *proc.Router) bool { return !router.Running() })
			if at < 0 {
				return true
			}
			lost = r.cluster[at]
			return false
		})
		traffic.GoesOn() // by the others
		lost.Start()
		lost.AwaitReady()
		traffic.GoesOn()
	}
	for _, point := range writePoints {
		trap.Set(point, 0)
		again(point)
	}
	const behind = 100 // more than a log holds behind its snapshot
	for _, point := range installPoints {
		leader := r.leader()
		follower := r.cluster[slices.IndexFunc(r.cluster, func(router *proc.Router) bool { return router != leader })]
		follower.Kill()
		for began := traffic.Acknowledged(); traffic.Acknowledged() < began+behind; {
			traffic.GoesOn()
		}
		trap.Set(point, 0)
		follower.Start()
		again(point)
	}
	run.Add(traffic.End())
}

func TestFailpoints_ASidecarThatEndsAnywhereLosesAndDisordersNothing(t *testing.T) {
	s := start(t, 1)
	binary := chaos.SidecarFailpoints.Build(t)
	traps := map[string]chaos.Trap{}
	sidecars := map[string]*proc.Sidecar{}
	for i, name := range s.names {
		sidecar, is := s.parts[i].(*proc.Sidecar)
		if !is {
			continue
		}
		traps[name], sidecars[name] = chaos.NewTrap(t), sidecar
		sidecar.Kill()
		sidecar.Use(binary)
		sidecar.Setenv(traps[name].Env())
		sidecar.Start()
		sidecar.AwaitReady()
	}
	failing := s.startFailing()
	points := []struct{ point, sidecar string }{
		{"checkpoint-accepted", "sidecar of oracle-source"},
		{"checkpoint-remembered", "sidecar of oracle-source"},
		{"before-commit", "sidecar of oracle-source"},
		{"service-answered", "sidecar of oracle-echo"},
		{"service-answered", "sidecar of oracle-sink"},
		{"settled-before-told", "sidecar of oracle-echo"},
		{"settled-before-told", "sidecar of oracle-sink"},
		{"letter-before-stored", "sidecar of oracle-source"},
		{"letter-stored", "sidecar of oracle-source"},
		{"state-before-rename", "sidecar of oracle-source"},
		{"state-renamed", "sidecar of oracle-source"},
	}
	for _, at := range points {
		// At once, and after the rest of the process has gone on for longer than it collects checkpoints: what must not come before the point would have come by then.
		for _, pause := range []time.Duration{0, 500 * time.Millisecond} {
			t.Logf("%s ends at %s after %v", at.sidecar, at.point, pause)
			traps[at.sidecar].Set(at.point, pause)
			ended(t, traps[at.sidecar], at.point, sidecars[at.sidecar].Running)
			s.run.Faults["sidecar ended at a point"]++
			sidecars[at.sidecar].Start()
		}
	}
	s.awaitRecords("sidecar of the last point")
	failing.finish()
	judge(t, s.finish(chaos.Expect{Faults: 2 * len(points), MinFaults: 2 * len(points), MinRecords: oracleRate}))
}

// failing is a pipeline beside that of a system, all of whose records are dead.
type failing struct {
	s            *system
	ledger, stop string
}

func (s *system) startFailing() *failing {
	s.t.Helper()
	dir := s.t.TempDir()
	f := &failing{s, filepath.Join(dir, "source.ledger"), filepath.Join(dir, "stop")}
	source := s.parts[slices.Index(s.names, "oracle-source")].(*proc.Service)
	manifest := func(kind, name, spec string) string {
		return fmt.Sprintf("apiVersion: conveyor.etl/v1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
	}
	file := filepath.Join(dir, "failing.yaml")
	proc.Write(s.t, file, strings.Join([]string{
		manifest("Source", "failing", fmt.Sprintf("{grpc: {endpoint: \"localhost:%d\"}, config: {ledger: %s, sinkLedger: %s, stop: %s, keys: %d, rate: 50}}",
			source.Port, f.ledger, filepath.Join(dir, "none"), f.stop, oracleKeys)),
		manifest("Transform", "fail", `{cel: {filter: "value.missing > 0"}}`),
		manifest("Pipeline", "failing", "{source: failing, steps: [fail], sink: out}"),
	}, "---\n"))
	s.cli.Run("apply", "-f", file)
	return f
}

// finish ends it, and fails the test unless there is a letter of each record.
func (f *failing) finish() {
	t := f.s.t
	t.Helper()
	proc.Write(t, f.stop, "")
	f.s.cli.AwaitPhase("failing", "Completed")
	c, err := client.Dial(t.Context(), strings.Split(f.s.routers.Addr(), ","))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	letters := map[string]bool{}
	for letter, err := range c.Letters(t.Context(), &controlv1.LetterFilter{Namespace: "default", Pipeline: "failing"}, 0) {
		if err != nil {
			t.Fatal(err)
		}
		letters[letter.GetRecord().GetId()] = true
	}
	emitted := report(t, f.ledger, f.s.sink, chaos.Expect{}).Records
	missing := 0
	for seq := 1; seq <= emitted; seq++ {
		if !letters[fmt.Sprintf("default/failing//%d", seq)] {
			missing++
		}
	}
	if missing > 0 || emitted == 0 {
		t.Errorf("of %d records that fail, %d have no letter", emitted, missing)
	}
}
