package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/cluster"
	"github.com/conveyor-etl/conveyor/integration/disk"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	"github.com/conveyor-etl/conveyor/integration/lan"
)

// completeWithin is how much longer a run goes on until every kind of fault was made and a router has joined.
const completeWithin = 4 * time.Minute

// founders of the cluster; one more machine joins and leaves it.
const founders = 3

// roundFor is how long one history gets: one that is longer, with more writes of unknown outcome, cannot be judged.
const roundFor = 40 * time.Second

// diskSize has room for the largest files that a router makes at once.
const diskSize = 256 << 20

// storm is a cluster in a network, whose founders have disks of their own, and what happens to it.
type storm struct {
	*cluster.Cluster
	t      *testing.T
	net    *lan.Network
	hosts  []*cluster.Host
	disks  []*disk.Disk
	client *client.Client
	// faults and moves are what happens to the routers, and to who is one of them.
	faults *faults
	moves  *rand.Rand
	// joined and left are how often the spare machine became a voter, and ceased to be one.
	joined, left int
	// fresh is whether the spare machine runs with an empty disk.
	fresh bool
}

func newStorm(t *testing.T, seed uint64) *storm {
	t.Helper()
	s := &storm{t: t, net: lan.New(t), faults: newFaults(seed), moves: chaos.Generator(seed, "members")}
	s.Cluster = cluster.New(t, founders, 1, func(r cluster.Router) cluster.Machine {
		h := cluster.NewHost(t, s.net, r)
		if len(s.hosts) < founders {
			d := disk.New(t, diskSize)
			h.KeepOn(d.Dir())
			s.disks = append(s.disks, d)
		}
		s.hosts = append(s.hosts, h)
		return h
	})
	s.Start(s.Machines[:founders]...)
	s.client = s.Dial(s.Machines[:founders])
	return s
}

// begin makes a fault, and returns what is told of it and what ends it.
func (s *storm) begin(f fault) (said string, end func()) {
	s.t.Helper()
	i := f.number
	if f.leader {
		// Unless that is the spare machine.
		leader := s.Leader(s.client)
		if at := slices.IndexFunc(s.hosts[:founders], func(h *cluster.Host) bool { return h == leader }); at >= 0 {
			i = at
		}
	}
	one, next, third := s.hosts[i], s.hosts[(i+1)%founders], s.hosts[(i+2)%founders]
	return f.say(one, next, third), f.kind.begin(s, one, next, third)
}

func (s *storm) diskOf(h *cluster.Host) *disk.Disk { return s.disks[slices.Index(s.hosts, h)] }

// powerLoss takes the power from some machines at once.
func (s *storm) powerLoss(hosts ...*cluster.Host) (end func()) {
	s.t.Helper()
	for _, h := range hosts {
		s.diskOf(h).Cut()
	}
	for _, h := range hosts {
		h.Kill()
		s.diskOf(h).Restore()
	}
	return func() {
		for _, h := range hosts {
			h.Start()
		}
	}
}

// broken makes a disk such that its router must end.
func (s *storm) broken(h *cluster.Host, how string) (end func()) {
	s.t.Helper()
	disk.Inject(s.t, h.Process, s.logOf(h), how)
	return func() {
		if code := h.Wait(); code == 0 {
			s.t.Errorf("%s ended with code 0 after its disk was broken", h.Name())
		}
		h.Start()
	}
}

// logOf is the files that a router keeps its log in.
func (s *storm) logOf(h *cluster.Host) []string {
	s.t.Helper()
	var files []string
	for _, pattern := range []string{"raft.db", "wal/*.wal"} {
		found, err := filepath.Glob(filepath.Join(h.Data(), "raft", pattern))
		if err != nil {
			s.t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		s.t.Fatalf("%s has no log in %s", h.Name(), h.Data())
	}
	return files
}

// back starts a router until it stays and answers.
func (s *storm) back(h *cluster.Host) {
	s.t.Helper()
	at := s.Dial([]cluster.Machine{h})
	defer at.Close()
	proc.Until(s.t, func() string {
		if !h.Running() {
			h.Start()
		}
		if _, err := at.Cluster(s.t.Context()); err != nil {
			return h.Name() + ": " + err.Error()
		}
		return ""
	})
}

// change takes the next step of the spare machine's way into the cluster or out of it, or lets another router lead. Whoever administers a cluster in trouble gets errors,
// looks what became of it and tries again.
func (s *storm) change() string {
	transfer := s.moves.IntN(2) == 0 // is drawn also where there is no choice
	ctx, cancel := context.WithTimeout(s.t.Context(), 4*time.Second)
	defer cancel()
	info, err := s.client.Cluster(ctx)
	if err != nil {
		return "ask for the cluster: " + err.Error()
	}
	spare := s.hosts[founders]
	address := fmt.Sprintf("%s:%d", spare.Name(), cluster.Port)
	for _, server := range info.GetServers() {
		if server.GetAddress() != address {
			continue
		}
		s.fresh = false
		switch {
		case !server.GetVoter():
			if err = s.client.PromoteRouter(ctx, server.GetId()); err == nil {
				s.joined++
			}
			return fmt.Sprint("promote: ", err)
		case transfer:
			_, err = s.client.TransferLeadership(ctx, "")
			return fmt.Sprint("another leads: ", err)
		default:
			if err = s.client.RemoveRouter(ctx, server.GetId(), false); err == nil {
				s.left++
			}
			return fmt.Sprint("remove: ", err)
		}
	}
	// It is no member, and what it may have of the cluster is of no use.
	if !s.fresh {
		if spare.Process != nil {
			spare.Kill()
			spare.Wipe()
		}
		spare.Start()
		s.fresh = true
	}
	_, err = s.client.AddRouter(ctx, address)
	return fmt.Sprint("add: ", err)
}

// rage makes faults until a moment, or until the run may end, and changes the members meanwhile.
func (s *storm) rage(tr *chaos.Traffic, until, ends time.Time, counts map[string]int) {
	s.t.Helper()
	for time.Now().Before(until) && !s.over(ends) {
		f := s.faults.next()
		meanwhile, then, after := s.moves.IntN(2) == 0, s.moves.IntN(3) == 0, time.Duration(s.moves.IntN(1500))*time.Millisecond
		said, end := s.begin(f)
		counts[f.kind.counted]++
		s.t.Logf("%s, for %v", said, f.lasts)
		lasts := time.After(f.lasts)
		if meanwhile {
			s.t.Log("meanwhile ", s.change())
		}
		select {
		case <-lasts:
		case <-s.t.Context().Done():
		}
		end()
		if then {
			pass(s.t, after)
			s.t.Log("then ", s.change())
		}
		tr.GoesOn()
	}
}

// over reports whether the run may end: its time is over, and everything happened that must.
func (s *storm) over(ends time.Time) bool { return !time.Now().Before(ends) && len(s.missing()) == 0 }

// missing is what must happen in a run and has not.
func (s *storm) missing() []string {
	missing := s.faults.missing()
	if s.joined == 0 {
		missing = append(missing, "a router joins")
	}
	return missing
}

// TestCluster_AnswersAreThoseOfOneRouterWhateverFails lets clients write, read and watch while routers are killed and paused, paths between them are cut both ways and one way,
// disks fail and lose power, and members come and go. Every kind of fault is made once before any is made again.
func TestCluster_AnswersAreThoseOfOneRouterWhateverFails(t *testing.T) {
	run := record(t)
	t.Logf("go test ./chaos -run %s -minutes=%v -seed=%d", t.Name(), *minutes, *seed)
	s := newStorm(t, *seed)
	ends := time.Now().Add(time.Duration(*minutes * float64(time.Minute)))
	for !s.over(ends) && time.Now().Before(ends.Add(completeWithin)) {
		tr := chaos.StartTraffic(t, fmt.Sprintf("round-%d", run.Histories), *seed,
			func(opts ...client.Option) *client.Client { return s.Dial(s.Machines[:founders], opts...) },
			func(opts ...client.Option) *client.Client { return s.DialAsSidecar(s.Machines[:founders], opts...) })
		s.rage(tr, time.Now().Add(roundFor), ends, run.Faults)
		s.Await(s.Machines[:founders]...)
		run.Add(tr.End())
		if t.Failed() {
			break
		}
	}
	t.Logf("%v, a router joined %d times and left %d times", run.Faults, s.joined, s.left)
	if missing := s.missing(); len(missing) > 0 || run.Letters == 0 {
		t.Errorf("%d letters were stored, and this did not happen: %s: the run proves little", run.Letters, strings.Join(missing, "; "))
	}
}
