package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/internal/auth"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/api"
	"github.com/conveyor-etl/conveyor/router/internal/forward"
)

const (
	// patience is how long a call waits for a leader: longer than an election, and short enough that a caller can ask another router in time.
	patience = 3 * time.Second
	// handOverTimeout bounds how long a stop waits for another router to take leadership over.
	handOverTimeout = 2 * time.Second
	// silentFor is how long a router that hears nothing of the leader still counts as ready.
	silentFor = 5 * time.Second
)

func (r *Router) forwarding() forward.Config {
	return forward.Config{
		Cluster: cluster{r}, Own: api.Own, Dial: r.dial, Outgoing: auth.Forward, Gone: r.gone, Patience: patience, Logger: r.logger,
		NoLeader:  func() error { return api.NoQuorum(r.whyNoLeader()) },
		NotLeader: api.NotLeader, NotReached: api.LeaderNotReached, Lost: api.LeaderLost,
	}
}

// cluster is what forwarding knows of the cluster.
type cluster struct{ r *Router }

// Leads implements forward.Cluster.
func (c cluster) Leads() bool {
	_, ok := c.r.controller.Leading()
	return ok
}

// Leader implements forward.Cluster.
func (c cluster) Leader() (id, address string) {
	l := c.r.leader()
	return l.id, l.address
}

type leader struct{ id, address string }

// leader is another router that leads, or empty. This one is not meant: until it is ready to lead, nobody is.
func (r *Router) leader() leader {
	id := r.store.Leader()
	if id == "" || id == r.store.ServerID() {
		return leader{}
	}
	servers, err := r.store.Servers()
	if err != nil {
		return leader{}
	}
	for _, s := range servers {
		if s.ID == id {
			return leader{s.ID, s.Address}
		}
	}
	return leader{}
}

// whyNoLeader says what keeps this router from knowing one.
func (r *Router) whyNoLeader() string {
	if r.store.ClusterID() == "" {
		return "this router belongs to no cluster yet: it waits for all of RAFT_PEERS to run, or to be added with 'conveyor cluster add'"
	}
	servers, err := r.store.Servers()
	if err != nil {
		return err.Error()
	}
	var voters []string
	member := false
	for _, s := range servers {
		member = member || s.ID == r.store.ServerID()
		if s.Voter {
			voters = append(voters, fmt.Sprintf("%s at %s", s.ID, s.Address))
		}
	}
	if !member && len(servers) > 0 {
		return fmt.Sprintf("this router, %s, is no member of the cluster any more: ask another one, or add it anew with an empty data directory", r.store.ServerID())
	}
	return fmt.Sprintf("a majority of the routers must run and reach each other: %s", strings.Join(voters, ", "))
}

// handOver lets another router lead, so that a stop is no outage.
func (r *Router) handOver() {
	servers, err := r.store.Servers()
	if err != nil || len(servers) < 2 || !r.store.Leadership().Leader {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverTimeout)
	defer cancel()
	if err := r.store.TransferLeadership(ctx, ""); err != nil && !errors.Is(err, raftstore.ErrNotLeader) {
		r.logger.Warn("leadership could not be handed over before the stop", "err", err)
		return
	}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for r.store.Leadership().Leader {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// follows reports whether this router is a member, by the newest list that it has, and has caught up with another one that leads since it was started.
func (r *Router) follows() bool {
	servers, err := r.store.Servers()
	return err == nil && lists(servers, r.store.ServerID()) && r.leader().address != "" && r.store.StaleRead().Known
}

// checkLeader is a check of the ops port.
func (r *Router) checkLeader(ctx context.Context) error {
	if r.removed.Load() {
		return errors.New(removedAdvice)
	}
	select {
	case <-r.ready:
	default:
		return errors.New("the router is starting")
	}
	if r.store.Leadership().Leader {
		return r.store.Read(ctx)
	}
	stale := r.store.StaleRead()
	switch {
	case r.leader().id == "":
		return fmt.Errorf("no router leads: %s", r.whyNoLeader())
	case !stale.Known:
		return errors.New("the leader was not heard yet")
	case stale.Age > silentFor:
		return fmt.Errorf("the leader was not heard for %v", stale.Age.Round(time.Second))
	}
	return nil
}
