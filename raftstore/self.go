package raftstore

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// nameOf is the name in a server's id, which the incarnation follows.
func nameOf(serverID string) string {
	if at := strings.LastIndexByte(serverID, '-'); at >= 0 {
		return serverID[:at]
	}
	return serverID
}

// self is the identity of an open node. A node that waits for a cluster learns its id later.
type self struct {
	dir string
	mu  sync.Mutex
	id  identity
}

func (s *self) get() identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// update changes the identity on disk, and then here.
func (s *self) update(change func(*identity)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.updateLocked(change)
}

func (s *self) updateLocked(change func(*identity)) error {
	id := s.id
	change(&id)
	id.checked = true
	if id == s.id {
		return nil
	}
	if err := id.save(s.dir); err != nil {
		return err
	}
	s.id = id
	return nil
}

// found takes the id of a new cluster, and false when this node has joined another one meanwhile.
func (s *self) found(clusterID string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id.ClusterID != "" {
		return false, nil
	}
	return true, s.updateLocked(func(id *identity) { id.ClusterID = clusterID })
}

// target says for whom a call is meant.
func (s *self) target(id raft.ServerID, from raft.RPCHeader) *controlv1.RaftTarget {
	return &controlv1.RaftTarget{
		ClusterId: s.get().ClusterID, TargetServerId: string(id), ProtocolVersion: uint32(from.ProtocolVersion), SenderId: from.ID, SenderAddress: from.Addr,
	}
}

// admit returns an error for a call that is meant for another server or comes from another cluster. A server that waits for a cluster joins that of the first
// call which knows its id: nobody can know that who has not met it or been told.
func (s *self) admit(clusterID, serverID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case serverID != s.id.ServerID:
		return fmt.Errorf("the call is meant for server %q, and this is server %q: a server whose disk was replaced is a new one, to be added as such",
			serverID, s.id.ServerID)
	case clusterID == "":
		return errors.New("the call names no cluster")
	case s.id.ClusterID == "":
		return s.updateLocked(func(id *identity) { id.ClusterID, id.Joined = clusterID, true })
	case clusterID != s.id.ClusterID:
		return fmt.Errorf("the call comes from cluster %s, and this server belongs to cluster %s", clusterID, s.id.ClusterID)
	}
	return nil
}
