package state

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/conveyor-etl/conveyor/raftstore"
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

// Decided is the result of a client's command that repeats an earlier one, and so changed nothing: it tells how that one was decided.
type Decided struct {
	// Index of the command that decided it.
	Index uint64
	// Reply that came with it; it may be left out.
	Reply []byte
	// Refused by the leader, for what Reply says.
	Refused bool
	// Rejection by the state; nil when it did not refuse.
	Rejection *RejectedError
}

// clientSession is replaced, never changed.
type clientSession struct {
	id        uint64
	identity  string
	lastIndex uint64
	lowest    uint64
	decided   []decidedChange // by sequence
}

type decidedChange struct {
	sequence uint64
	Decided
}

// asClient applies a client's change unless it was decided before. What is decided stays so, a refusal too: its client may have been told, and a copy that comes late
// must not find the state of another time and be made.
func (m *Machine) asClient(index uint64, c *statepb.Command, apply func() any) any {
	client := c.GetClient()
	old := m.clients[client.GetSession()]
	switch {
	case old == nil:
		return reject(ClientSessionEnded, "the client session %d has ended or never was", client.GetSession())
	case client.GetSequence() == 0:
		return reject(Malformed, "a change of client session %d has no sequence", client.GetSession())
	}
	s := *old
	s.lastIndex, s.lowest = index, max(old.lowest, client.GetLowestUnanswered())
	s.decided = slices.DeleteFunc(slices.Clone(old.decided), func(d decidedChange) bool { return d.sequence < s.lowest })
	m.clients[s.id] = &s
	at, found := s.find(client.GetSequence())
	switch {
	case client.GetSequence() < s.lowest:
		return reject(Answered, "the client has said that it has the answer of change %d of its session %d", client.GetSequence(), s.id)
	case found:
		return &s.decided[at].Decided
	case len(s.decided) >= MaxUnanswered:
		return reject(TooMany, "client session %d has %d changes whose answers it has not confirmed, which is the limit", s.id, MaxUnanswered)
	}
	result := apply()
	d := decidedChange{client.GetSequence(), Decided{Index: index, Refused: c.GetAnswerClient().GetRefused()}}
	switch r := result.(type) {
	case raftstore.Halt:
		return result
	case *RejectedError:
		if c.GetPutResources() != nil && r.Reason == Conflict {
			// It is not decided yet: the leader compares with what is there now and puts that, or gives up by AnswerClient.
			return result
		}
		d.Rejection = &RejectedError{Reason: r.Reason, Message: clip(r.Message)}
	default:
		if len(client.GetReply()) <= MaxReplyBytes {
			d.Reply = client.GetReply()
		}
	}
	s.decided = slices.Insert(s.decided, at, d)
	return result
}

// clip bounds a message that is kept. A client may have put long names into it, and invalid bytes could not be written to a snapshot.
func clip(message string) string {
	return strings.ToValidUTF8(message[:min(len(message), MaxReplyBytes)], "")
}

func (s *clientSession) find(sequence uint64) (at int, found bool) {
	return slices.BinarySearchFunc(s.decided, sequence, func(d decidedChange, want uint64) int { return cmp.Compare(d.sequence, want) })
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

// Decided returns how a change was decided, or nil when it was not; a *RejectedError when the session has ended, or the client had the answer.
func (m *Machine) Decided(session, sequence uint64) (*Decided, error) {
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
		d := s.decided[at].Decided
		return &d, nil
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
	for _, d := range s.decided {
		change := &statepb.DecidedChange{Sequence: d.sequence, Index: d.Index, Reply: d.Reply, Refused: d.Refused}
		if r := d.Rejection; r != nil {
			change.Reason, change.Message = string(r.Reason), r.Message
		}
		out.Decided = append(out.Decided, change)
	}
	return out
}

func fromSnapshot(s *statepb.ClientSession) *clientSession {
	out := &clientSession{id: s.GetId(), identity: s.GetIdentity(), lastIndex: s.GetLastIndex(), lowest: s.GetLowest()}
	for _, c := range s.GetDecided() {
		d := decidedChange{c.GetSequence(), Decided{Index: c.GetIndex(), Reply: c.GetReply(), Refused: c.GetRefused()}}
		if c.GetReason() != "" {
			d.Rejection = &RejectedError{Reason: Reason(c.GetReason()), Message: c.GetMessage()}
		}
		out.decided = append(out.decided, d)
	}
	return out
}

// sortedIDs returns the ids of client sessions in their order.
func sortedIDs(clients map[uint64]*clientSession) []uint64 {
	return slices.Sorted(maps.Keys(clients))
}
