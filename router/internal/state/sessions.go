package state

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// openSession returns the new *statepb.Session, whose epoch is the index.
func (m *Machine) openSession(index uint64, at int64, c *statepb.OpenSession) any {
	if c.GetSidecarId() == "" {
		return reject(Malformed, "a session needs a sidecar id")
	}
	if m.sessions[c.GetSidecarId()] != nil {
		m.dropSession(c.GetSidecarId())
	}
	s := &statepb.Session{
		SidecarId: c.GetSidecarId(), Epoch: index, Address: c.GetAddress(), HostName: c.GetHostName(), HostAddresses: c.GetHostAddresses(),
		Version: c.GetVersion(), FeatureLevel: c.GetFeatureLevel(), RegisteredAtUnixNano: at, Endpoints: c.GetEndpoints(),
	}
	m.sessions[s.GetSidecarId()] = s
	return s
}

func (m *Machine) endSession(c *statepb.EndSession) *RejectedError {
	if _, r := m.session(c.GetSidecarId(), c.GetEpoch()); r != nil {
		return r
	}
	m.dropSession(c.GetSidecarId())
	return nil
}

// dropSession takes the sidecar's stages away in the same step: what it still sends is fenced from here on.
func (m *Machine) dropSession(id string) {
	delete(m.sessions, id)
	for _, key := range slices.SortedFunc(maps.Keys(m.assignments), CompareStages) {
		if m.assignments[key].GetSidecarId() == id {
			delete(m.assignments, key)
			m.settle(key.Pipeline)
		}
	}
}

func (m *Machine) setEndpoints(c *statepb.SetEndpoints) *RejectedError {
	s, r := m.session(c.GetSidecarId(), c.GetEpoch())
	if r != nil {
		return r
	}
	s = proto.CloneOf(s)
	s.Endpoints = c.GetEndpoints()
	m.sessions[s.GetSidecarId()] = s
	return nil
}

func (m *Machine) session(id string, epoch uint64) (*statepb.Session, *RejectedError) {
	s := m.sessions[id]
	if s == nil || s.GetEpoch() != epoch {
		return nil, reject(SessionEnded, "the session %d of sidecar %s has ended", epoch, id)
	}
	return s, nil
}

// Session returns the current session of a sidecar, if it is of this epoch.
func (m *Machine) Session(id string, epoch uint64) (*statepb.Session, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, r := m.session(id, epoch)
	if r != nil {
		return nil, r
	}
	return s, nil
}
