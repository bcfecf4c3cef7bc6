package chaos_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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

// plant is a pipeline over machines of their own: the sidecar of "left" or "right" has one of its stages, and that of "ends" the others.
type plant struct {
	t            *testing.T
	run          *chaos.Run
	net          *lan.Network
	certs        string // the directory of the certificate of all sidecars
	router       *cluster.Host
	client       *client.Client
	sidecars     map[string]*lan.Host
	source, sink string // their ledgers
	stop         string
}

// The stages of the pipeline.
const (
	sourceStage = "in"
	echoStage   = "echo"
	sinkStage   = "out"
)

// services are the service of each stage and its port.
var services = map[string]struct {
	child string
	port  int
}{
	sourceStage: {"oracle-source", 7001},
	echoStage:   {"oracle-echo", 7002},
	sinkStage:   {"oracle-sink", 7003},
}

// startPlant starts a plant with one stage apart from the others. A transform keeps nothing, so "left" and "right" have one of their own each; the one source or sink is on
// the machine "shared", which every sidecar reaches.
func startPlant(t *testing.T, apart string) *plant {
	t.Helper()
	dir := t.TempDir()
	p := &plant{
		t: t, run: record(t), net: lan.New(t), sidecars: map[string]*lan.Host{},
		source: filepath.Join(dir, "source.ledger"), sink: filepath.Join(dir, "sink.ledger"), stop: filepath.Join(dir, "stop"),
	}
	c := cluster.New(t, 1, 0, func(r cluster.Router) cluster.Machine {
		p.router = cluster.NewHost(t, p.net, r)
		return p.router
	})
	c.Start(c.Machines...)
	p.client, p.certs = c.Dial(c.Machines), c.Sidecars
	beside, others := []string{apart}, []string{sourceStage, sinkStage}
	if apart != echoStage {
		p.service(p.net.Host("shared"), apart, "0.0.0.0")
		beside, others = nil, slices.DeleteFunc([]string{sourceStage, echoStage, sinkStage}, func(s string) bool { return s == apart })
	}
	p.sidecar("left", beside)
	p.sidecar("right", beside)
	manifest := func(kind, stage, config string) *dsl.Resource {
		host := "localhost"
		if stage == apart && beside == nil {
			host = "shared"
		}
		r, diags := dsl.FromJSON(fmt.Appendf(nil, `{"apiVersion":"conveyor.etl/v1","kind":%q,"metadata":{"name":%q},"spec":{"grpc":{"endpoint":"%s:%d"},"config":%s}}`,
			kind, stage, host, services[stage].port, config))
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
		manifest(dsl.KindSource, sourceStage, fmt.Sprintf(`{"ledger":%q,"sinkLedger":%q,"stop":%q,"keys":%d,"rate":%d}`, p.source, p.sink, p.stop, oracleKeys, oracleRate)),
		manifest(dsl.KindTransform, echoStage, "{}"),
		manifest(dsl.KindSink, sinkStage, fmt.Sprintf(`{"ledger":%q}`, p.sink)),
		pipeline,
	}, client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	// A stage joins its neighbours: only before these run is it placed elsewhere.
	proc.Until(t, func() string {
		if p.owner(apart) == "" {
			return "nobody owns stage " + apart
		}
		return ""
	})
	p.sidecar("ends", others)
	p.flows()
	return p
}

// service starts the service of a stage on a machine.
func (p *plant) service(h *lan.Host, stage, address string) {
	p.t.Helper()
	s := services[stage]
	proc.Start(p.t, h.On(proc.ChildSpec(p.t, s.child, fmt.Sprintf("SERVICE_LISTEN=%s:%d", address, s.port))))
}

// opsPort is the side port of every sidecar.
const opsPort = 9092

// sidecar makes a machine with a sidecar, and with the services of some stages beside it.
func (p *plant) sidecar(name string, stages []string) {
	p.t.Helper()
	h := p.net.Host(name)
	p.sidecars[name] = h
	var ports []string
	for _, stage := range stages {
		p.service(h, stage, "127.0.0.1")
		ports = append(ports, fmt.Sprint(services[stage].port))
	}
	proc.Start(p.t, h.On(proc.Spec{Name: "sidecar " + name, Path: proc.Binary(p.t, "conveyor-sidecar"), Env: []string{
		"SIDECAR_ID=" + name, fmt.Sprintf("CLUSTER_ENDPOINT=%s:%d", p.router.Name(), cluster.Port), "ADVERTISE_ADDRESS=" + name + ":9091",
		"DATA_DIR=" + filepath.Join(p.t.TempDir(), name), "DISCOVERY_PORTS=" + strings.Join(ports, ","), fmt.Sprintf("OPS_PORT=%d", opsPort),
		"TLS_CERT_FILE=" + filepath.Join(p.certs, "tls.crt"), "TLS_KEY_FILE=" + filepath.Join(p.certs, "tls.key"), "TLS_CA_FILE=" + filepath.Join(p.certs, "ca.crt"),
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

// emitted is the record that the source was about to emit last, and the farthest one that it ever was.
func (p *plant) emitted() (last, farthest int) {
	p.t.Helper()
	content, err := os.ReadFile(p.source)
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if n, ok := strings.CutPrefix(line, "emit "); ok && strings.HasSuffix(n, "\n") {
			if last, err = strconv.Atoi(strings.TrimSpace(n)); err != nil {
				p.t.Fatal(err)
			}
			farthest = max(farthest, last)
		}
	}
	return last, farthest
}

// counted is a metric of a sidecar about a stage; 0 when it has none.
func (p *plant) counted(sidecar, metric, stage string) float64 {
	p.t.Helper()
	_, body := proc.Get(p.t.Context(), fmt.Sprintf("%s:%d", p.sidecars[sidecar].IP(), opsPort), "/metrics")
	prefix := fmt.Sprintf(`conveyor_sidecar_%s{pipeline="default/p",stage=%q} `, metric, stage)
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, prefix); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// owner is the sidecar that the router gives a stage to.
func (p *plant) owner(stage string) string {
	p.t.Helper()
	status, err := p.client.PipelineStatus(p.t.Context(), "default", "p")
	if err != nil {
		p.t.Fatal(err)
	}
	i := slices.IndexFunc(status.GetStages(), func(s *controlv1.StageStatus) bool { return s.GetName() == stage })
	if i < 0 {
		p.t.Fatalf("there is no stage %s in %v", stage, status)
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
	r := report(p.t, p.source, p.sink, e)
	p.run.AddRecords(r)
	judge(p.t, r)
}

func TestCut_ASidecarThatOnlyRoutersMissIsReplacedAndNothingIsLostOrDisordered(t *testing.T) {
	replaces(t, echoStage)
}

func TestCut_ASidecarOfASourceThatOnlyRoutersMissIsReplacedAndNothingIsLostOrDisordered(t *testing.T) {
	replaces(t, sourceStage)
}

func TestCut_ASidecarOfASinkThatOnlyRoutersMissIsReplacedAndNothingIsLostOrDisordered(t *testing.T) {
	replaces(t, sinkStage)
}

// busy is how much longer than it should anything may take where many tests share a machine.
const busy = 15 * time.Second

// replaces cuts the sidecar that has a stage off from the router, and from nobody else: it goes on, beside the one that the router gives the stage to.
func replaces(t *testing.T, stage string) {
	p := startPlant(t, stage)
	was := p.owner(stage)
	p.run.Faults["path cut"]++
	p.net.CutBoth(p.router.Host, p.sidecars[was])
	cut := time.Now()
	now := ""
	proc.Until(t, func() string { // for a moment nobody owns it
		if now = p.owner(stage); now == "" || now == was {
			return fmt.Sprintf("%q owns stage %s", now, stage)
		}
		return ""
	})
	proc.Until(t, func() string {
		if p.counted(now, "stage_records_in_total", stage) == 0 {
			return now + " has stage " + stage + " and no record"
		}
		return ""
	})
	before := p.written()
	proc.Until(t, func() string {
		if p.written() == before {
			return "nothing arrives from " + now
		}
		return ""
	})
	took := time.Since(cut)
	t.Logf("%v after the cut %s delivered the first record", took.Round(time.Millisecond), now)
	if took > movesWithin+busy {
		t.Errorf("%s delivered its first record %v after the cut, want %v at most, or %v on a busy machine", now, took, movesWithin, movesWithin+busy)
	}
	proc.Until(t, func() string {
		if p.counted(was, "fenced_total", stage) == 0 {
			return was + " has not been told that stage " + stage + " has a newer owner"
		}
		return ""
	})
	_, far := p.emitted() // by the one that was replaced, if it was the source's
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
	// What is delivered again shows nothing: records must come that nobody had read.
	proc.Until(t, func() string {
		if got, _ := p.emitted(); got <= far {
			return fmt.Sprintf("the source has emitted record %d again, of %d", got, far)
		}
		return ""
	})
	p.flows()
	if got := p.owner(stage); got != now {
		t.Errorf("stage %s moved to %s when %s came back", stage, got, was)
	}
	p.finish(chaos.Expect{Faults: 1, MinFaults: 1, MinRecords: oracleRate})
}

func TestCut_AStageMovesToWhereItsNeighboursReachItAndNothingIsLostOrDisordered(t *testing.T) {
	p := startPlant(t, echoStage)
	was := p.owner(echoStage)
	p.run.Faults["path cut"]++
	p.net.CutBoth(p.sidecars[was], p.sidecars["ends"])
	now := map[string]string{"left": "right", "right": "left"}[was]
	cut := time.Now()
	proc.Until(t, func() string {
		if got := p.owner(echoStage); got != now {
			return fmt.Sprintf("%q owns the transform, not %s", got, now)
		}
		return ""
	})
	t.Logf("the transform moved %v after the cut", time.Since(cut).Round(time.Second))
	p.flows() // while the cut lasts
	p.net.Heal()
	p.flows()
	if got := p.owner(echoStage); got != now {
		t.Errorf("the transform moved to %s when the path was back", got)
	}
	p.finish(chaos.Expect{Faults: 1, MinFaults: 1, MinRecords: oracleRate})
}

func TestCut_SidecarsThatDoNotReachEachOtherGoOnWhenTheyDo(t *testing.T) {
	p := startPlant(t, echoStage)
	p.run.Faults["path cut"]++
	for _, could := range []string{"left", "right"} { // nobody is left who could run the transform and is reached
		p.net.CutBoth(p.sidecars[could], p.sidecars["ends"])
	}
	proc.Until(t, func() string { // what is under way ends, and no more comes
		before := p.written()
		pass(t, time.Second)
		if p.written() > before {
			return "records arrive over a path that is cut"
		}
		return ""
	})
	proc.Until(t, func() string { // whoever looks is told which path it is
		status, err := p.client.PipelineStatus(t.Context(), "default", "p")
		if err != nil {
			return err.Error()
		}
		for _, c := range status.GetConditions() {
			if c.GetType() == "Degraded" && strings.Contains(c.GetMessage(), "echo on sidecar "+p.owner(echoStage)) {
				return ""
			}
		}
		return fmt.Sprint("nothing says that a stage does not reach the next one: ", status)
	})
	// However long it lasts, and wherever the router tries meanwhile.
	before := p.written()
	pass(t, 3*ttl)
	if p.written() > before {
		t.Error("records arrived over a path that is cut")
	}
	p.net.Heal()
	p.flows()
	p.finish(chaos.Expect{Faults: 1, MinFaults: 1, MinRecords: oracleRate})
}

func TestCut_WhileARouterHearsNobodyNothingMovesAndNothingArrivesTwice(t *testing.T) {
	p := startPlant(t, echoStage)
	was := p.owner(echoStage)
	p.run.Faults["path cut"]++
	p.router.Unplug()
	for began := time.Now(); time.Since(began) < ttl+2*time.Second; {
		p.flows()
	}
	p.router.Plug()
	if got := p.owner(echoStage); got != was {
		t.Errorf("the transform moved to %s while the router was cut off", got)
	}
	p.flows()
	p.finish(chaos.Expect{MinRecords: oracleRate})
}
