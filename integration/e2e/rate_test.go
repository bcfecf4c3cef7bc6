package e2e_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

const (
	// rateOver is how long a rate is measured.
	rateOver = 4 * time.Second
	// rateTries is how often it is measured before it counts as lost: the tests share their machine with others.
	rateTries = 5
	// grownBytes is by how much a sidecar may grow meanwhile. What passes through it in that time is many times that.
	grownBytes = 64 << 20
	// checkpointPause is how long a sidecar collects checkpoints between two calls.
	checkpointPause = 250 * time.Millisecond
)

// rateKept is the share of the rate that is left at least: far below what is, for the same reason. With the race detector it only shows that records flow.
var rateKept = map[bool]float64{false: 0.5, true: 0.1}[proc.Raced]

// busy is two pipelines that run as fast as they can, with three routers: a from one sidecar to the other, and b inside the other.
type busy struct {
	*rig
	routers  proc.Cluster
	sidecars []*proc.Sidecar
}

func startBusy(t *testing.T) *busy {
	t.Helper()
	b := &busy{rig: &rig{t: t, dir: t.TempDir(), connect: proc.NewConnect(t)}, routers: proc.NewCluster(t, 3)}
	b.cli = proc.NewCLI(t, b.routers)
	first, second := proc.NewService(t, "numbers"), proc.NewService(t, "numbers")
	b.sidecars = []*proc.Sidecar{
		proc.NewSidecar(t, "one", b.routers, []int{first.Port}), proc.NewSidecar(t, "two", b.routers, []int{second.Port, b.connect.Port}),
	}
	b.routers.Start()
	for _, s := range []*proc.Service{first, second, b.connect} {
		s.Start()
		s.AwaitReady()
	}
	for _, s := range b.sidecars {
		s.Start()
		s.AwaitReady()
	}
	const all = 1 << 40
	b.apply(
		grpcSource("first", first.Port, all, 0), grpcSource("second", second.Port, all, 0), manifest("Sink", "out", "{connector: {type: blackhole}}"),
		manifest("Pipeline", "a", "{source: first, sink: out}"), manifest("Pipeline", "b", "{source: second, sink: out}"),
	)
	proc.Until(t, func() string {
		for _, s := range b.sidecars {
			if series(t, s, "conveyor_sidecar_lane_settled_records_total") < 10_000 {
				return "hardly anything has arrived"
			}
		}
		return ""
	})
	return b
}

// measured is a daemon with metrics.
type measured interface{ Ops() string }

// series is the sum of the series of a metric; 0 when nobody answers.
func series(t *testing.T, of measured, metric string) (sum float64) {
	t.Helper()
	_, body := proc.Get(t.Context(), of.Ops(), "/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, metric); ok && (rest[0] == '{' || rest[0] == ' ') {
			value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
			if err != nil {
				t.Fatalf("%s has the line %q: %v", of.Ops(), line, err)
			}
			sum += value
		}
	}
	return sum
}

// rates is how many records each sidecar's lanes settle in a second.
func (b *busy) rates() []float64 {
	b.t.Helper()
	const settled = "conveyor_sidecar_lane_settled_records_total"
	var before, out []float64
	for _, s := range b.sidecars {
		before = append(before, series(b.t, s, settled))
	}
	began := time.Now()
	select {
	case <-time.After(rateOver):
	case <-b.t.Context().Done():
	}
	for i, s := range b.sidecars {
		out = append(out, (series(b.t, s, settled)-before[i])/time.Since(began).Seconds())
	}
	return out
}

// keepsRate checks that records flow about as fast as before.
func (b *busy) keepsRate(when string, before []float64) {
	b.t.Helper()
	for try := 1; ; try++ {
		now := b.rates()
		b.t.Logf("%s: %.0f and %.0f records/s, that is %.2f and %.2f of the rate with all routers", when, now[0], now[1], now[0]/before[0], now[1]/before[1])
		if now[0] >= rateKept*before[0] && now[1] >= rateKept*before[1] {
			return
		}
		if try == rateTries {
			b.t.Errorf("%s the pipelines have %.0f and %.0f records/s, and had %.0f and %.0f", when, now[0], now[1], before[0], before[1])
			return
		}
	}
}

// leads returns the router that leads.
func (b *busy) leads() *proc.Router {
	b.t.Helper()
	var found *proc.Router
	proc.Until(b.t, func() string {
		i := slices.IndexFunc(b.routers, func(r *proc.Router) bool { return r.Running() && series(b.t, r, "conveyor_router_leader") == 1 })
		if i < 0 {
			return "no router leads"
		}
		found = b.routers[i]
		return ""
	})
	return found
}

// Not beside other tests: a rate is measured.
func TestRecords_FlowAtFullRateWhicheverRoutersAreLost(t *testing.T) {
	b := startBusy(t)
	before := b.rates()
	t.Logf("with all routers: %.0f and %.0f records/s", before[0], before[1])
	var bytes []int64
	for _, s := range b.sidecars {
		bytes = append(bytes, s.Bytes())
	}

	b.leads().Kill()
	b.keepsRate("after the loss of the leader", before)
	b.leads().Kill()
	b.keepsRate("without a majority", before)
	if r := b.cli.Try("get", "pipelines"); r.Code != 3 || !strings.Contains(r.Stderr, "NO_QUORUM") {
		t.Errorf("one router of three: exit code %d, %s", r.Code, r.Stderr)
	}
	for _, r := range b.routers {
		r.Kill()
	}
	b.keepsRate("without a router", before)
	b.keepsRate("without a router, and later", before) // than a session lasts

	for i, s := range b.sidecars {
		grown := s.Bytes() - bytes[i]
		t.Logf("sidecar %d has %d MiB, %d more than with all routers", i+1, s.Bytes()>>20, grown>>20)
		if grown > grownBytes && !proc.Raced {
			t.Errorf("without routers sidecar %d has grown by %d MiB", i+1, grown>>20)
		}
	}
	b.catchesUp()
	b.keepsRate("with all routers again", before)
	for i, s := range b.sidecars {
		if n := series(t, s, "conveyor_sidecar_registrations_total"); n != 1 {
			t.Errorf("sidecar %d has registered %v times: its session did not outlive the routers", i+1, n)
		}
		if strings.Contains(s.Log(), "stage stopped") {
			t.Errorf("a stage of sidecar %d was given another epoch", i+1)
		}
	}
}

// lagging is what the checkpoints of a sidecar lack.
type lagging struct {
	now, most float64 // records
	fell      int     // how often that was less than before
	caughtUp  bool
}

// catchesUp starts the routers, and checks that each sidecar brings at once what has settled meanwhile: the call that it was about to make, and one with the newest of all.
func (b *busy) catchesUp() {
	b.t.Helper()
	lag := make([]lagging, len(b.sidecars))
	look := func() (missing float64) {
		for i, s := range b.sidecars {
			l := &lag[i]
			before := l.now
			l.now = series(b.t, s, "conveyor_sidecar_lane_uncheckpointed_records")
			l.most = max(l.most, l.now)
			if l.now < before && !l.caughtUp {
				l.fell++
			}
			l.caughtUp = l.caughtUp || l.now < l.most/4
			missing += l.now
		}
		return missing
	}
	settled := look()
	for _, r := range b.routers {
		r.Start()
	}
	leader := b.leads()
	began := time.Now()
	proc.Until(b.t, func() string {
		missing := look()
		if slices.ContainsFunc(lag, func(l lagging) bool { return !l.caughtUp }) {
			return fmt.Sprintf("the checkpoints of %.0f records are missing", missing)
		}
		return ""
	})
	for i, l := range lag {
		if l.fell > 2 {
			b.t.Errorf("sidecar %d brought the checkpoints of %.0f records in %d parts", i+1, l.most, l.fell)
		}
	}
	calls := series(b.t, leader, `conveyor_router_calls_total{code="OK",method="/conveyor.control.v1.SidecarCoordinator/ReportCheckpoints"}`)
	took := time.Since(began)
	b.t.Logf("%.0f calls brought the checkpoints of %.0f records, and of those that settled in %v", calls, settled, took)
	// The first call of a sidecar, and one after each pause, also of those that passed before it was seen who leads.
	if most := float64(len(b.sidecars)) * (3 + float64(took/checkpointPause)); calls == 0 || calls > most {
		b.t.Errorf("%.0f calls brought the checkpoints, want 1 to %.0f", calls, most)
	}
}
