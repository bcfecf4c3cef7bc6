package raftstore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// check completes the configuration.
func (c *Config) check() error {
	if err := c.Log.Validate(); err != nil {
		return err
	}
	if len(c.Peers) == 0 {
		c.Timeouts = Timeouts{aloneTimeout, aloneTimeout, aloneTimeout}
		return nil
	}
	if c.Timeouts == (Timeouts{}) {
		c.Timeouts = DefaultTimeouts
	}
	names, addresses, listed := map[string]bool{}, map[string]bool{}, false
	for _, p := range c.Peers {
		if p.ServerName == "" || p.Address == "" {
			return errors.New("a peer needs a name and an address")
		}
		if names[p.ServerName] || addresses[p.Address] {
			return fmt.Errorf("peer %s at %s is listed twice, or shares its address", p.ServerName, p.Address)
		}
		names[p.ServerName], addresses[p.Address] = true, true
		listed = listed || p == Peer{c.ServerName, c.Address}
	}
	if !listed {
		return fmt.Errorf("the peers must list this server too, as %s at %s", c.ServerName, c.Address)
	}
	return nil
}

// found makes the identity, and for a cluster of one its first configuration, once. A crash in between is finished by the next start.
func (s *Store) found(cfg *Config, conf *raft.Config, snapshots raft.SnapshotStore) error {
	exists, err := raft.HasExistingState(s.log, s.log, snapshots)
	if err != nil {
		return fmt.Errorf("look for raft state in %s: %w", cfg.Dir, err)
	}
	id, known, err := loadIdentity(cfg.Dir)
	switch {
	case err != nil:
		return err
	case known && id.Founded && !exists:
		return &DamagedError{Path: cfg.Dir, Cause: errors.New("it has been in use, and its log and snapshots are gone")}
	case !known && exists:
		return &DamagedError{Path: cfg.Dir, Cause: fmt.Errorf("%s is missing", identityFile)}
	case exists && id.ClusterID == "":
		return &DamagedError{Path: cfg.Dir, Cause: fmt.Errorf("%s names no cluster, and there is a log", identityFile)}
	case !known:
		id = newIdentity(cfg.ServerName)
		if err := id.save(cfg.Dir); err != nil {
			return err
		}
	}
	s.self = &self{dir: cfg.Dir, id: id}
	if !exists && !id.Joined {
		// A founding that ended before the configuration was written has told nobody the cluster's id.
		s.self.id.ClusterID = ""
	}
	// What raft stores is told to others, who count on it: from then on an empty log is a loss.
	s.guard.used = sync.OnceValue(func() error { return s.self.update(func(id *identity) { id.Founded = true }) })
	s.fsm.listed = s.noteMember
	conf.LocalID = raft.ServerID(id.ServerID)
	s.trans = newTransport(s.self, cfg)
	s.server = newService(s.trans)
	if s.alone && id.Joined && !exists {
		return fmt.Errorf("open raft store: %s has joined a cluster: %w", cfg.Dir, ErrSeveralServers)
	}
	if s.alone && !exists {
		if _, err := s.self.found(newClusterID()); err != nil {
			return err
		}
		servers := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: conf.LocalID, Address: s.trans.LocalAddr()}}}
		if err := raft.BootstrapCluster(conf, s.log, s.log, snapshots, s.trans, servers); err != nil {
			return fmt.Errorf("found the cluster: %w", err)
		}
	}
	return s.self.update(func(id *identity) { id.Founded = id.Founded || exists || s.alone })
}

// meet founds the cluster if that is for this server to do. It ends when that is decided, and with the store.
func (s *Store) meet(cfg *Config) {
	lowest := slices.MinFunc(cfg.Peers, func(a, b Peer) int { return strings.Compare(a.ServerName, b.ServerName) })
	if lowest.ServerName != cfg.ServerName {
		s.logger.Info("waiting for a cluster", "server", s.ServerID(), "founder", lowest.ServerName)
		return
	}
	var said string
	for {
		done, why := s.tryFound(cfg)
		if why != said {
			s.logger.Info("founding a cluster", "server", s.ServerID(), "state", why)
			said = why
		}
		if done {
			return
		}
		select {
		case <-s.closing:
			return
		case <-time.After(cfg.Timeouts.Heartbeat):
		}
	}
}

// tryFound asks every peer once. A peer with state means that there is a cluster, which this server must not divide.
func (s *Store) tryFound(cfg *Config) (done bool, why string) {
	if s.ClusterID() != "" {
		return true, "this server was added to a cluster"
	}
	var first raft.Configuration
	for _, p := range cfg.Peers {
		id := s.ServerID()
		if p.ServerName != cfg.ServerName {
			m, err := s.trans.probe(p)
			switch {
			case err != nil:
				return false, fmt.Sprintf("server %s at %s does not answer: %v", p.ServerName, p.Address, err)
			case m.GetClusterId() != "":
				return true, fmt.Sprintf("server %s belongs to cluster %s: this server waits to be added to it", m.GetServerId(), m.GetClusterId())
			case nameOf(m.GetServerId()) != p.ServerName:
				return false, fmt.Sprintf("at %s is server %s, not %s", p.Address, m.GetServerId(), p.ServerName)
			}
			id = m.GetServerId()
		}
		first.Servers = append(first.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(id), Address: raft.ServerAddress(p.Address)})
	}
	ok, err := s.self.found(newClusterID())
	switch {
	case err != nil:
		return false, err.Error()
	case !ok:
		return true, "this server was added to a cluster"
	}
	future := s.raft.BootstrapCluster(first)
	bootstrapped := make(chan error, 1)
	go func() { bootstrapped <- future.Error() }() // ends with the future, as in await
	select {
	case err = <-bootstrapped:
	case <-s.stopped:
		return true, "stopped"
	}
	if err == nil {
		err = s.self.update(func(id *identity) { id.Founded = true })
	}
	if err != nil {
		return true, fmt.Sprintf("the first configuration was not written, start again: %v", err)
	}
	return true, "founded"
}
