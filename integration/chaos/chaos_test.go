package chaos_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	"github.com/conveyor-etl/conveyor/sdk"
)

var (
	minutes = flag.Float64("minutes", 0.75, "how long faults are made")
	seed    = flag.Uint64("seed", 0, "seed of the faults; 0 picks one")
	runs    = flag.String("runs", "", "file to which each run is appended")
	commit  = flag.String("commit", "unknown", "what the runs are of")
)

// record keeps what the test does in the list of runs. It also picks the seed.
func record(t *testing.T) *chaos.Run {
	t.Helper()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	return chaos.Record(t, *runs, *commit, *seed)
}

func TestMain(m *testing.M) {
	flag.Parse()
	service := func(a sdk.Ability) proc.Child {
		return func(ctx context.Context) int { return sdk.Run(ctx, nil, os.Getenv, os.Stdout, os.Stderr, a) }
	}
	os.Exit(proc.Main(m, map[string]proc.Child{
		"oracle-source": service(chaos.Source()), "oracle-echo": service(chaos.Echo()), "oracle-sink": service(chaos.Sink()),
	}))
}

// part is something that is killed and paused.
type part interface {
	Start()
	Kill()
	Pause()
	Resume()
}

// system is a pipeline whose stages are spread over three sidecars, and its ledgers.
type system struct {
	t                  *testing.T
	run                *chaos.Run
	cli                *proc.CLI
	routers            proc.Cluster
	names              []string
	parts              []part
	sourceLedger, sink string
	stop               string
}

const (
	oracleKeys = 17
	oracleRate = 1500
	// outage is how long all routers are away: a sidecar asks them for three seconds before it goes on without.
	outage = 6 * time.Second
)

// start runs the pipeline with so many routers.
func start(t *testing.T, routers int) *system {
	t.Helper()
	cluster := proc.Cluster{proc.NewRouter(t)}
	if routers > 1 {
		cluster = proc.NewCluster(t, routers)
	}
	return startWith(t, cluster)
}

// startWith starts these routers, and runs the pipeline with them.
func startWith(t *testing.T, cluster proc.Cluster) *system {
	t.Helper()
	dir := t.TempDir()
	s := &system{
		t: t, run: record(t), routers: cluster, sourceLedger: filepath.Join(dir, "source.ledger"), sink: filepath.Join(dir, "sink.ledger"), stop: filepath.Join(dir, "stop"),
	}
	for i, r := range cluster {
		s.add(fmt.Sprintf("router %d", i+1), r)
	}
	for _, r := range cluster {
		r.AwaitReady()
	}
	services := map[string]*proc.Service{}
	for i, name := range []string{"oracle-source", "oracle-echo", "oracle-sink"} {
		service := proc.NewService(t, name)
		services[name] = service
		s.add(name, service)
		sidecar := proc.NewSidecar(t, fmt.Sprintf("s%d", i), cluster, []int{service.Port})
		s.add(fmt.Sprintf("sidecar of %s", name), sidecar)
		sidecar.AwaitReady()
	}
	s.cli = proc.NewCLI(t, cluster)
	manifest := func(kind, name, spec string) string {
		return fmt.Sprintf("apiVersion: conveyor.etl/v1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
	}
	endpoint := func(name string) string {
		return fmt.Sprintf("grpc: {endpoint: \"localhost:%d\"}", services[name].Port)
	}
	file := filepath.Join(dir, "pipeline.yaml")
	proc.Write(t, file, strings.Join([]string{
		manifest("Source", "in", fmt.Sprintf("{%s, config: {ledger: %s, sinkLedger: %s, stop: %s, keys: %d, rate: %d}}",
			endpoint("oracle-source"), s.sourceLedger, s.sink, s.stop, oracleKeys, oracleRate)),
		manifest("Transform", "keep", `{cel: {filter: "value.seq > 0"}}`),
		manifest("Transform", "echo", "{"+endpoint("oracle-echo")+"}"),
		manifest("Sink", "out", fmt.Sprintf("{%s, config: {ledger: %s}}", endpoint("oracle-sink"), s.sink)),
		manifest("Pipeline", "p", "{source: in, steps: [keep, echo], sink: out}"),
	}, "---\n"))
	s.cli.Run("apply", "-f", file)
	return s
}

func (s *system) add(name string, p part) {
	p.Start()
	s.names, s.parts = append(s.names, name), append(s.parts, p)
}

// pass lets time go by: what a fault interrupts must have time to go on.
func (s *system) pass(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.t.Context().Done():
	}
}

// fault makes one fault and heals it.
func (s *system) fault(random *rand.Rand) {
	i := random.IntN(len(s.parts))
	p := s.parts[i]
	down := time.Duration(random.IntN(1500)) * time.Millisecond
	switch kind := random.IntN(10); {
	case kind < 6:
		s.t.Logf("kill %s, back after %v", s.names[i], down)
		s.count(i, "killed")
		p.Kill()
		s.pass(down)
		p.Start()
	case kind == 6:
		s.withoutRouters(len(s.routers) + random.IntN(len(s.parts)-len(s.routers)))
	case kind < 9:
		s.t.Logf("pause %s for %v", s.names[i], down)
		s.count(i, "paused")
		p.Pause()
		s.pass(down)
		p.Resume()
	default:
		j := (i + 1 + random.IntN(len(s.parts)-1)) % len(s.parts)
		s.t.Logf("kill %s and %s, back after %v", s.names[i], s.names[j], down)
		s.count(i, "killed")
		s.count(j, "killed")
		p.Kill()
		s.parts[j].Kill()
		s.pass(down)
		s.parts[j].Start()
		p.Start()
	}
}

// count counts what happens to a part.
func (s *system) count(i int, what string) {
	kind, _, _ := strings.Cut(s.names[i], " ")
	if strings.HasPrefix(kind, "oracle-") {
		kind = "service"
	}
	s.run.Faults[kind+" "+what]++
}

// withoutRouters starts a part again while no router runs: for long enough that a sidecar goes on with what it remembers.
func (s *system) withoutRouters(i int) {
	s.t.Logf("kill all routers and %s, which is back before them", s.names[i])
	s.run.Faults["all routers killed"]++
	s.count(i, "killed")
	for _, r := range s.routers {
		r.Kill()
	}
	s.parts[i].Kill()
	s.parts[i].Start()
	s.pass(outage)
	for _, r := range s.routers {
		r.Start()
	}
}

// finish lets the source end and returns what became of all records.
func (s *system) finish(e chaos.Expect) chaos.Report {
	s.t.Helper()
	proc.Write(s.t, s.stop, "")
	s.cli.AwaitPhase("p", "Completed")
	r := report(s.t, s.sourceLedger, s.sink, e)
	s.run.AddRecords(r)
	return r
}

// report reads the ledgers of a pipeline that has ended.
func report(t *testing.T, source, sink string, e chaos.Expect) chaos.Report {
	t.Helper()
	read := func(path string) []byte {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	e.Keys, e.UID = oracleKeys, "default/in"
	return chaos.Check(read(source), read(sink), e)
}

func judge(t *testing.T, r chaos.Report) {
	t.Helper()
	t.Logf("%d records, %d delivered, %d of them again, %d commits", r.Records, r.Delivered, r.Duplicates, r.Commits)
	if r.Invalid != "" {
		t.Errorf("the run proves nothing: %s", r.Invalid)
	}
	for _, p := range r.Problems {
		t.Error(p)
	}
}

func TestChaos_NothingIsLostOrDisordered(t *testing.T) { everythingFails(t, 1) }

func TestChaos_NothingIsLostOrDisorderedWithThreeRouters(t *testing.T) { everythingFails(t, 3) }

// everythingFails kills and pauses whatever there is, and accounts for every record.
func everythingFails(t *testing.T, routers int) {
	s := start(t, routers)
	t.Logf("go test ./chaos -run %s -minutes=%v -seed=%d", t.Name(), *minutes, *seed)
	random := chaos.Generator(*seed, "faults")
	faults := 0
	for until := time.Now().Add(time.Duration(*minutes * float64(time.Minute))); time.Now().Before(until); faults++ {
		s.pass(300*time.Millisecond + time.Duration(random.IntN(1500))*time.Millisecond)
		s.fault(random)
	}
	judge(t, s.finish(chaos.Expect{Faults: faults, MinFaults: int(*minutes * 10), MinRecords: int(*minutes * 60 * oracleRate / 5)}))
}

func TestChaos_SidecarsThatAreStartedAgainWhileNoRouterRunsGoOnAndLoseNothing(t *testing.T) {
	s := start(t, 3)
	s.pass(2 * time.Second)
	for _, name := range []string{"sidecar of oracle-source", "sidecar of oracle-echo", "sidecar of oracle-sink"} {
		for _, r := range s.routers {
			r.Kill()
		}
		s.run.Faults["all routers killed"]++
		i := slices.Index(s.names, name)
		s.count(i, "killed")
		p := s.parts[i]
		p.Kill()
		// What was on its way arrives or waits: only one who reads or writes anew moves the ledger for long.
		p.Start()
		s.awaitRecords(name)
		for _, r := range s.routers {
			r.Start()
		}
		s.pass(2 * time.Second)
	}
	judge(t, s.finish(chaos.Expect{Faults: 3, MinFaults: 3, MinRecords: oracleRate}))
}

// awaitRecords waits until more arrives at the sink than was under way.
func (s *system) awaitRecords(after string) {
	s.t.Helper()
	size := func() int64 {
		info, err := os.Stat(s.sink)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	const underway = 512 << 10 // more than ten thousand records
	before := size()
	proc.Until(s.t, func() string {
		if got := size() - before; got < underway {
			return fmt.Sprintf("after the %s was started again without routers the sink wrote %d bytes", after, got)
		}
		return ""
	})
}

func TestChaos_WithoutFaultsNothingArrivesTwice(t *testing.T) {
	s := start(t, 1)
	s.pass(2 * time.Second)
	judge(t, s.finish(chaos.Expect{MinRecords: oracleRate}))
}
