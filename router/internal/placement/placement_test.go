package placement_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/router/internal/placement"
)

const (
	source    = conveyorv1.ServiceKind_SERVICE_KIND_SOURCE
	transform = conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM
	sink      = conveyorv1.ServiceKind_SERVICE_KIND_SINK
)

func local(port uint32) *placement.Endpoint {
	return &placement.Endpoint{Address: fmt.Sprintf("localhost:%d", port), Port: port, Loopback: true}
}

func remote(port uint32, addrs ...string) *placement.Endpoint {
	e := &placement.Endpoint{Address: fmt.Sprintf("svc:%d", port), Port: port}
	for _, a := range addrs {
		e.Resolved = append(e.Resolved, netip.MustParseAddr(a))
	}
	return e
}

func service(port uint32, abilities ...placement.Ability) placement.Service {
	return placement.Service{Address: fmt.Sprintf("127.0.0.1:%d", port), Port: port, Abilities: abilities}
}

func sidecar(id, addr string, services ...placement.Service) placement.Sidecar {
	return placement.Sidecar{ID: id, Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Services: services}
}

func silent(s placement.Sidecar) placement.Sidecar {
	s.Silent = true
	return s
}

func one(n placement.Need) []placement.Pipeline {
	return []placement.Pipeline{{Name: "default/p", Stages: []placement.Stage{{Name: "s", Need: n}}}}
}

func TestPlan_WhereAStageRuns(t *testing.T) {
	k := placement.Key{"default/p", "s"}
	file := placement.Ability{Kind: sink, Type: "file"}
	for name, c := range map[string]struct {
		need     placement.Need
		sidecars []placement.Sidecar
		current  map[placement.Key]placement.Place
		want     placement.Result
	}{
		"a loopback endpoint belongs to the sidecar that has port and kind": {
			need:     placement.Need{Kind: transform, Endpoint: local(50052)},
			sidecars: []placement.Sidecar{sidecar("a", "10.0.0.1", service(50052, placement.Ability{Kind: sink})), sidecar("b", "10.0.0.2", service(50052, placement.Ability{Kind: transform}))},
			want:     placement.Result{Changes: []placement.Change{{k, placement.Place{Sidecar: "b", Address: "127.0.0.1:50052"}}}},
		},
		"a loopback endpoint that nobody has found goes through a gateway on the only host": {
			need:     placement.Need{Kind: transform, Endpoint: local(50052)},
			sidecars: []placement.Sidecar{sidecar("a", "10.0.0.1", service(50053, placement.Ability{Kind: transform})), sidecar("b", "10.0.0.1")},
			want:     placement.Result{Changes: []placement.Change{{k, placement.Place{Sidecar: "a", Address: "localhost:50052", Gateway: true}}}},
		},
		"nobody has a loopback endpoint, which may be on any of several hosts": {
			need:     placement.Need{Kind: transform, Endpoint: local(50052)},
			sidecars: []placement.Sidecar{sidecar("a", "10.0.0.1", service(50053, placement.Ability{Kind: transform})), sidecar("b", "10.0.0.2")},
			want:     placement.Result{Unplaced: map[placement.Key]string{k: "no sidecar has a service on port 50052 of kind transform"}},
		},
		"a silent sidecar gets nothing that another one can have": {
			need:     placement.Need{Kind: sink, Connector: "file"},
			sidecars: []placement.Sidecar{silent(sidecar("a", "10.0.0.1", service(1, file))), sidecar("b", "10.0.0.2", service(1, file))},
			want:     placement.Result{Changes: []placement.Change{{k, placement.Place{Sidecar: "b", Address: "127.0.0.1:1"}}}},
		},
		"a silent sidecar gets what only it can have": {
			need:     placement.Need{Kind: sink, Connector: "file"},
			sidecars: []placement.Sidecar{silent(sidecar("a", "10.0.0.1", service(1, file))), sidecar("b", "10.0.0.2")},
			want:     placement.Result{Changes: []placement.Change{{k, placement.Place{Sidecar: "a", Address: "127.0.0.1:1"}}}},
		},
		"a silent sidecar keeps what it has": {
			need:     placement.Need{Kind: sink, Connector: "file"},
			sidecars: []placement.Sidecar{silent(sidecar("a", "10.0.0.1", service(1, file))), sidecar("b", "10.0.0.2", service(1, file))},
			current:  map[placement.Key]placement.Place{k: {Sidecar: "a", Address: "127.0.0.1:1"}},
		},
		"no sidecar at all": {
			need: placement.Need{Kind: sink, Connector: "file"},
			want: placement.Result{Unplaced: map[placement.Key]string{k: "no sidecar is connected: start conveyor-sidecar"}},
		},
		"a name that resolves to the sidecar's host": {
			need: placement.Need{Kind: sink, Endpoint: remote(50051, "10.0.0.2")},
			sidecars: []placement.Sidecar{
				sidecar("a", "10.0.0.1", service(50051, placement.Ability{Kind: sink})), sidecar("b", "10.0.0.2", service(50051, placement.Ability{Kind: sink})),
			},
			want: placement.Result{Changes: []placement.Change{{k, placement.Place{Sidecar: "b", Address: "127.0.0.1:50051"}}}},
		},
		"a name that is nobody's host goes through a gateway": {
			need:     placement.Need{Kind: sink, Endpoint: remote(50051, "10.0.0.9")},
			sidecars: []placement.Sidecar{sidecar("a", "10.0.0.1", service(50051, placement.Ability{Kind: sink}))},
			want:     placement.Result{Changes: []placement.Change{{k, placement.Place{Sidecar: "a", Address: "svc:50051", Gateway: true}}}},
		},
		"a name that does not resolve goes through a gateway": {
			need:     placement.Need{Kind: sink, Endpoint: remote(50051)},
			sidecars: []placement.Sidecar{sidecar("a", "10.0.0.1")},
			want:     placement.Result{Changes: []placement.Change{{k, placement.Place{Sidecar: "a", Address: "svc:50051", Gateway: true}}}},
		},
		"a connector by kind and type": {
			need: placement.Need{Kind: source, Connector: "file"},
			sidecars: []placement.Sidecar{
				sidecar("a", "10.0.0.1", service(50052, placement.Ability{Kind: sink, Type: "file"}, placement.Ability{Kind: source, Type: "kafka"})),
				sidecar("b", "10.0.0.2", service(50059, placement.Ability{Kind: source, Type: "file"})),
			},
			want: placement.Result{Changes: []placement.Change{{k, placement.Place{Sidecar: "b", Address: "127.0.0.1:50059"}}}},
		},
		"no connector": {
			need:     placement.Need{Kind: source, Connector: "file"},
			sidecars: []placement.Sidecar{sidecar("a", "10.0.0.1")},
			want:     placement.Result{Unplaced: map[placement.Key]string{k: "no connector of type file found that is a source: start conveyor-connect"}},
		},
		"a running stage stays when its service is no longer seen": {
			need:     placement.Need{Kind: sink, Endpoint: local(1)},
			sidecars: []placement.Sidecar{sidecar("a", "10.0.0.1"), sidecar("b", "10.0.0.2", service(1, placement.Ability{Kind: sink}))},
			current:  map[placement.Key]placement.Place{k: {Sidecar: "a", Address: "127.0.0.1:1"}},
		},
		"an idle stage goes to where its service is": {
			need:     placement.Need{Kind: sink, Endpoint: local(1)},
			sidecars: []placement.Sidecar{sidecar("a", "10.0.0.1"), sidecar("b", "10.0.0.2", service(1, placement.Ability{Kind: sink}))},
			current:  map[placement.Key]placement.Place{k: {Sidecar: "a", Address: "127.0.0.1:1", Idle: true}},
			want:     placement.Result{Changes: []placement.Change{{k, placement.Place{Sidecar: "b", Address: "127.0.0.1:1"}}}},
		},
		"an idle stage waits where it is when its service is nowhere": {
			need:     placement.Need{Kind: sink, Endpoint: local(1)},
			sidecars: []placement.Sidecar{sidecar("a", "10.0.0.1"), sidecar("b", "10.0.0.2")},
			current:  map[placement.Key]placement.Place{k: {Sidecar: "b", Address: "127.0.0.1:1", Idle: true}},
		},
		"the stage of a lost sidecar is placed anew": {
			need:     placement.Need{Kind: sink, Endpoint: local(1)},
			sidecars: []placement.Sidecar{sidecar("b", "10.0.0.2", service(1, placement.Ability{Kind: sink}))},
			current:  map[placement.Key]placement.Place{k: {Sidecar: "a", Address: "127.0.0.1:1"}},
			want:     placement.Result{Changes: []placement.Change{{k, placement.Place{Sidecar: "b", Address: "127.0.0.1:1"}}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := placement.Plan(one(c.need), c.sidecars, c.current)
			if len(got.Unplaced) == 0 {
				got.Unplaced = nil
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func chain(name string, needs ...placement.Need) placement.Pipeline {
	p := placement.Pipeline{Name: name}
	for i, n := range needs {
		s := placement.Stage{Name: fmt.Sprint("s", i), Need: n}
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

func apply(current map[placement.Key]placement.Place, r placement.Result) map[placement.Key]placement.Place {
	out := map[placement.Key]placement.Place{}
	for k, v := range current {
		out[k] = v
	}
	for _, c := range r.Changes {
		out[c.Key] = c.To
	}
	return out
}

func TestPlan_BuiltInsGoWithTheirUpstreamAndPipelinesSpread(t *testing.T) {
	both := []placement.Service{service(1, placement.Ability{source, "file"}, placement.Ability{sink, "file"})}
	sidecars := []placement.Sidecar{sidecar("a", "10.0.0.1", both...), sidecar("b", "10.0.0.2", both...)}
	needs := []placement.Need{{Kind: source, Connector: "file"}, {Kind: transform}, {Kind: transform}, {Kind: sink, Connector: "file"}}
	got := apply(nil, placement.Plan([]placement.Pipeline{chain("x", needs...), chain("y", needs...)}, sidecars, nil))
	for _, p := range []string{"x", "y"} {
		for i := range needs {
			if at := got[placement.Key{p, fmt.Sprint("s", i)}]; at.Sidecar != got[placement.Key{p, "s0"}].Sidecar {
				t.Errorf("%s: stage %d is on %s, the first on %s", p, i, at.Sidecar, got[placement.Key{p, "s0"}].Sidecar)
			}
		}
	}
	if got[placement.Key{"x", "s0"}].Sidecar == got[placement.Key{"y", "s0"}].Sidecar {
		t.Error("both pipelines are on one sidecar")
	}
}

func drawNeed(t *rapid.T) placement.Need {
	kind := rapid.SampledFrom([]conveyorv1.ServiceKind{source, transform, sink}).Draw(t, "kind")
	switch rapid.IntRange(0, 3).Draw(t, "form") {
	case 0:
		return placement.Need{Kind: kind, Endpoint: local(rapid.Uint32Range(1, 3).Draw(t, "port"))}
	case 1:
		return placement.Need{Kind: kind, Endpoint: remote(rapid.Uint32Range(1, 3).Draw(t, "port"), fmt.Sprintf("10.0.0.%d", rapid.IntRange(0, 5).Draw(t, "host")))}
	case 2:
		return placement.Need{Kind: kind, Connector: rapid.SampledFrom([]string{"file", "kafka"}).Draw(t, "type")}
	}
	return placement.Need{Kind: transform}
}

func drawSidecars(t *rapid.T, label string) []placement.Sidecar {
	var out []placement.Sidecar
	for i := range 5 {
		if !rapid.Bool().Draw(t, label) {
			continue
		}
		s := sidecar(fmt.Sprint("sc", i), fmt.Sprintf("10.0.0.%d", i))
		for port := range rapid.Uint32Range(0, 3).Draw(t, "services") {
			s.Services = append(s.Services, service(port+1, placement.Ability{
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
		var pipelines []placement.Pipeline
		for i := range rapid.IntRange(0, 6).Draw(t, "pipelines") {
			var needs []placement.Need
			for range rapid.IntRange(1, 6).Draw(t, "stages") {
				needs = append(needs, drawNeed(t))
			}
			pipelines = append(pipelines, chain(fmt.Sprint("p", i), needs...))
		}
		before := drawSidecars(t, "before")
		first := placement.Plan(pipelines, before, nil)
		if diff := cmp.Diff(first, placement.Plan(pipelines, before, nil)); diff != "" {
			t.Fatalf("two plans of the same: %s", diff)
		}
		placed := apply(nil, first)
		for _, p := range pipelines {
			for _, s := range p.Stages {
				k := placement.Key{p.Name, s.Name}
				_, isPlaced := placed[k]
				if _, isUnplaced := first.Unplaced[k]; isPlaced == isUnplaced {
					t.Fatalf("%v: placed %v, unplaced %v", k, isPlaced, isUnplaced)
				}
			}
		}
		// A plan that is carried out needs no change, whether its stages run or wait.
		for _, idle := range []bool{false, true} {
			again := map[placement.Key]placement.Place{}
			for k, v := range placed {
				v.Idle = idle
				again[k] = v
			}
			if r := placement.Plan(pipelines, before, again); len(r.Changes) != 0 {
				t.Fatalf("idle %v: not stable: %+v", idle, r.Changes)
			}
		}
		// When sidecars come and go, only the stages of those that went move.
		after := drawSidecars(t, "after")
		alive := map[string]bool{}
		for _, s := range after {
			alive[s.ID] = true
		}
		for _, c := range placement.Plan(pipelines, after, placed).Changes {
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
		var sidecars []placement.Sidecar
		for i := range rapid.IntRange(1, 5).Draw(t, "sidecars") {
			sidecars = append(sidecars, sidecar(fmt.Sprint("sc", i), fmt.Sprintf("10.0.0.%d", i), service(1, placement.Ability{Kind: sink})))
		}
		var pipelines []placement.Pipeline
		for i := range rapid.IntRange(0, 20).Draw(t, "stages") {
			pipelines = append(pipelines, chain(fmt.Sprint("p", i), placement.Need{Kind: sink, Endpoint: local(1)}))
		}
		load := map[string]int{}
		for _, c := range placement.Plan(pipelines, sidecars, nil).Changes {
			load[c.To.Sidecar]++
		}
		for _, s := range sidecars {
			if least := len(pipelines) / len(sidecars); load[s.ID] < least || load[s.ID] > least+1 {
				t.Fatalf("%s has %d of %d stages", s.ID, load[s.ID], len(pipelines))
			}
		}
	})
}
