//go:build linux

package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/cluster"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	"github.com/conveyor-etl/conveyor/integration/lan"
)

// runnerEnv says what machines are: "hosts", which is what they are unless it is set, or "containers".
const runnerEnv = "CONVEYOR_TEST_MACHINES"

func TestMain(m *testing.M) {
	code := proc.Main(m, nil)
	if err := removeImage(); err != nil {
		fmt.Fprintln(os.Stderr, "remove the image of the tests:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// site is a cluster of three that runs, and a client of all of it.
type site struct {
	*cluster.Cluster
	t      *testing.T
	client *client.Client
}

func start(t *testing.T) *site {
	t.Helper()
	var machine func(cluster.Router) cluster.Machine
	switch runner := os.Getenv(runnerEnv); runner {
	case "", "hosts":
		n := lan.New(t)
		machine = func(r cluster.Router) cluster.Machine { return cluster.NewHost(t, n, r) }
	case "containers":
		machine = containers(t)
	default:
		t.Fatalf("%s is %q, not hosts or containers", runnerEnv, runner)
	}
	s := &site{Cluster: cluster.New(t, 3, 0, machine), t: t}
	s.Start(s.Machines...)
	s.client = s.Dial(s.Machines)
	return s
}

// traffic is clients of all machines, whatever happens to one of them.
func (s *site) traffic() *chaos.Traffic {
	s.t.Helper()
	tr := chaos.StartTraffic(s.t, "traffic", 1,
		func(opts ...client.Option) *client.Client { return s.Dial(s.Machines, opts...) },
		func(opts ...client.Option) *client.Client { return s.DialAsSidecar(s.Machines, opts...) })
	tr.GoesOn()
	return tr
}

func TestCluster_RoutersThatMeetAreOne(t *testing.T) {
	s := start(t)
	tr := s.traffic()
	var clients []*client.Client
	for _, m := range s.Machines {
		clients = append(clients, s.Dial([]cluster.Machine{m}))
	}
	proc.Until(t, func() string { // whoever leads may change meanwhile
		var leaders []string
		for _, c := range clients {
			info, err := c.Cluster(t.Context())
			if err != nil {
				return err.Error()
			}
			if len(info.GetServers()) != 3 {
				return fmt.Sprint("the cluster is ", info)
			}
			leaders = append(leaders, info.GetLeaderId())
		}
		if slices.Sort(leaders); leaders[0] != leaders[2] {
			return fmt.Sprint("the routers say that these lead: ", leaders)
		}
		return ""
	})
	tr.End()
}

// goesOnWithout takes the leader away and gives it back, and then a follower.
func goesOnWithout(t *testing.T, away, back func(cluster.Machine)) {
	t.Helper()
	s := start(t)
	tr := s.traffic()
	leader := s.Leader(s.client)
	follower := s.But(leader)[0]
	for _, lost := range []cluster.Machine{leader, follower} {
		away(lost)
		tr.GoesOn()
		back(lost)
		s.Await(lost)
		tr.GoesOn()
	}
	tr.End()
}

func TestCluster_GoesOnWithoutARouterThatIsLost(t *testing.T) {
	goesOnWithout(t, cluster.Machine.Kill, cluster.Machine.Start)
}

func TestCluster_GoesOnWithoutARouterThatIsCutOff(t *testing.T) {
	goesOnWithout(t, cluster.Machine.Unplug, cluster.Machine.Plug)
}

func TestCluster_GoesOnWhileARouterIsPaused(t *testing.T) {
	goesOnWithout(t, cluster.Machine.Pause, cluster.Machine.Resume)
}

func TestCluster_ARollingRestartStopsNothing(t *testing.T) {
	s := start(t)
	tr := s.traffic()
	for _, m := range s.Machines {
		m.Stop()
		s.Start(m)
		tr.GoesOn()
	}
	tr.End()
}

func TestCluster_WithoutAMajorityItSaysSoAndGoesOnByItself(t *testing.T) {
	s := start(t)
	tr := s.traffic()
	leader := s.Leader(s.client)
	others := s.But(leader)
	for _, m := range others {
		m.Unplug()
	}
	one := s.Dial([]cluster.Machine{leader}, client.WithTimeout(5*time.Second), client.WithRetryFor(0))
	proc.Until(t, func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := chaos.Read(ctx, one, "k0")
		switch {
		case err == nil:
			return "a router alone still answers as if it led"
		case !errors.Is(err, client.ErrNoQuorum):
			return "it says " + err.Error()
		}
		return ""
	})
	stale := s.Dial([]cluster.Machine{leader}, client.WithStaleReads(func(client.Staleness) {}))
	if _, err := chaos.Read(t.Context(), stale, "k0"); err != nil {
		t.Errorf("a read that may be old: %v", err)
	}
	for _, m := range others {
		m.Plug()
	}
	s.Await(s.Machines...)
	tr.GoesOn()
	tr.End()
}

func TestCluster_AllRoutersComeBackAtOtherAddresses(t *testing.T) {
	s := start(t)
	if _, err := chaos.Write(t.Context(), s.client, "k0", "before"); err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Machines {
		m.Stop()
	}
	for _, m := range s.Machines {
		m.Move()
	}
	s.Start(s.Machines...)
	after := s.Dial(s.Machines)
	if got, err := chaos.Read(t.Context(), after, "k0"); err != nil || got != "before" {
		t.Errorf("it reads %q, %v", got, err)
	}
	if _, err := chaos.Write(t.Context(), after, "k0", "after"); err != nil {
		t.Error(err)
	}
}
