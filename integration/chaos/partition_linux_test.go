package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/cluster"
	"github.com/conveyor-etl/conveyor/integration/lan"
)

// joinWithin is how much longer a run goes on until a router has joined.
const joinWithin = 2 * time.Minute

// founders of the cluster; one more machine joins and leaves it.
const founders = 3

// storm is a cluster in a network, and what happens to it.
type storm struct {
	*cluster.Cluster
	t      *testing.T
	net    *lan.Network
	hosts  []*cluster.Host
	client *client.Client
	random *rand.Rand
	// joined and left are how often the spare machine became a voter, and ceased to be one.
	joined, left int
	// fresh is whether the spare machine runs with an empty disk.
	fresh bool
}

func newStorm(t *testing.T, random *rand.Rand) *storm {
	t.Helper()
	s := &storm{t: t, net: lan.New(t), random: random}
	s.Cluster = cluster.New(t, founders, 1, func(r cluster.Router) cluster.Machine {
		h := cluster.NewHost(t, s.net, r)
		s.hosts = append(s.hosts, h)
		return h
	})
	s.Start(s.Machines[:founders]...)
	s.client = s.Dial(s.Machines[:founders])
	return s
}

// fault begins one, and returns what it is and what ends it.
func (s *storm) fault() (what string, end func()) {
	i := s.random.IntN(founders)
	if s.random.IntN(2) == 0 {
		// Half of the time it is the leader, unless that is the spare machine.
		leader := s.Leader(s.client)
		if at := slices.IndexFunc(s.hosts[:founders], func(h *cluster.Host) bool { return h == leader }); at >= 0 {
			i = at
		}
	}
	one, next, third := s.hosts[i], s.hosts[(i+1)%founders], s.hosts[(i+2)%founders]
	switch s.random.IntN(8) {
	case 0, 1:
		one.Kill()
		return "kill " + one.Name(), one.Start
	case 2:
		one.Pause()
		return "pause " + one.Name(), one.Resume
	case 3:
		one.Unplug()
		return "unplug " + one.Name(), one.Plug
	case 4:
		s.net.CutBoth(one.Host, next.Host)
		return fmt.Sprintf("cut %s from %s, both reach %s", one.Name(), next.Name(), third.Name()), s.net.Heal
	case 5:
		s.net.Cut(next.Host, one.Host)
		s.net.Cut(third.Host, one.Host)
		return one.Name() + " sends, and hears no other", s.net.Heal
	case 6:
		s.net.Cut(one.Host, next.Host)
		return fmt.Sprintf("lose what %s sends to %s", one.Name(), next.Name()), s.net.Heal
	default:
		s.net.CutBoth(one.Host, next.Host)
		s.net.CutBoth(one.Host, third.Host)
		return one.Name() + " is alone, but for its clients", s.net.Heal
	}
}

// change takes the next step of the spare machine's way into the cluster or out of it, or lets another router lead. Whoever administers a cluster in trouble gets errors,
// looks what became of it and tries again.
func (s *storm) change() string {
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
		case s.random.IntN(2) == 0:
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

// TestCluster_AnswersAreThoseOfOneRouterWhateverFails lets clients write, read and watch while routers are killed and paused, paths between them are cut both ways and one way,
// and members come and go.
func TestCluster_AnswersAreThoseOfOneRouterWhateverFails(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("go test ./chaos -run %s -minutes=%v -seed=%d", t.Name(), *minutes, *seed)
	s := newStorm(t, rand.New(rand.NewPCG(*seed, 1)))
	tr := chaos.StartTraffic(t, *seed, func(opts ...client.Option) *client.Client { return s.Dial(s.Machines[:founders], opts...) })
	faults := 0
	until := time.Now().Add(time.Duration(*minutes * float64(time.Minute)))
	for ; time.Now().Before(until) || s.joined == 0 && time.Now().Before(until.Add(joinWithin)); faults++ {
		what, end := s.fault()
		down := time.Duration(500+s.random.IntN(3500)) * time.Millisecond
		t.Logf("%s, for %v", what, down)
		ends := time.After(down)
		if s.random.IntN(2) == 0 {
			t.Log("meanwhile ", s.change())
		}
		select {
		case <-ends:
		case <-t.Context().Done():
		}
		end()
		if s.random.IntN(3) == 0 {
			pass(t, time.Duration(s.random.IntN(3000))*time.Millisecond)
			t.Log("then ", s.change())
		}
		tr.GoesOn()
	}
	s.Await(s.Machines[:founders]...)
	t.Logf("%d faults, a router joined %d times and left %d times", faults, s.joined, s.left)
	if s.joined == 0 {
		t.Error("no router joined the cluster: the run proves little")
	}
	tr.End()
}
