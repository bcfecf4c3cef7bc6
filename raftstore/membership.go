package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// never is longer than any process runs.
const never = 10 * 365 * 24 * time.Hour

// Membership is the list of members as this node knows it.
type Membership struct {
	// Index is where in the log the list stands, or the one before while this one is not known to be committed: the condition for changing it. 0 when none is known to be.
	Index uint64
	// Committed: this node knows that the list is committed. One that is not may be taken back.
	Committed bool
	// Servers are the members.
	Servers []Server
	// Since is the index of a committed list that has this node, and 0 while none is known. A committed list of a higher index without this node says that it was removed, since an id is
	// never added again. One of a lower index is from before it was added: that is what a node is sent first.
	Since uint64
}

// Servers lists the members of the cluster.
func (s *Store) Servers() ([]Server, error) {
	m, err := s.Membership()
	return m.Servers, err
}

// Membership lists the members with the index that changes to them are conditional on.
func (s *Store) Membership() (Membership, error) {
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return Membership{}, fmt.Errorf("read the cluster's configuration: %w", err)
	}
	out := Membership{Since: s.self.get().Member}
	// The library does not say where in the log its newest list stands.
	if m := s.fsm.members.Load(); m != nil {
		out.Index = m.index
		out.Committed = slices.Equal(m.list.Servers, f.Configuration().Servers)
	}
	out.Servers = serversOf(f.Configuration())
	return out, nil
}

func serversOf(list raft.Configuration) (servers []Server) {
	for _, server := range list.Servers {
		servers = append(servers, Server{ID: string(server.ID), Address: string(server.Address), Voter: server.Suffrage == raft.Voter})
	}
	return servers
}

// noteMember remembers the first committed list that has this node, durably: what it hears later may be older.
func (s *Store) noteMember(index uint64, list raft.Configuration) {
	self := s.self.get()
	if self.Member > 0 || !slices.ContainsFunc(list.Servers, func(server raft.Server) bool { return string(server.ID) == self.ServerID }) {
		return
	}
	if err := s.self.update(func(id *identity) { id.Member = index }); err != nil {
		s.fail(fmt.Errorf("%w: note that this server is a member: %w", ErrDiskFailed, err))
	}
}

// AddLearner adds a server that receives the log and does not vote; id is what its ServerID says, with the incarnation. prevIndex is the Membership.Index that the
// change was decided on; another one meanwhile makes it ErrRefused, and 0 makes it unconditional. It waits until the change is committed and returns its index.
// Errors besides are ErrNotLeader, ErrUnknownOutcome and ErrAlone, as for every change to the members.
func (s *Store) AddLearner(ctx context.Context, id, address string, prevIndex uint64) (index uint64, err error) {
	return s.change(ctx, func() raft.IndexFuture {
		return s.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(address), prevIndex, applyTimeout)
	})
}

// Promote gives a learner its vote. Whether it has caught up is for the caller to see: until it has, it is a voter that is down. See AddLearner.
func (s *Store) Promote(ctx context.Context, id string, prevIndex uint64) (index uint64, err error) {
	m, err := s.Membership()
	if err != nil {
		return 0, err
	}
	for _, server := range m.Servers {
		if server.ID == id {
			return s.change(ctx, func() raft.IndexFuture {
				return s.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(server.Address), prevIndex, applyTimeout)
			})
		}
	}
	return 0, fmt.Errorf("%w: server %s is not a member: add it as a learner first", ErrRefused, id)
}

// SetAddress changes where a member is reached, and nothing else. See AddLearner.
func (s *Store) SetAddress(ctx context.Context, id, address string, prevIndex uint64) (index uint64, err error) {
	m, err := s.Membership()
	if err != nil {
		return 0, err
	}
	for _, server := range m.Servers {
		if server.ID != id {
			continue
		}
		return s.change(ctx, func() raft.IndexFuture {
			if server.Voter {
				return s.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(address), prevIndex, applyTimeout)
			}
			return s.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(address), prevIndex, applyTimeout)
		})
	}
	return 0, fmt.Errorf("%w: server %s is not a member", ErrRefused, id)
}

// Remove takes a server out of the cluster; a leader that removes itself steps down afterwards. See AddLearner.
func (s *Store) Remove(ctx context.Context, id string, prevIndex uint64) (index uint64, err error) {
	return s.change(ctx, func() raft.IndexFuture { return s.raft.RemoveServer(raft.ServerID(id), prevIndex, applyTimeout) })
}

// Retire keeps this node from standing for election, after it was removed: the others would refuse it for ever.
func (s *Store) Retire() error {
	c := s.raft.ReloadableConfig()
	c.HeartbeatTimeout, c.ElectionTimeout = never, never
	if err := s.raft.ReloadConfig(c); err != nil {
		return fmt.Errorf("stand for election no more: %w", err)
	}
	return nil
}

func (s *Store) change(ctx context.Context, start func() raft.IndexFuture) (uint64, error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	if s.alone {
		return 0, ErrAlone
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("change the members: %w", context.Cause(ctx))
	}
	future := start()
	err := s.await(ctx, future)
	switch {
	case err == nil:
		return future.Index(), nil
	case errors.Is(err, ErrNotLeader), errors.Is(err, ErrClosed), ctx.Err() != nil, errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore),
		errors.Is(err, ErrDiskFailed): // it may have been written all the same
		return 0, fmt.Errorf("change the members: %w", err)
	}
	// What is left comes from before the change was written.
	return 0, fmt.Errorf("%w: %w", ErrRefused, said(err))
}

// said finds what raft said in an error of await.
func said(err error) error {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range all.Unwrap() {
			if !errors.Is(e, ErrUnknownOutcome) {
				return e
			}
		}
	}
	return err
}

// TransferLeadership hands leadership to the server with the id, or with "" to the one that is best up to date. It returns when that server was told to stand for
// election; LeadershipChanges says when this node leads no more. An error says that this node goes on leading, unless it is ErrUnknownOutcome.
func (s *Store) TransferLeadership(ctx context.Context, id string) error {
	if err := s.usable(); err != nil {
		return err
	}
	if s.alone {
		return ErrAlone
	}
	if !s.Leadership().Leader {
		return ErrNotLeader
	}
	if id == "" {
		return s.await(ctx, s.raft.LeadershipTransfer())
	}
	m, err := s.Membership()
	if err != nil {
		return err
	}
	for _, server := range m.Servers {
		if server.ID == id && server.Voter {
			return s.await(ctx, s.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(server.Address)))
		}
	}
	return fmt.Errorf("%w: server %s is not a voter", ErrRefused, id)
}
