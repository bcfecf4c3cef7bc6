package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

const (
	records = 3000
	rate    = 1500      // per second
	endless = 1_000_000 // records, for pipelines that are still at work whenever a slow machine comes to change them
)

// simple is a pipeline of so many records.
func (r *rig) simple(records int) []string {
	return []string{
		generate("in", records, rate),
		manifest("Transform", "keep", `{cel: {filter: "value.seq > 0"}}`),
		r.fileSink("out"),
		manifest("Pipeline", "p", "{source: in, steps: [keep], sink: out}"),
	}
}

func TestParts_MayStartInAnyOrder(t *testing.T) {
	t.Parallel()
	const router, sidecar, connect = "router", "sidecar", "service"
	for _, order := range [][]string{
		{router, sidecar, connect},
		{router, connect, sidecar},
		{sidecar, router, connect},
		{sidecar, connect, router},
		{connect, router, sidecar},
		{connect, sidecar, router},
	} {
		t.Run(order[0]+" "+order[1]+" "+order[2], func(t *testing.T) {
			t.Parallel()
			r := prepare(t)
			for _, part := range order {
				switch part {
				case router:
					r.router.Start()
					r.router.AwaitReady()
					r.apply(generate("in", 500, 0), r.fileSink("out"), manifest("Pipeline", "p", "{source: in, sink: out}"))
				case sidecar:
					r.sidecar.Start()
				case connect:
					r.connect.Start()
				}
			}
			r.cli.AwaitPhase("p", "Completed")
			if n := r.complete("out", 500); n != 0 {
				t.Errorf("%d records arrived twice", n)
			}
		})
	}
}

func TestPipeline_GoesOnAfterAnyPartStoppedOrCrashed(t *testing.T) {
	t.Parallel()
	type process interface {
		Start()
		Stop()
		Kill()
		AwaitReady()
	}
	for _, part := range []struct {
		name string
		of   func(*rig) process
	}{
		{"router", func(r *rig) process { return r.router }},
		{"sidecar", func(r *rig) process { return r.sidecar }},
		{"connect", func(r *rig) process { return r.connect }},
	} {
		for _, graceful := range []bool{true, false} {
			name := part.name + " crashed"
			if graceful {
				name = part.name + " stopped"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r := prepare(t).start()
				r.apply(r.simple(records)...)
				p := part.of(r)
				for _, n := range []int{records / 6, records / 2} {
					r.awaitLines("out", n)
					if graceful {
						p.Stop()
					} else {
						p.Kill()
					}
					p.Start()
					p.AwaitReady() // it is stopped again, and cannot be asked to before
				}
				r.cli.AwaitPhase("p", "Completed")
				duplicates := r.complete("out", records)
				if graceful && duplicates > 0 {
					t.Errorf("%d records arrived twice, though everything was stopped in order", duplicates)
				}
				if part.name == "router" && duplicates > 0 {
					t.Errorf("%d records arrived twice, though no record passes the router", duplicates)
				}
			})
		}
	}
}

func TestRecords_FlowWhileTheRouterIsDown(t *testing.T) {
	t.Parallel()
	r := prepare(t).start()
	r.apply(r.simple(records)...)
	r.awaitLines("out", 100)
	r.router.Kill()
	r.awaitLines("out", records)
	r.router.Start()
	r.cli.AwaitPhase("p", "Completed")
	if n := r.complete("out", records); n != 0 {
		t.Errorf("%d records arrived twice", n)
	}
}

func TestRecords_StandStillWhileTheRouterIsDownWhereThePipelineWantsThat(t *testing.T) {
	t.Parallel()
	r := prepare(t).start()
	manifests := r.simple(endless)
	for i, m := range manifests {
		manifests[i] = strings.Replace(m, "{source: in,", "{source: in, onRouterLoss: pause,", 1)
	}
	r.apply(manifests...)
	r.awaitLines("out", 100)
	r.router.Kill()
	proc.Until(t, func() string {
		if !strings.Contains(r.sidecar.Log(), "source pauses") {
			return "the sidecar says nothing of a pause"
		}
		return ""
	})
	still, since := len(r.lines("out")), time.Now()
	proc.Until(t, func() string {
		if now := len(r.lines("out")); now != still {
			still, since = now, time.Now()
		}
		if time.Since(since) < time.Second {
			return "records still come"
		}
		return ""
	})
	r.router.Start()
	r.awaitLines("out", still+200)
	r.cli.Run("delete", "pipeline", "p")
	if n := r.complete("out", len(r.lines("out"))); n != 0 {
		t.Errorf("%d records arrived twice", n)
	}
}

func TestRecords_FlowAfterASidecarIsStartedWhileTheRouterIsDown(t *testing.T) {
	t.Parallel()
	r := prepare(t).start()
	r.apply(r.simple(2 * records)...)
	r.awaitLines("out", records/2)
	r.router.Kill()
	r.sidecar.Kill()
	r.sidecar.Start()
	r.awaitLines("out", 2*records)
	r.router.Start()
	r.cli.AwaitPhase("p", "Completed")
	r.complete("out", 2*records)
	if log := r.sidecar.Log(); strings.Contains(log, `"msg":"registered"`) || !strings.Contains(log, `"msg":"no router answers`) {
		t.Errorf("the sidecar did not go on with the session that it had, though the router had kept it:\n%s", log)
	}
}
