package e2e_test

import (
	"fmt"
	"testing"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

// grpcSource, grpcTransform and grpcSink name users' services.
func grpcSource(name string, port, count, rate int) string {
	return manifest("Source", name, fmt.Sprintf(`{grpc: {endpoint: "localhost:%d"}, config: {count: %d, rate: %d}}`, port, count, rate))
}

func grpcTransform(name string, port int) string {
	return manifest("Transform", name, fmt.Sprintf(`{grpc: {endpoint: "localhost:%d"}}`, port))
}

func (r *rig) grpcSink(name string, port int, more string) string {
	return manifest("Sink", name, fmt.Sprintf(`{grpc: {endpoint: "localhost:%d"}, config: {path: %s%s}}`, port, r.path(name+".ndjson"), more))
}

func TestServices_AreReachedThoughNoSidecarLooksAtTheirPorts(t *testing.T) {
	t.Parallel()
	source, transform, sink := proc.NewService(t, "numbers"), proc.NewService(t, "mark"), proc.NewService(t, "collect")
	r := prepare(t).start()
	for _, s := range []*proc.Service{source, transform, sink} {
		s.Start()
	}
	r.apply(grpcSource("in", source.Port, 500, 0), grpcTransform("mark", transform.Port), r.grpcSink("out", sink.Port, ""),
		manifest("Pipeline", "p", "{source: in, steps: [mark], sink: out}"))
	r.cli.AwaitPhase("p", "Completed")
	if n := r.complete("out", 500); n != 0 {
		t.Errorf("%d records arrived twice", n)
	}
}

func TestServices_MayAppearLater(t *testing.T) {
	t.Parallel()
	for _, seen := range []bool{true, false} {
		t.Run(fmt.Sprintf("scanned %v", seen), func(t *testing.T) {
			t.Parallel()
			sink := proc.NewService(t, "collect")
			r := prepare(t)
			if seen {
				r = prepare(t, sink)
			}
			r.start()
			r.apply(generate("in", 500, 0), r.grpcSink("out", sink.Port, ""), manifest("Pipeline", "p", "{source: in, sink: out}"))
			proc.Until(t, func() string {
				p, _ := r.cli.Pipeline("p")
				for _, s := range p.Status.Stages {
					if s.Name == "out" && s.WaitingFor != "" {
						return ""
					}
				}
				return fmt.Sprintf("nobody says that the sink is not there: %+v", p.Status.Stages)
			})
			sink.Start()
			r.cli.AwaitPhase("p", "Completed")
			if n := r.complete("out", 500); n != 0 {
				t.Errorf("%d records arrived twice", n)
			}
		})
	}
}

// spread is a pipeline whose stages alternate between sidecars, because each service is beside another one.
type spread struct {
	*rig
	sidecars []*proc.Sidecar
	services []*proc.Service
	steps    int
}

func newSpread(t *testing.T, sidecars, steps, count, rate int) *spread {
	t.Helper()
	s := &spread{rig: &rig{t: t, dir: t.TempDir(), router: proc.NewRouter(t)}, steps: steps}
	s.cli = proc.NewCLI(t, s.router)
	s.services = append(s.services, proc.NewService(t, "numbers"))
	for range steps {
		s.services = append(s.services, proc.NewService(t, "mark"))
	}
	s.services = append(s.services, proc.NewService(t, "collect"))
	ports := make([][]int, sidecars)
	for i, service := range s.services {
		ports[i%sidecars] = append(ports[i%sidecars], service.Port)
		service.Start()
	}
	s.router.Start()
	for i := range sidecars {
		c := proc.NewSidecar(t, fmt.Sprintf("s%d", i), s.router, ports[i])
		c.Start()
		s.sidecars = append(s.sidecars, c)
	}
	s.router.AwaitReady()
	for _, c := range s.sidecars {
		c.AwaitReady()
	}
	manifests := []string{grpcSource("in", s.services[0].Port, count, rate)}
	list := ""
	for i := range steps {
		name := fmt.Sprintf("mark-%d", i+1)
		manifests = append(manifests, grpcTransform(name, s.services[i+1].Port))
		list += name + ", "
	}
	manifests = append(manifests, s.grpcSink("out", s.services[steps+1].Port, ""),
		manifest("Pipeline", "p", "{source: in, steps: ["+list+"], sink: out}"))
	s.apply(manifests...)
	return s
}

// finished waits for the end and checks that every record went through every step.
func (s *spread) finished(count int) (duplicates int) {
	s.t.Helper()
	s.cli.AwaitPhase("p", "Completed")
	for _, l := range s.lines("out") {
		if l.Marked != s.steps {
			s.t.Fatalf("record %d went through %d of %d steps", l.Seq, l.Marked, s.steps)
		}
	}
	return s.complete("out", count)
}

func TestSidecars_HandRecordsToEachOther(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ sidecars, steps int }{{2, 1}, {3, 5}} {
		t.Run(fmt.Sprintf("%d sidecars %d hops", c.sidecars, c.steps+1), func(t *testing.T) {
			t.Parallel()
			s := newSpread(t, c.sidecars, c.steps, 2000, 0)
			if n := s.finished(2000); n != 0 {
				t.Errorf("%d records arrived twice", n)
			}
		})
	}
}

func TestSidecars_GoOnWhenOneOfThemCrashed(t *testing.T) {
	t.Parallel()
	for i, which := range []string{"the source's", "the transform's", "the sink's"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			s := newSpread(t, 3, 1, 2000, 1000)
			s.awaitLines("out", 500)
			s.sidecars[i].Kill()
			s.sidecars[i].Start()
			s.finished(2000)
		})
	}
}
