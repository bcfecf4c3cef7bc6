package placement_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	. "github.com/conveyor-etl/conveyor/router/internal/placement"
)

const (
	source    = conveyorv1.ServiceKind_SERVICE_KIND_SOURCE
	transform = conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM
	sink      = conveyorv1.ServiceKind_SERVICE_KIND_SINK
)

func local(port uint32) *Endpoint {
	return &Endpoint{Address: fmt.Sprintf("localhost:%d", port), Port: port, Loopback: true}
}

func remote(port uint32, addrs ...string) *Endpoint {
	e := &Endpoint{Address: fmt.Sprintf("svc:%d", port), Port: port}
	for _, a := range addrs {
		e.Resolved = append(e.Resolved, netip.MustParseAddr(a))
	}
	return e
}

func service(port uint32, abilities ...Ability) Service {
	return Service{Address: fmt.Sprintf("127.0.0.1:%d", port), Port: port, Abilities: abilities}
}

func sidecar(id, addr string, services ...Service) Sidecar {
	return Sidecar{ID: id, Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Services: services}
}

func one(n Need) []Pipeline {
	return []Pipeline{{Name: "default/p", Stages: []Stage{{Name: "s", Need: n}}}}
}

func TestPlan_WhereAStageRuns(t *testing.T) {
	k := Key{"default/p", "s"}
	for name, c := range map[string]struct {
		need     Need
		sidecars []Sidecar
		current  map[Key]Place
		want     Result
	}{
		"a loopback endpoint belongs to the sidecar that has port and kind": {
			need:     Need{Kind: transform, Endpoint: local(50052)},
			sidecars: []Sidecar{sidecar("a", "10.0.0.1", service(50052, Ability{Kind: sink})), sidecar("b", "10.0.0.2", service(50052, Ability{Kind: transform}))},
			want:     Result{Changes: []Change{{k, Place{Sidecar: "b", Address: "127.0.0.1:50052"}}}},
		},
		"nobody has a loopback endpoint": {
			need:     Need{Kind: transform, Endpoint: local(50052)},
			sidecars: []Sidecar{sidecar("a", "10.0.0.1", service(50053, Ability{Kind: transform}))},
			want:     Result{Unplaced: map[Key]string{k: "no sidecar has a service on port 50052 of kind transform"}},
		},
		"no sidecar at all": {
			need: Need{Kind: sink, Connector: "file"},
			want: Result{Unplaced: map[Key]string{k: "no sidecar is connected: start conveyor-sidecar"}},
		},
		"a name that resolves to the sidecar's host": {
			need: Need{Kind: sink, Endpoint: remote(50051, "10.0.0.2")},
			sidecars: []Sidecar{
				sidecar("a", "10.0.0.1", service(50051, Ability{Kind: sink})), sidecar("b", "10.0.0.2", service(50051, Ability{Kind: sink})),
			},
			want: Result{Changes: []Change{{k, Place{Sidecar: "b", Address: "127.0.0.1:50051"}}}},
		},
		"a name that is nobody's host goes through a gateway": {
			need:     Need{Kind: sink, Endpoint: remote(50051, "10.0.0.9")},
			sidecars: []Sidecar{sidecar("a", "10.0.0.1", service(50051, Ability{Kind: sink}))},
			want:     Result{Changes: []Change{{k, Place{Sidecar: "a", Address: "svc:50051", Gateway: true}}}},
		},
		"a name that does not resolve goes through a gateway": {
			need:     Need{Kind: sink, Endpoint: remote(50051)},
			sidecars: []Sidecar{sidecar("a", "10.0.0.1")},
			want:     Result{Changes: []Change{{k, Place{Sidecar: "a", Address: "svc:50051", Gateway: true}}}},
		},
		"a connector by kind and type": {
			need: Need{Kind: source, Connector: "file"},
			sidecars: []Sidecar{
				sidecar("a", "10.0.0.1", service(50052, Ability{Kind: sink, Type: "file"}, Ability{Kind: source, Type: "kafka"})),
				sidecar("b", "10.0.0.2", service(50059, Ability{Kind: source, Type: "file"})),
			},
			want: Result{Changes: []Change{{k, Place{Sidecar: "b", Address: "127.0.0.1:50059"}}}},
		},
		"no connector": {
			need:     Need{Kind: source, Connector: "file"},
			sidecars: []Sidecar{sidecar("a", "10.0.0.1")},
			want:     Result{Unplaced: map[Key]string{k: "no connector of type file found that is a source: start conveyor-connect"}},
		},
		"a running stage stays when its service is no longer seen": {
			need:     Need{Kind: sink, Endpoint: local(1)},
			sidecars: []Sidecar{sidecar("a", "10.0.0.1"), sidecar("b", "10.0.0.2", service(1, Ability{Kind: sink}))},
			current:  map[Key]Place{k: {Sidecar: "a", Address: "127.0.0.1:1"}},
		},
		"an idle stage goes to where its service is": {
			need:     Need{Kind: sink, Endpoint: local(1)},
			sidecars: []Sidecar{sidecar("a", "10.0.0.1"), sidecar("b", "10.0.0.2", service(1, Ability{Kind: sink}))},
			current:  map[Key]Place{k: {Sidecar: "a", Address: "127.0.0.1:1", Idle: true}},
			want:     Result{Changes: []Change{{k, Place{Sidecar: "b", Address: "127.0.0.1:1"}}}},
		},
		"an idle stage waits where it is when its service is nowhere": {
			need:     Need{Kind: sink, Endpoint: local(1)},
			sidecars: []Sidecar{sidecar("a", "10.0.0.1"), sidecar("b", "10.0.0.2")},
			current:  map[Key]Place{k: {Sidecar: "b", Address: "127.0.0.1:1", Idle: true}},
		},
		"the stage of a lost sidecar is placed anew": {
			need:     Need{Kind: sink, Endpoint: local(1)},
			sidecars: []Sidecar{sidecar("b", "10.0.0.2", service(1, Ability{Kind: sink}))},
			current:  map[Key]Place{k: {Sidecar: "a", Address: "127.0.0.1:1"}},
			want:     Result{Changes: []Change{{k, Place{Sidecar: "b", Address: "127.0.0.1:1"}}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := Plan(one(c.need), c.sidecars, c.current)
			if len(got.Unplaced) == 0 {
				got.Unplaced = nil
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func chain(name string, needs ...Need) Pipeline {
	p := Pipeline{Name: name}
	for i, n := range needs {
		s := Stage{Name: fmt.Sprint("s", i), Need: n}
		if i > 0 {
			s.Upstream = []string{fmt.Sprint("s", i-1)}
		}
		if i < len(needs)-1 {
			s.Downstream = []string{fmt.Sprint("s", i+1)}
		}
		p.Stages = append(p.Stages, s)
	}
	return p
}

func apply(current map[Key]Place, r Result) map[Key]Place {
	out := map[Key]Place{}
	for k, v := range current {
		out[k] = v
	}
	for _, c := range r.Changes {
		out[c.Key] = c.To
	}
	return out
}

func TestPlan_BuiltInsGoWithTheirUpstreamAndPipelinesSpread(t *testing.T) {
	both := []Service{service(1, Ability{source, "file"}, Ability{sink, "file"})}
	sidecars := []Sidecar{sidecar("a", "10.0.0.1", both...), sidecar("b", "10.0.0.2", both...)}
	needs := []Need{{Kind: source, Connector: "file"}, {Kind: transform}, {Kind: transform}, {Kind: sink, Connector: "file"}}
	got := apply(nil, Plan([]Pipeline{chain("x", needs...), chain("y", needs...)}, sidecars, nil))
	for _, p := range []string{"x", "y"} {
		for i := range needs {
			if at := got[Key{p, fmt.Sprint("s", i)}]; at.Sidecar != got[Key{p, "s0"}].Sidecar {
				t.Errorf("%s: stage %d is on %s, the first on %s", p, i, at.Sidecar, got[Key{p, "s0"}].Sidecar)
			}
		}
	}
	if got[Key{"x", "s0"}].Sidecar == got[Key{"y", "s0"}].Sidecar {
		t.Error("both pipelines are on one sidecar")
	}
}

func drawNeed(t *rapid.T) Need {
	kind := rapid.SampledFrom([]conveyorv1.ServiceKind{source, transform, sink}).Draw(t, "kind")
	switch rapid.IntRange(0, 3).Draw(t, "form") {
	case 0:
		return Need{Kind: kind, Endpoint: local(rapid.Uint32Range(1, 3).Draw(t, "port"))}
	case 1:
		return Need{Kind: kind, Endpoint: remote(rapid.Uint32Range(1, 3).Draw(t, "port"), fmt.Sprintf("10.0.0.%d", rapid.IntRange(0, 5).Draw(t, "host")))}
	case 2:
		return Need{Kind: kind, Connector: rapid.SampledFrom([]string{"file", "kafka"}).Draw(t, "type")}
	}
	return Need{Kind: transform}
}

func drawSidecars(t *rapid.T, label string) []Sidecar {
	var out []Sidecar
	for i := range 5 {
		if !rapid.Bool().Draw(t, label) {
			continue
		}
		s := sidecar(fmt.Sprint("sc", i), fmt.Sprintf("10.0.0.%d", i))
		for port := range rapid.Uint32Range(0, 3).Draw(t, "services") {
			s.Services = append(s.Services, service(port+1, Ability{
				Kind: rapid.SampledFrom([]conveyorv1.ServiceKind{source, transform, sink}).Draw(t, "kind"),
				Type: rapid.SampledFrom([]string{"", "file", "kafka"}).Draw(t, "type"),
			}))
		}
		out = append(out, s)
	}
	return out
}

func TestPlan_Properties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var pipelines []Pipeline
		for i := range rapid.IntRange(0, 6).Draw(t, "pipelines") {
			var needs []Need
			for range rapid.IntRange(1, 6).Draw(t, "stages") {
				needs = append(needs, drawNeed(t))
			}
			pipelines = append(pipelines, chain(fmt.Sprint("p", i), needs...))
		}
		before := drawSidecars(t, "before")
		first := Plan(pipelines, before, nil)
		if diff := cmp.Diff(first, Plan(pipelines, before, nil)); diff != "" {
			t.Fatalf("two plans of the same: %s", diff)
		}
		placed := apply(nil, first)
		for _, p := range pipelines {
			for _, s := range p.Stages {
				k := Key{p.Name, s.Name}
				_, isPlaced := placed[k]
				if _, isUnplaced := first.Unplaced[k]; isPlaced == isUnplaced {
					t.Fatalf("%v: placed %v, unplaced %v", k, isPlaced, isUnplaced)
				}
			}
		}
		// A plan that is carried out needs no change, whether its stages run or wait.
		for _, idle := range []bool{false, true} {
			again := map[Key]Place{}
			for k, v := range placed {
				v.Idle = idle
				again[k] = v
			}
			if r := Plan(pipelines, before, again); len(r.Changes) != 0 {
				t.Fatalf("idle %v: not stable: %+v", idle, r.Changes)
			}
		}
		// When sidecars come and go, only the stages of those that went move.
		after := drawSidecars(t, "after")
		alive := map[string]bool{}
		for _, s := range after {
			alive[s.ID] = true
		}
		for _, c := range Plan(pipelines, after, placed).Changes {
			if was, ok := placed[c.Key]; ok && alive[was.Sidecar] {
				t.Fatalf("%v moved from %s to %s though it runs", c.Key, was.Sidecar, c.To.Sidecar)
			}
			if !alive[c.To.Sidecar] {
				t.Fatalf("%v placed on %s, which is gone", c.Key, c.To.Sidecar)
			}
		}
	})
}

func TestPlan_IsBalanced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var sidecars []Sidecar
		for i := range rapid.IntRange(1, 5).Draw(t, "sidecars") {
			sidecars = append(sidecars, sidecar(fmt.Sprint("sc", i), fmt.Sprintf("10.0.0.%d", i), service(1, Ability{Kind: sink})))
		}
		var pipelines []Pipeline
		for i := range rapid.IntRange(0, 20).Draw(t, "stages") {
			pipelines = append(pipelines, chain(fmt.Sprint("p", i), Need{Kind: sink, Endpoint: local(1)}))
		}
		load := map[string]int{}
		for _, c := range Plan(pipelines, sidecars, nil).Changes {
			load[c.To.Sidecar]++
		}
		for _, s := range sidecars {
			if least := len(pipelines) / len(sidecars); load[s.ID] < least || load[s.ID] > least+1 {
				t.Fatalf("%s has %d of %d stages", s.ID, load[s.ID], len(pipelines))
			}
		}
	})
}
