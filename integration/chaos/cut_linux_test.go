package chaos_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/cluster"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	"github.com/conveyor-etl/conveyor/integration/lan"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// plant is a pipeline over machines of their own: "ends" has its source and its sink, and each of "left" and "right" could run the transform between.
type plant struct {
	t            *testing.T
	net          *lan.Network
	router       *cluster.Host
	client       *client.Client
	sidecars     map[string]*lan.Host
	source, sink string // their ledgers
	stop         string
}

// The ports of the services, each on loopback of its machine.
const (
	sourcePort = 7001
	echoPort   = 7002
	sinkPort   = 7003
)

func startPlant(t *testing.T) *plant {
	t.Helper()
	dir := t.TempDir()
	p := &plant{
		t: t, net: lan.New(t), sidecars: map[string]*lan.Host{},
		source: filepath.Join(dir, "source.ledger"), sink: filepath.Join(dir, "sink.ledger"), stop: filepath.Join(dir, "stop"),
	}
	c := cluster.New(t, 1, 0, func(r cluster.Router) cluster.Machine {
		p.router = cluster.NewHost(t, p.net, r)
		return p.router
	})
	c.Start(c.Machines...)
	p.client = c.Dial(c.Machines)
	p.sidecar("ends", c.Sidecars, map[string]int{"oracle-source": sourcePort, "oracle-sink": sinkPort})
	p.sidecar("left", c.Sidecars, map[string]int{"oracle-echo": echoPort})
	p.sidecar("right", c.Sidecars, map[string]int{"oracle-echo": echoPort})
	manifest := func(kind, name string, port int, config string) *dsl.Resource {
		r, diags := dsl.FromJSON(fmt.Appendf(nil, `{"apiVersion":"conveyor.etl/v1","kind":%q,"metadata":{"name":%q},"spec":{"grpc":{"endpoint":"localhost:%d"},"config":%s}}`,
			kind, name, port, config))
		if dsl.HasErrors(diags) {
			t.Fatal(diags)
		}
		return r
	}
	pipeline, diags := dsl.FromJSON([]byte(`{"apiVersion":"conveyor.etl/v1","kind":"Pipeline","metadata":{"name":"p"},"spec":{"source":"in","steps":["echo"],"sink":"out"}}`))
	if dsl.HasErrors(diags) {
		t.Fatal(diags)
	}
	if _, err := p.client.Apply(t.Context(), []*dsl.Resource{
		manifest(dsl.KindSource, "in", sourcePort, fmt.Sprintf(`{"ledger":%q,"sinkLedger":%q,"stop":%q,"keys":%d,"rate":%d}`, p.source, p.sink, p.stop, oracleKeys, oracleRate)),
		manifest(dsl.KindTransform, "echo", echoPort, "{}"),
		manifest(dsl.KindSink, "out", sinkPort, fmt.Sprintf(`{"ledger":%q}`, p.sink)),
		pipeline,
	}, client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	p.flows()
	return p
}

// sidecar makes a machine with a sidecar and its services.
func (p *plant) sidecar(name, certs string, services map[string]int) {
	p.t.Helper()
	h := p.net.Host(name)
	p.sidecars[name] = h
	var ports []string
	for service, port := range services {
		proc.Start(p.t, h.On(proc.ChildSpec(p.t, service, fmt.Sprintf("SERVICE_LISTEN=127.0.0.1:%d", port))))
		ports = append(ports, fmt.Sprint(port))
	}
	proc.Start(p.t, h.On(proc.Spec{Name: "sidecar " + name, Path: proc.Binary(p.t, "conveyor-sidecar"), Env: []string{
		"SIDECAR_ID=" + name, fmt.Sprintf("CLUSTER_ENDPOINT=%s:%d", p.router.Name(), cluster.Port), "ADVERTISE_ADDRESS=" + name + ":9091",
		"DATA_DIR=" + filepath.Join(p.t.TempDir(), name), "DISCOVERY_PORTS=" + strings.Join(ports, ","),
		"TLS_CERT_FILE=" + filepath.Join(certs, "tls.crt"), "TLS_KEY_FILE=" + filepath.Join(certs, "tls.key"), "TLS_CA_FILE=" + filepath.Join(certs, "ca.crt"),
	}}))
}

// written is how much the sink has.
func (p *plant) written() int64 {
	info, err := os.Stat(p.sink)
	if err != nil {
		return 0 // not made yet
	}
	return info.Size()
}

// flows waits until much more arrived at the sink than may be under way.
func (p *plant) flows() {
	p.t.Helper()
	const much = 256 << 10
	before := p.written()
	proc.Until(p.t, func() string {
		if got := p.written() - before; got < much {
			return fmt.Sprintf("the sink wrote %d bytes", got)
		}
		return ""
	})
}

// owner is the sidecar that the router gives the transform to.
func (p *plant) owner() string {
	p.t.Helper()
	status, err := p.client.PipelineStatus(p.t.Context(), "default", "p")
	if err != nil {
		p.t.Fatal(err)
	}
	i := slices.IndexFunc(status.GetStages(), func(s *controlv1.StageStatus) bool { return s.GetName() == "echo" })
	if i < 0 {
		p.t.Fatalf("there is no transform in %v", status)
	}
	return status.GetStages()[i].GetSidecarId()
}

// finish lets the source end and judges what became of all records.
func (p *plant) finish(e chaos.Expect) {
	p.t.Helper()
	proc.Write(p.t, p.stop, "")
	proc.Until(p.t, func() string {
		status, err := p.client.PipelineStatus(p.t.Context(), "default", "p")
		if err != nil {
			return err.Error()
		}
		if phase := status.GetPhase(); phase != controlv1.Phase_PHASE_COMPLETED {
			return fmt.Sprint("the pipeline is ", phase)
		}
		return ""
	})
	judge(p.t, report(p.t, p.source, p.sink, e))
}

func TestCut_ASidecarThatOnlyRoutersMissIsReplacedAndNothingIsLostOrDisordered(t *testing.T) {
	p := startPlant(t)
	was := p.owner()
	p.net.CutBoth(p.router.Host, p.sidecars[was])
	now := map[string]string{"left": "right", "right": "left"}[was]
	proc.Until(t, func() string { // for a moment nobody owns it
		if got := p.owner(); got != now {
			return fmt.Sprintf("%q owns the transform, not %s", got, now)
		}
		return ""
	})
	p.flows()
	p.net.Heal()
	proc.Until(t, func() string {
		sidecars, err := p.client.Sidecars(t.Context())
		if err != nil {
			return err.Error()
		}
		for _, s := range sidecars {
			if s.GetSession().GetSidecarId() == was {
				return ""
			}
		}
		return was + " has not come back"
	})
	p.flows()
	if got := p.owner(); got != now {
		t.Errorf("the transform moved to %s when %s came back", got, was)
	}
	p.finish(chaos.Expect{Faults: 1, MinFaults: 1, MinRecords: oracleRate})
}

func TestCut_SidecarsThatDoNotReachEachOtherGoOnWhenTheyDo(t *testing.T) {
	p := startPlant(t)
	owner := p.sidecars[p.owner()]
	p.net.CutBoth(owner, p.sidecars["ends"])
	proc.Until(t, func() string { // what is under way ends, and no more comes
		before := p.written()
		pass(t, time.Second)
		if p.written() > before {
			return "records arrive over a path that is cut"
		}
		return ""
	})
	p.net.Heal()
	p.flows()
	p.finish(chaos.Expect{Faults: 1, MinFaults: 1, MinRecords: oracleRate})
}

func TestCut_WhileARouterHearsNobodyNothingMovesAndNothingArrivesTwice(t *testing.T) {
	const ttl = 10 * time.Second
	p := startPlant(t)
	was := p.owner()
	p.router.Unplug()
	for began := time.Now(); time.Since(began) < ttl+2*time.Second; {
		p.flows()
	}
	p.router.Plug()
	if got := p.owner(); got != was {
		t.Errorf("the transform moved to %s while the router was cut off", got)
	}
	p.flows()
	p.finish(chaos.Expect{MinRecords: oracleRate})
}
