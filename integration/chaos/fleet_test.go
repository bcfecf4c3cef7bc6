package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// fleetSidecars is how many there are: fewer where the race detector slows everything down by ten.
var fleetSidecars = map[bool]int{false: 1000, true: 100}[proc.Raced]

const (
	fleetLanes = 20 // of each sidecar's source
	perClient  = 40
	// ttl is how long a sidecar may be silent, and movesWithin how long after it fell silent its stages have another owner.
	ttl         = 10 * time.Second
	movesWithin = ttl + 5*time.Second
)

// fleet is sidecars that talk to routers as real ones do and move no records.
type fleet struct {
	t        *testing.T
	sidecars []*fleetSidecar
	// heard counts heartbeats that were answered, lost sessions that routers ended, fenced checkpoints that they refused, and kept those that they took.
	heard, lost, fenced, kept atomic.Int64
	wg                        sync.WaitGroup
}

// fleetSidecar is one of them. It belongs to its goroutines; assigned is shared.
type fleetSidecar struct {
	f       *fleet
	id      string
	host    string
	client  *client.Client
	session *controlv1.Session
	beat    time.Duration
	pace    atomic.Int64 // between two reports of checkpoints
	end     context.CancelFunc

	mu       sync.Mutex
	assigned []*controlv1.Assignment
}

// newFleet registers so many sidecars at once. Several of them share a connection, and what runs on one host could fail together.
func newFleet(t *testing.T, routers proc.Cluster, sidecars, share int, host func(id string) string) *fleet {
	t.Helper()
	f := &fleet{t: t}
	addresses := strings.Split(routers.Addr(), ",")
	dial := func(first int) *client.Client {
		first %= len(addresses)
		c, err := client.Dial(t.Context(), slices.Concat(addresses[first:], addresses[:first]), client.WithTimeout(20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var c *client.Client
	for i := range sidecars {
		if i%share == 0 {
			c = dial(i / share)
		}
		id := fmt.Sprintf("s%04d", i)
		f.sidecars = append(f.sidecars, &fleetSidecar{f: f, id: id, host: host(id), client: c})
	}
	began := time.Now()
	took := make([]time.Duration, sidecars)
	var registering sync.WaitGroup
	for i, s := range f.sidecars {
		registering.Go(func() {
			if err := s.register(t.Context()); err != nil {
				t.Errorf("register %s: %v", s.id, err)
			}
			took[i] = time.Since(began)
		})
	}
	registering.Wait()
	if t.Failed() {
		t.FailNow()
	}
	slices.Sort(took)
	t.Logf("%d sidecars registered at once: median %d ms, p99 %d ms", sidecars, took[sidecars/2].Milliseconds(), took[sidecars*99/100].Milliseconds())
	if p99 := took[sidecars*99/100]; p99 > 10*time.Second {
		t.Errorf("it took %v until 99 of 100 sidecars were registered", p99)
	}
	for _, s := range f.sidecars {
		s.run(t.Context())
	}
	t.Cleanup(f.wg.Wait)
	return f
}

func (s *fleetSidecar) register(ctx context.Context) error {
	for {
		resp, err := s.client.Register(ctx, &controlv1.RegisterRequest{
			SidecarId: s.id, Address: "127.0.0.1:9091", HostName: s.host, Version: "test", Endpoints: []*controlv1.Endpoint{
				{Address: "127.0.0.1:50060", Port: 50060, Abilities: []*conveyorv1.Ability{{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, Type: "file"}}},
				{Address: "127.0.0.1:50070", Port: 50070, Abilities: []*conveyorv1.Ability{{Kind: conveyorv1.ServiceKind_SERVICE_KIND_SINK}}},
			},
		})
		if errors.Is(err, client.ErrBusy) && sleep(ctx, 200*time.Millisecond) {
			continue
		}
		if err != nil {
			return err
		}
		s.session, s.beat = resp.GetSession(), time.Duration(resp.GetHeartbeatMillis())*time.Millisecond
		return nil
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// run beats, watches and reports until the sidecar ends.
func (s *fleetSidecar) run(ctx context.Context) {
	ctx, s.end = context.WithCancel(ctx)
	s.pace.Store(int64(2 * time.Second))
	s.f.wg.Go(func() { s.watch(ctx) })
	s.f.wg.Go(func() {
		for sleep(ctx, s.beat) {
			resp, err := s.client.Heartbeat(ctx, &controlv1.HeartbeatRequest{Session: s.session, Lanes: s.lanes()})
			s.judge(ctx, err)
			if err == nil {
				s.f.heard.Add(1)
			}
			if ms := resp.GetCheckpointMillis(); ms > 0 {
				s.pace.Store(int64(time.Duration(ms) * time.Millisecond))
			}
		}
	})
	s.f.wg.Go(func() {
		for sequence := uint64(1); sleep(ctx, time.Duration(s.pace.Load())); sequence++ {
			points := s.checkpoints(sequence)
			if len(points) == 0 {
				continue
			}
			results, err := s.client.ReportCheckpoints(ctx, s.session, points)
			s.judge(ctx, err)
			for _, r := range results {
				if r == controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED {
					s.f.kept.Add(1)
				} else {
					s.f.fenced.Add(1)
				}
			}
		}
	})
}

// judge counts the sessions that routers ended. That no router answers is no news to a sidecar.
func (s *fleetSidecar) judge(ctx context.Context, err error) {
	if ctx.Err() == nil && errors.Is(err, client.ErrSessionEnded) {
		s.f.lost.Add(1)
		s.end()
	}
}

func (s *fleetSidecar) watch(ctx context.Context) {
	for m, err := range s.client.WatchAssignments(ctx, s.session) {
		s.judge(ctx, err)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.assigned = m.GetAssignments()
		s.mu.Unlock()
		s.judge(ctx, s.client.AcknowledgeAssignments(ctx, &controlv1.AcknowledgeAssignmentsRequest{Session: s.session, Revision: m.GetRevision()}))
	}
}

// sources are the assignments of sources.
func (s *fleetSidecar) sources() (out []*controlv1.Assignment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.assigned {
		if a.GetStage() == "in" {
			out = append(out, a)
		}
	}
	return out
}

func (s *fleetSidecar) lanes() (out []*controlv1.LaneReport) {
	for _, a := range s.sources() {
		for n := range fleetLanes {
			out = append(out, &controlv1.LaneReport{Pipeline: a.GetPipeline(), Generation: a.GetGeneration(), Status: &controlv1.LaneStatus{
				SourceStage: a.GetStage(), Source: "default/in", Partition: strconv.Itoa(n), Counts: &controlv1.Counts{Read: 1000, Acknowledged: 990, InFlight: 10},
			}})
		}
	}
	return out
}

func (s *fleetSidecar) checkpoints(sequence uint64) (out []*controlv1.Checkpoint) {
	for _, a := range s.sources() {
		for n := range fleetLanes {
			out = append(out, &controlv1.Checkpoint{
				Pipeline: a.GetPipeline(), SourceStage: a.GetStage(), Partition: strconv.Itoa(n), Generation: a.GetGeneration(), Epoch: a.GetEpoch(),
				Sequence: sequence, Position: fmt.Appendf(nil, "%016d", sequence),
			})
		}
	}
	return out
}

// owners are the ids of the sidecars that run each stage, by the epoch that gave it to them.
func (f *fleet) owners() map[string]string {
	out := map[string]string{}
	for _, s := range f.sidecars {
		s.mu.Lock()
		for _, a := range s.assigned {
			out[fmt.Sprintf("%s/%s@%d", a.GetPipeline(), a.GetStage(), a.GetEpoch().GetIndex())] = s.id
		}
		s.mu.Unlock()
	}
	return out
}

// awaitReports waits until checkpoints were taken from about every sidecar, twice.
func (f *fleet) awaitReports() {
	f.t.Helper()
	before := f.kept.Load()
	proc.Until(f.t, func() string {
		if n := f.kept.Load() - before; n < int64(2*fleetSidecars*fleetLanes) {
			return fmt.Sprintf("%d checkpoints were taken", n)
		}
		return ""
	})
}

// awaitHeartbeats waits until about every sidecar was answered twice.
func (f *fleet) awaitHeartbeats() {
	f.t.Helper()
	before := f.heard.Load()
	proc.Until(f.t, func() string {
		if n := f.heard.Load() - before; n < int64(2*len(f.sidecars)) {
			return fmt.Sprintf("%d heartbeats were answered", n)
		}
		return ""
	})
}

// end ends all sidecars.
func (f *fleet) end() {
	for _, s := range f.sidecars {
		s.end()
	}
}

// moved is how many stages another sidecar, or another epoch, has now.
func moved(before, now map[string]string) (n int) {
	for stage, owner := range before {
		if now[stage] != owner {
			n++
		}
	}
	return n
}

// cpuOf is what a process has used.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skipf("the system does not tell what a process uses: %v", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second: see proc(5)
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// TestFleet_AThousandSidecarsKeepTheirSessionsAndStagesWhateverRoutersDo has each of a thousand sidecars run a pipeline of 20 lanes: the router that leads has less than one core
// of work with them, none of them is missed when it is killed and when all are away, and only the stages of one that is really lost move.
func TestFleet_AThousandSidecarsKeepTheirSessionsAndStagesWhateverRoutersDo(t *testing.T) {
	run := record(t)
	r := startRouters(t)
	f := newFleet(t, r.cluster, fleetSidecars, perClient, func(id string) string { return id })
	manifests := []string{
		`{"apiVersion":"conveyor.etl/v1","kind":"Source","metadata":{"name":"in"},"spec":{"connector":{"type":"file"}}}`,
		`{"apiVersion":"conveyor.etl/v1","kind":"Sink","metadata":{"name":"out"},"spec":{"grpc":{"endpoint":"localhost:50070"}}}`,
	}
	for i := range fleetSidecars {
		manifests = append(manifests, fmt.Sprintf(`{"apiVersion":"conveyor.etl/v1","kind":"Pipeline","metadata":{"name":"p%04d"},"spec":{"source":"in","sink":"out"}}`, i))
	}
	began := time.Now()
	for batch := range slices.Chunk(manifests, 50) {
		var resources []*dsl.Resource
		for _, m := range batch {
			r, diags := dsl.FromJSON([]byte(m))
			if dsl.HasErrors(diags) {
				t.Fatal(diags)
			}
			resources = append(resources, r)
		}
		if _, err := r.client.Apply(t.Context(), resources, client.ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	proc.Until(t, func() string {
		if n := len(f.owners()); n != 2*fleetSidecars {
			return fmt.Sprintf("%d stages are assigned", n)
		}
		return ""
	})
	t.Logf("%d pipelines were assigned within %v", fleetSidecars, time.Since(began).Round(time.Millisecond))
	busiest := 0
	for _, s := range f.sidecars {
		busiest = max(busiest, len(s.sources()))
	}
	if busiest > 1 {
		t.Errorf("a sidecar has %d of %d pipelines, and there are as many sidecars", busiest, fleetSidecars)
	}
	f.awaitReports()

	leader := r.leader()
	before, from, at := f.owners(), cpuOf(t, leader.PID()), time.Now()
	pass(t, time.Duration(*minutes*float64(time.Minute)/3))
	used := (cpuOf(t, leader.PID()) - from).Seconds() / time.Since(at).Seconds()
	run.Sidecars, run.Cores = fleetSidecars, math.Round(used*100)/100
	t.Logf("the router that leads used %.2f of a core", used)
	if used >= 1 {
		t.Errorf("%d sidecars cost the router that leads %.2f cores", fleetSidecars, used)
	}

	run.Faults["leader killed"]++
	leader.Kill()
	f.awaitReports()
	leader.Start()
	leader.AwaitReady()
	run.Faults["all routers killed"]++
	for _, router := range r.cluster {
		router.Kill()
	}
	pass(t, ttl+2*time.Second)
	for _, router := range r.cluster {
		router.Start()
	}
	f.awaitReports()
	pass(t, ttl+2*time.Second) // who would be missed was by now
	if n := moved(before, f.owners()); n > 0 || f.lost.Load() > 0 || f.fenced.Load() > 0 {
		t.Errorf("while routers were away %d stages moved, %d sessions ended and %d checkpoints were refused", n, f.lost.Load(), f.fenced.Load())
	}

	run.Faults["sidecar lost"]++
	lost := f.sidecars[fleetSidecars/2]
	lost.end()
	lost.mu.Lock()
	lost.assigned = nil
	lost.mu.Unlock()
	began = time.Now()
	proc.Until(t, func() string {
		if n := len(f.owners()); n != 2*fleetSidecars {
			return fmt.Sprintf("%d stages have an owner", n)
		}
		return ""
	})
	took := time.Since(began)
	run.Moved = took.Milliseconds()
	t.Logf("the stages of a sidecar that was lost had another one after %v", took.Round(time.Millisecond))
	if *runs != "" && took > movesWithin { // where it is measured; among other tests the machine may have other things to do
		t.Errorf("the stages of a lost sidecar had no other one for %v", took)
	}
	if n := moved(before, f.owners()); n != 2 {
		t.Errorf("%d stages moved when a sidecar with two of them was lost", n)
	}
	if f.lost.Load() > 0 {
		t.Errorf("%d sessions ended", f.lost.Load())
	}
	f.end()
}
