package router

import (
	"context"
	"slices"
	"sync"
	"time"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/api"
)

const (
	// membersEvery is how often a router that knows no leader asks the others whether it is still a member.
	membersEvery  = 2 * time.Second
	membersWait   = 2 * time.Second
	removedAdvice = "removed from the cluster: stop it and empty its directory before it is added again"
)

// watchRemoval notices that this router was removed. That is for good: its id, which was made with its directory, is never added again.
func (r *Router) watchRemoval(ctx context.Context) error {
	if len(r.cfg.Peers) < 2 {
		return nil
	}
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	var asked time.Time
	for {
		removed, ask := r.knowsRemoval()
		if ask && time.Since(asked) >= membersEvery {
			removed, asked = r.askRemoval(ctx), time.Now()
		}
		if removed {
			r.removed.Store(true)
			r.logger.Error(removedAdvice, "server", r.store.ServerID(), "dir", r.cfg.DataDir)
			if err := r.store.Retire(); err != nil {
				r.logger.Warn("this router goes on standing for election, which the others refuse", "err", err)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// knowsRemoval reports whether the log here says that this router was removed. The entry that says so often does not come, since nobody sends to a server that is no
// member; ask reports whether the others may know more. One that waits to be added, or has not yet caught up with its own addition, was never a member.
func (r *Router) knowsRemoval() (removed, ask bool) {
	own, err := r.store.Membership()
	if err != nil || own.Since == 0 {
		return false, false
	}
	if own.Committed && own.Index > own.Since && !lists(own.Servers, r.store.ServerID()) {
		return true, false
	}
	return false, r.store.Leader() == "" // who leads sends to members only
}

func lists(servers []raftstore.Server, id string) bool {
	return slices.ContainsFunc(servers, func(s raftstore.Server) bool { return s.ID == id })
}

// askRemoval asks the others, and believes a list of members that is committed and newer than one that has this router.
func (r *Router) askRemoval(ctx context.Context) bool {
	own, err := r.store.Membership()
	if err != nil {
		return false
	}
	self := r.store.ServerID()
	var addresses []string
	for _, s := range own.Servers {
		if s.ID != self {
			addresses = append(addresses, s.Address)
		}
	}
	for _, p := range r.cfg.Peers { // all that were members may have been replaced
		if a := p.Address.String(); a != r.ownAddress() && !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, membersWait)
	defer cancel()
	answers := make(chan bool, len(addresses))
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, address := range addresses {
		wg.Go(func() {
			said, err := r.askCluster(ctx, address)
			answers <- err == nil && said.GetClusterId() == r.store.ClusterID() && said.GetMembersIndex() > own.Since &&
				!slices.ContainsFunc(said.GetServers(), func(s *controlv1.ClusterServer) bool { return s.GetId() == self })
		})
	}
	for range addresses {
		if <-answers {
			cancel()
			return true
		}
	}
	return false
}

// askCluster asks another router what it knows by itself of the cluster: whichever is at the address, since all of those that this one knew may have been replaced.
func (r *Router) askCluster(ctx context.Context, address string) (*controlv1.GetClusterResponse, error) {
	conn, err := r.dial("", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return controlv1.NewAdminServiceClient(conn).GetCluster(ctx, &controlv1.GetClusterRequest{Stale: true})
}

func (r *Router) ownAddress() string {
	self, _ := r.cfg.self()
	return self.Address.String()
}

// gone is what callers are told of a router that was removed.
func (r *Router) gone() error {
	if r.removed.Load() {
		return api.Removed(r.store.ServerID())
	}
	return nil
}
