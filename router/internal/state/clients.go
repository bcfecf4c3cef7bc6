package state

import (
	"cmp"
	"maps"
	"slices"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// The bounds of client sessions, and with them of what they may make the state hold.
const (
	// MaxClientSessions is how many there may be in all, and MaxSessionsPerClient of one identity: a further one ends the one that was used least recently.
	MaxClientSessions    = 4096
	MaxSessionsPerClient = 256
	// MaxUnanswered is how many changes a session may have that its client has not said to have the answers of.
	MaxUnanswered = 16
	// MaxReplyBytes is the largest reply that is kept for a repeat. A larger one is left out, and made anew.
	MaxReplyBytes = 4 << 10
)

// Made is the result of a command that was made before: this one is a repeat, and changed nothing.
type Made struct {
	// Index of the command that made the change.
	Index uint64
	// Reply that came with it; it may be left out.
	Reply []byte
}

// clientSession is replaced, never changed.
type clientSession struct {
	id        uint64
	identity  string
	lastIndex uint64
	lowest    uint64
	made      []madeChange // by sequence
}

type madeChange struct {
	sequence uint64
	Made
}

// asClient applies a client's change unless it was made before.
func (m *Machine) asClient(index uint64, c *statepb.Client, apply func() any) any {
	old := m.clients[c.GetSession()]
	switch {
	case old == nil:
		return reject(ClientSessionEnded, "the client session %d has ended or never was", c.GetSession())
	case c.GetSequence() == 0:
		return reject(Malformed, "a change of client session %d has no sequence", c.GetSession())
	}
	s := *old
	s.lastIndex, s.lowest = index, max(old.lowest, c.GetLowestUnanswered())
	s.made = slices.Clone(old.made)
	s.made = slices.DeleteFunc(s.made, func(d madeChange) bool { return d.sequence < s.lowest })
	m.clients[s.id] = &s
	at, found := s.find(c.GetSequence())
	switch {
	case c.GetSequence() < s.lowest:
		return reject(Answered, "the client has said that it has the answer of change %d of its session %d", c.GetSequence(), s.id)
	case found:
		return &s.made[at].Made
	case len(s.made) >= MaxUnanswered:
		return reject(TooMany, "client session %d has %d changes whose answers it has not confirmed, which is the limit", s.id, MaxUnanswered)
	}
	result := apply()
	if _, refused := result.(*RejectedError); refused {
		return result
	}
	d := madeChange{c.GetSequence(), Made{Index: index}}
	if len(c.GetReply()) <= MaxReplyBytes {
		d.Reply = c.GetReply()
	}
	s.made = slices.Insert(s.made, at, d)
	return result
}

func (s *clientSession) find(sequence uint64) (at int, found bool) {
	return slices.BinarySearchFunc(s.made, sequence, func(d madeChange, want uint64) int { return cmp.Compare(d.sequence, want) })
}

// openClientSession returns nil: the id is the index.
func (m *Machine) openClientSession(index uint64, c *statepb.OpenClientSession) any {
	var own []*clientSession
	for _, s := range m.clients {
		if s.identity == c.GetIdentity() {
			own = append(own, s)
		}
	}
	if len(own) >= MaxSessionsPerClient {
		// Two sessions were never used last by the same command.
		oldest := slices.MinFunc(own, func(a, b *clientSession) int { return cmp.Compare(a.lastIndex, b.lastIndex) })
		delete(m.clients, oldest.id)
	} else if len(m.clients) >= MaxClientSessions {
		return reject(TooMany, "there are %d client sessions, which is the limit", MaxClientSessions)
	}
	m.clients[index] = &clientSession{id: index, identity: c.GetIdentity(), lastIndex: index}
	return nil
}

func (m *Machine) endClientSession(c *statepb.EndClientSession) any {
	if s := m.clients[c.GetSession()]; s != nil && (c.GetLastIndex() == 0 || c.GetLastIndex() == s.lastIndex) {
		delete(m.clients, s.id)
	}
	return nil
}

// Made returns what became of a change, if it was made; a *RejectedError when the session has ended, or the client had the answer.
func (m *Machine) Made(session, sequence uint64) (*Made, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := m.clients[session]
	if s == nil {
		return nil, reject(ClientSessionEnded, "the client session %d has ended or never was", session)
	}
	if sequence < s.lowest {
		return nil, reject(Answered, "the client has said that it has the answer of change %d of its session %d", sequence, session)
	}
	if at, found := s.find(sequence); found {
		made := s.made[at].Made
		return &made, nil
	}
	return nil, nil
}

// ClientSessionOf returns the identity that opened a session; ok is false when it has ended.
func (m *Machine) ClientSessionOf(session uint64) (identity string, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := m.clients[session]
	if s == nil {
		return "", false
	}
	return s.identity, true
}

// ClientSessions returns by id the index at which each session was last used.
func (m *Machine) ClientSessions() map[uint64]uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make(map[uint64]uint64, len(m.clients))
	for id, s := range m.clients {
		out[id] = s.lastIndex
	}
	return out
}

// toSnapshot and fromSnapshot convert for snapshots.
func (s *clientSession) toSnapshot() *statepb.ClientSession {
	out := &statepb.ClientSession{Id: s.id, Identity: s.identity, LastIndex: s.lastIndex, Lowest: s.lowest}
	for _, d := range s.made {
		out.Made = append(out.Made, &statepb.MadeChange{Sequence: d.sequence, Index: d.Index, Reply: d.Reply})
	}
	return out
}

func fromSnapshot(s *statepb.ClientSession) *clientSession {
	out := &clientSession{id: s.GetId(), identity: s.GetIdentity(), lastIndex: s.GetLastIndex(), lowest: s.GetLowest()}
	for _, d := range s.GetMade() {
		out.made = append(out.made, madeChange{d.GetSequence(), Made{Index: d.GetIndex(), Reply: d.GetReply()}})
	}
	return out
}

// sortedIDs returns the ids of client sessions in their order.
func sortedIDs(clients map[uint64]*clientSession) []uint64 {
	return slices.Sorted(maps.Keys(clients))
}
