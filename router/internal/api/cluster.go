package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/internal/version"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/state"
)

const (
	// askTimeout bounds a question to another router.
	askTimeout = 2 * time.Second
	// forgottenWithin is how long a change of the members waits for an earlier one to be complete: that takes well under a second where all is well.
	forgottenWithin = 3 * time.Second
	// maxLag is how many commands a learner may be behind and still get its vote.
	maxLag = 256
	// leaderPoll is how often is looked whether another router leads yet, and electionTimeout for how long.
	leaderPoll      = 10 * time.Millisecond
	electionTimeout = 10 * time.Second
)

// GetCluster implements controlv1.AdminServiceServer. Unless a stale answer is wanted, the leader asks every member how it does. A router that knows nothing else yet still
// says who it is, and who the others are by its log.
func (a *admin) GetCluster(ctx context.Context, req *controlv1.GetClusterRequest) (_ *controlv1.GetClusterResponse, err error) {
	view, staleness := a.stale()
	if !req.GetStale() {
		staleness = nil
		if view, err = a.view(ctx); err != nil {
			return nil, err
		}
	}
	resp := &controlv1.GetClusterResponse{
		ClusterId: view.ClusterID, Incarnation: view.Incarnation, ServerId: a.Store.ServerID(), LeaderId: a.Store.Leader(), AppliedIndex: a.Machine.Index(),
		Version: version.Get().Version, Staleness: staleness,
	}
	if resp.FeatureLevel, err = a.Controller.FeatureLevel(); err != nil {
		return nil, toWire(err)
	}
	members, err := a.Store.Membership()
	if err != nil {
		return nil, toWire(err)
	}
	if members.Committed {
		resp.MembersIndex = members.Index
	}
	for _, s := range members.Servers {
		resp.Servers = append(resp.Servers, &controlv1.ClusterServer{Id: s.ID, Address: s.Address, Voter: s.Voter})
	}
	if staleness == nil {
		a.askMembers(ctx, resp.GetServers())
	}
	ids := serverIDs(members.Servers)
	for id, d := range view.Divergences(ids) {
		resp.GetServers()[slices.Index(ids, id)].Problem = divergence(d) // whether it answers or not
	}
	if _, leads := a.Controller.Leading(); !leads {
		resp.DeadLettersUnknown = true
		return resp, nil
	}
	if resp.DeadLetters, err = a.Letters.Count(ctx); err != nil {
		resp.DeadLetterProblem = err.Error()
	}
	if err := a.lettersComplete(ctx, members.Servers); err != nil {
		resp.LetterCopiesProblem = err.Error()
	}
	return resp, nil
}

func (a *admin) lettersComplete(ctx context.Context, members []raftstore.Server) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return a.Letters.Complete(ctx, serverIDs(members))
}

func serverIDs(servers []raftstore.Server) []string {
	ids := make([]string, len(servers))
	for i, s := range servers {
		ids[i] = s.ID
	}
	return ids
}

// askMembers completes what is known of each member by what it says of itself.
func (a *admin) askMembers(ctx context.Context, members []*controlv1.ClusterServer) {
	var wg sync.WaitGroup
	for _, m := range members {
		if m.GetId() == a.Store.ServerID() {
			m.AppliedIndex, m.Version = a.Machine.Index(), version.Get().Version
			continue
		}
		wg.Go(func() {
			said, err := a.ask(ctx, m.GetId(), m.GetAddress())
			switch {
			case err != nil:
				m.Problem = err.Error()
			case said.GetServerId() != m.GetId():
				m.Problem = fmt.Sprintf("at this address is server %s: remove this member and add that one", said.GetServerId())
			default:
				m.AppliedIndex, m.Version = said.GetAppliedIndex(), said.GetVersion()
			}
		})
	}
	wg.Wait()
}

// divergence is the problem of a router whose state is not that of others.
func divergence(d *state.Divergence) string {
	if d.Outvoted {
		return fmt.Sprintf("its state behind index %d of the log is not that of the others: remove it, and add it again with an empty directory", d.Index)
	}
	return fmt.Sprintf("its state behind index %d of the log is not that of %s", d.Index, strings.Join(d.From, ", "))
}

// ask asks a member how it does. What answers is another one if it has the number in the id, and not the id.
func (a *admin) ask(ctx context.Context, id, address string) (*controlv1.GetClusterResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := a.Dial(id, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	said, err := controlv1.NewAdminServiceClient(conn).GetCluster(ctx, &controlv1.GetClusterRequest{Stale: true})
	if err != nil {
		return nil, errors.New(status.Convert(err).Message())
	}
	return said, nil
}

// AddRouter implements controlv1.AdminServiceServer.
func (a *admin) AddRouter(ctx context.Context, req *controlv1.AddRouterRequest) (*controlv1.AddRouterResponse, error) {
	if _, err := env.ParseHostPort(req.GetAddress()); err != nil {
		return nil, invalid("address %.260q of the new router: %v", req.GetAddress(), err)
	}
	if _, err := a.view(ctx); err != nil {
		return nil, err
	}
	said, err := a.probe(ctx, req.GetAddress())
	if err != nil {
		return nil, fail(codes.FailedPrecondition, reasonRouterUnreachable, "the router at %s does not answer: %v; start it with an empty data directory, and with "+
			"RAFT_PEERS listing the cluster and itself", req.GetAddress(), err)
	}
	members, err := a.Store.Membership()
	if err != nil {
		return nil, toWire(err)
	}
	for _, s := range members.Servers {
		switch {
		case s.ID == said.GetServerId() && s.Address == req.GetAddress():
			return &controlv1.AddRouterResponse{Server: &controlv1.ClusterServer{Id: s.ID, Address: s.Address, Voter: s.Voter}}, nil
		case s.ID == said.GetServerId():
			return nil, fail(codes.FailedPrecondition, reasonConflict, "router %s is a member already, at %s", s.ID, s.Address)
		case s.Address == req.GetAddress():
			return nil, fail(codes.FailedPrecondition, reasonConflict, "member %s had the address %s before router %s came there: remove %s first", s.ID, s.Address, said.GetServerId(), s.ID)
		case Number(s.ID) == Number(said.GetServerId()):
			return nil, fail(codes.FailedPrecondition, reasonConflict, "router %s at %s has the number of member %s at %s: give it another RAFT_NODE_ID, or remove %s first",
				said.GetServerId(), req.GetAddress(), s.ID, s.Address, s.ID)
		}
	}
	if err := a.othersForgotten(ctx); err != nil {
		return nil, err
	}
	if id := said.GetClusterId(); id != "" {
		return nil, fail(codes.FailedPrecondition, reasonConflict, "router %s at %s belongs to cluster %s: only a router with an empty data directory can be added", said.GetServerId(), req.GetAddress(), id)
	}
	if _, err := a.Store.AddLearner(ctx, said.GetServerId(), req.GetAddress(), members.Index); err != nil {
		return nil, toWire(err)
	}
	a.Logger.Info("router added as a learner", "server", said.GetServerId(), "address", req.GetAddress())
	return &controlv1.AddRouterResponse{Server: &controlv1.ClusterServer{Id: said.GetServerId(), Address: req.GetAddress()}}, nil
}

func (a *admin) probe(ctx context.Context, address string) (*controlv1.ProbeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := a.Dial("", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	said, err := controlv1.NewRaftServiceClient(conn).Probe(ctx, &controlv1.ProbeRequest{})
	if err != nil {
		return nil, errors.New(status.Convert(err).Message())
	}
	return said, nil
}

// member finds a member, with the membership that it is of.
func (a *admin) member(ctx context.Context, id string) (raftstore.Server, raftstore.Membership, error) {
	if _, err := a.view(ctx); err != nil {
		return raftstore.Server{}, raftstore.Membership{}, err
	}
	members, err := a.Store.Membership()
	if err != nil {
		return raftstore.Server{}, members, toWire(err)
	}
	for _, s := range members.Servers {
		if s.ID == id {
			return s, members, nil
		}
	}
	return raftstore.Server{}, members, fail(codes.NotFound, reasonNotFound, "router %.100q is not a member of the cluster", id)
}

// PromoteRouter implements controlv1.AdminServiceServer.
func (a *admin) PromoteRouter(ctx context.Context, req *controlv1.PromoteRouterRequest) (*controlv1.PromoteRouterResponse, error) {
	s, members, err := a.member(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	if s.Voter {
		return &controlv1.PromoteRouterResponse{}, nil
	}
	said, err := a.ask(ctx, s.ID, s.Address)
	switch {
	case err != nil:
		return nil, fail(codes.FailedPrecondition, reasonLagging, "router %s at %s does not answer: %v", s.ID, s.Address, err)
	case said.GetServerId() != s.ID:
		return nil, fail(codes.FailedPrecondition, reasonConflict, "at %s is router %s and not %s", s.Address, said.GetServerId(), s.ID)
	case said.GetAppliedIndex()+maxLag < a.Machine.Index():
		return nil, fail(codes.FailedPrecondition, reasonLagging, "router %s has come to %d of %d: wait until it has caught up", s.ID, said.GetAppliedIndex(), a.Machine.Index())
	}
	if _, err := a.Store.Promote(ctx, s.ID, members.Index); err != nil {
		return nil, toWire(err)
	}
	a.Logger.Info("router votes from now on", "server", s.ID)
	return &controlv1.PromoteRouterResponse{}, nil
}

// RemoveRouter implements controlv1.AdminServiceServer. A leader that is to be removed hands leadership over and refuses, for its successor to do it.
func (a *admin) RemoveRouter(ctx context.Context, req *controlv1.RemoveRouterRequest) (*controlv1.RemoveRouterResponse, error) {
	s, members, err := a.member(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	if !req.GetForce() {
		if err := a.othersForgotten(ctx); err != nil {
			return nil, err
		}
	}
	if s.Voter && !req.GetForce() {
		if err := a.staysHealthy(ctx, s, members); err != nil {
			return nil, err
		}
	}
	if s.ID == a.Store.ServerID() {
		if err := a.Store.TransferLeadership(ctx, ""); err != nil {
			return nil, toWire(fmt.Errorf("hand leadership over before leaving: %w", err))
		}
		return nil, toWire(raftstore.ErrNotLeader)
	}
	if _, err := a.Store.Remove(ctx, s.ID, members.Index); err != nil {
		return nil, toWire(err)
	}
	a.Logger.Info("router removed", "server", s.ID, "address", s.Address)
	return &controlv1.RemoveRouterResponse{}, nil
}

// othersForgotten waits a while until the servers of dead letters have forgotten every router that was removed, and refuses a change before that: they count those that they
// have not forgotten, and when too many of these are gone they never have a majority again.
func (a *admin) othersForgotten(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, forgottenWithin)
	defer cancel()
	for {
		changed := a.Machine.Changed()
		members, err := a.Store.Membership()
		if err != nil {
			return toWire(err)
		}
		var left []string
		for id := range a.Machine.View().Routers {
			if !slices.ContainsFunc(members.Servers, func(s raftstore.Server) bool { return s.ID == id }) {
				left = append(left, id)
			}
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			slices.Sort(left)
			return fail(codes.FailedPrecondition, reasonConflict, "the servers of dead letters have not yet forgotten router %s, which was removed: it takes a majority of their routers, and is tried "+
				"all the time; change the members again after that", strings.Join(left, ", "))
		}
	}
}

// staysHealthy refuses the removal of a voter after which those voters that answer would be no majority.
func (a *admin) staysHealthy(ctx context.Context, leaves raftstore.Server, members raftstore.Membership) error {
	var left []*controlv1.ClusterServer
	for _, s := range members.Servers {
		if s.Voter && s.ID != leaves.ID {
			left = append(left, &controlv1.ClusterServer{Id: s.ID, Address: s.Address})
		}
	}
	if len(left) == 0 {
		return fail(codes.FailedPrecondition, reasonConflict, "router %s is the only voter of the cluster", leaves.ID)
	}
	a.askMembers(ctx, left)
	silent := slices.DeleteFunc(slices.Clone(left), func(m *controlv1.ClusterServer) bool { return m.GetProblem() == "" })
	if len(left)-len(silent) > len(left)/2 {
		return nil
	}
	var names []string
	for _, m := range silent {
		names = append(names, fmt.Sprintf("%s (%s)", m.GetId(), m.GetProblem()))
	}
	return fail(codes.FailedPrecondition, reasonConflict, "without router %s the cluster would have %d voters, of which these do not answer: %v; that is no majority: "+
		"bring them back first, or force it", leaves.ID, len(left), names)
}

// TransferLeadership implements controlv1.AdminServiceServer. It answers when another router leads.
func (a *admin) TransferLeadership(ctx context.Context, req *controlv1.TransferLeadershipRequest) (*controlv1.TransferLeadershipResponse, error) {
	if _, err := a.view(ctx); err != nil {
		return nil, err
	}
	if req.GetTo() == a.Store.ServerID() {
		return &controlv1.TransferLeadershipResponse{LeaderId: req.GetTo()}, nil
	}
	if req.GetTo() != "" {
		s, _, err := a.member(ctx, req.GetTo())
		if err != nil {
			return nil, err
		}
		if !s.Voter {
			return nil, fail(codes.FailedPrecondition, reasonConflict, "router %s does not vote, and so cannot lead: promote it first", s.ID)
		}
		// A transfer to one that is down fails after nothing could be changed for a while, and without saying why.
		switch said, err := a.ask(ctx, s.ID, s.Address); {
		case err != nil:
			return nil, fail(codes.FailedPrecondition, reasonRouterUnreachable, "router %s at %s does not answer, and leadership stays where it is: %v", s.ID, s.Address, err)
		case said.GetServerId() != s.ID:
			return nil, fail(codes.FailedPrecondition, reasonConflict, "at %s is router %s and not %s", s.Address, said.GetServerId(), s.ID)
		}
	}
	if err := a.Store.TransferLeadership(ctx, req.GetTo()); err != nil {
		return nil, toWire(fmt.Errorf("transfer leadership: %w", err))
	}
	ctx, cancel := context.WithTimeout(ctx, electionTimeout)
	defer cancel()
	tick := time.NewTicker(leaderPoll)
	defer tick.Stop()
	for {
		if id := a.Store.Leader(); id != "" && id != a.Store.ServerID() {
			return &controlv1.TransferLeadershipResponse{LeaderId: id}, nil
		}
		select {
		case <-ctx.Done():
			return nil, toWire(context.Cause(ctx))
		case <-tick.C:
		}
	}
}
