// Package state is the router's replicated state: a pure function of its log.
//
// Nothing here reads a clock, draws at random, or lets the order of a map into what it makes. Values that reads return are shared and must not be changed;
// commands replace them.
package state

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

// Reason says why a command was refused.
type Reason string

// The reasons.
const (
	NotFound     Reason = "NOT_FOUND"
	Conflict     Reason = "CONFLICT"
	SessionEnded Reason = "SESSION_ENDED"
	Malformed    Reason = "MALFORMED"
	// ClientSessionEnded: a change came under a client session that has ended.
	ClientSessionEnded Reason = "CLIENT_SESSION_ENDED"
	// Answered: the client had said that it has the answer.
	Answered Reason = "ANSWERED"
	TooMany  Reason = "TOO_MANY"
)

// RejectedError is a command's result when it changed nothing.
type RejectedError struct {
	Reason  Reason
	Message string
}

// Error is the message.
func (r *RejectedError) Error() string { return r.Message }

func reject(reason Reason, format string, args ...any) *RejectedError {
	return &RejectedError{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// ResourceKey names a resource.
type ResourceKey struct{ Kind, Namespace, Name string }

// StageKey names a stage of a pipeline; Pipeline is namespace/name.
type StageKey struct{ Pipeline, Stage string }

type laneKey struct{ stage, source, partition string }

// Machine is the state. Apply, Snapshot and Restore are for the log; the other methods read and may be called at any time, concurrently.
type Machine struct {
	mu          sync.RWMutex
	index       uint64
	clusterID   string
	incarnation uint64
	resources   map[ResourceKey]*statepb.Resource
	sessions    map[string]*statepb.Session
	pipelines   map[string]*statepb.Pipeline
	assignments map[StageKey]*statepb.Assignment
	lanes       map[string]map[laneKey]*statepb.Checkpoint
	routers     map[string]*statepb.Router
	clients     map[uint64]*clientSession
	letterMark  *statepb.LetterMark
	signingKey  *statepb.AdoptSigningKey
	// latest is the latest time of a command, as far as it is known. It is no part of the state: nothing that is applied depends on it.
	latest int64

	view    *View         // nil when it is out of date
	changed chan struct{} // closed and replaced at changes other than of checkpoints
	events  eventLog

	fingerprints fingerprints
}

var _ raftstore.StateMachine = (*Machine)(nil)

// New returns an empty state.
func New() *Machine {
	m := &Machine{changed: make(chan struct{})}
	m.clear()
	return m
}

func (m *Machine) clear() {
	m.index, m.clusterID, m.incarnation, m.latest = 0, "", 0, 0
	m.resources = map[ResourceKey]*statepb.Resource{}
	m.sessions = map[string]*statepb.Session{}
	m.pipelines = map[string]*statepb.Pipeline{}
	m.assignments = map[StageKey]*statepb.Assignment{}
	m.lanes = map[string]map[laneKey]*statepb.Checkpoint{}
	m.routers = map[string]*statepb.Router{}
	m.clients = map[uint64]*clientSession{}
	m.letterMark, m.signingKey = nil, nil
	m.view = nil
	m.events = eventLog{}
	m.fingerprints.copied, m.fingerprints.last = nil, nil
}

// Apply implements raftstore.StateMachine. Its value is nil, a *RejectedError, or what the command's function documents.
func (m *Machine) Apply(index uint64, cmd []byte) any {
	var c statepb.Command
	if err := proto.Unmarshal(cmd, &c); err != nil {
		return reject(Malformed, "the command cannot be read")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.index
	m.index = index
	m.latest = max(m.latest, c.GetAtUnixNano())
	result := m.apply(index, &c)
	m.keepForFingerprint(before)
	return result
}

func (m *Machine) apply(index uint64, c *statepb.Command) any {
	// These come often or once, and are no part of the view.
	switch k := c.GetKind().(type) {
	case *statepb.Command_StoreCheckpoints:
		return m.storeCheckpoints(k.StoreCheckpoints)
	case *statepb.Command_StoreLetterMark:
		return m.storeLetterMark(k.StoreLetterMark)
	case *statepb.Command_AdoptSigningKey:
		return value(m.adoptSigningKey(k.AdoptSigningKey))
	}
	apply := func() any { return m.dispatch(index, c) }
	var result any
	if c.GetClient() != nil {
		result = m.asClient(index, c, apply)
	} else {
		result = apply()
	}
	if _, refused := result.(*RejectedError); !refused && result != any(0) {
		close(m.changed)
		m.changed = make(chan struct{})
	}
	m.view = nil
	return result
}

func (m *Machine) dispatch(index uint64, c *statepb.Command) any {
	switch k := c.GetKind().(type) {
	case *statepb.Command_Found:
		if m.clusterID == "" {
			m.clusterID, m.incarnation = k.Found.GetClusterId(), k.Found.GetIncarnation()
		}
		return nil
	case *statepb.Command_PutResources:
		return value(m.putResources(index, c.GetAtUnixNano(), k.PutResources))
	case *statepb.Command_DeleteResource:
		return value(m.deleteResource(index, k.DeleteResource))
	case *statepb.Command_OpenSession:
		return m.openSession(index, c.GetAtUnixNano(), k.OpenSession)
	case *statepb.Command_EndSession:
		return value(m.endSession(k.EndSession))
	case *statepb.Command_SetEndpoints:
		return value(m.setEndpoints(k.SetEndpoints))
	case *statepb.Command_AdoptPlan:
		return value(m.adoptPlan(k.AdoptPlan))
	case *statepb.Command_DrainPipeline:
		return value(m.drainPipeline(k.DrainPipeline))
	case *statepb.Command_CutPipeline:
		return value(m.cutPipeline(k.CutPipeline))
	case *statepb.Command_RestartPipeline:
		return value(m.restartPipeline(k.RestartPipeline))
	case *statepb.Command_ReleasePipeline:
		return value(m.releasePipeline(k.ReleasePipeline))
	case *statepb.Command_Assign:
		return m.assign(index, k.Assign)
	case *statepb.Command_EndAssignments:
		return value(m.endAssignments(k.EndAssignments))
	case *statepb.Command_AnnounceRouter:
		return m.announceRouter(k.AnnounceRouter)
	case *statepb.Command_ForgetRouter:
		return m.forgetRouter(k.ForgetRouter)
	case *statepb.Command_OpenClientSession:
		return m.openClientSession(index, k.OpenClientSession)
	case *statepb.Command_EndClientSession:
		return m.endClientSession(k.EndClientSession)
	case *statepb.Command_AnswerClient:
		return nil
	default:
		return raftstore.Halt{Reason: "the log holds a command that this version does not know: start the version that wrote it, or a newer one"}
	}
}

// LeaveCluster makes it the state of no cluster, for one that is to be founded from it: the next Found gives it its cluster. It is the state at index beyond then, to which
// the old one has never come: who watched that may have heard of what is not in this state, and lists again. What only the old one had is forgotten, its routers and the
// high-water mark of their dead letters, which is returned, nil for none. It is for a state that no log changes any more.
func (m *Machine) LeaveCluster(beyond uint64) (letterMark []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	letterMark = m.letterMark.GetMark()
	m.index, m.clusterID, m.letterMark, m.view = beyond, "", nil, nil
	m.routers = map[string]*statepb.Router{}
	return letterMark
}

// value keeps a nil *RejectedError from becoming a non-nil any.
func value(r *RejectedError) any {
	if r == nil {
		return nil
	}
	return r
}

// Changed returns a channel that is closed at the next change of anything but checkpoints. Take it before reading what it guards.
func (m *Machine) Changed() <-chan struct{} {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.changed
}

// View is the state at one index, without checkpoints. It is shared: read only.
type View struct {
	Index       uint64
	ClusterID   string
	Incarnation uint64
	Resources   map[ResourceKey]*statepb.Resource
	Sessions    map[string]*statepb.Session
	Pipelines   map[string]*statepb.Pipeline
	Assignments map[StageKey]*statepb.Assignment
	// Routers have announced themselves, by server id. One of them may be no member of the cluster any more.
	Routers map[string]*statepb.Router

	byOwner sync.Once
	owned   map[string][]StageKey
}

// Owned are the stages that are assigned to a sidecar, in order. They are found for all sidecars at once, since all of them ask after each change. The result is shared: read only.
func (v *View) Owned(sidecar string) []StageKey {
	v.byOwner.Do(func() {
		v.owned = map[string][]StageKey{}
		for key, a := range v.Assignments {
			v.owned[a.GetSidecarId()] = append(v.owned[a.GetSidecarId()], key)
		}
		for _, keys := range v.owned {
			slices.SortFunc(keys, CompareStages)
		}
	})
	return v.owned[sidecar]
}

// View returns the present state.
func (m *Machine) View() *View {
	m.mu.RLock()
	v := m.view
	m.mu.RUnlock()
	if v != nil {
		return v
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.view == nil {
		m.view = &View{
			Index: m.index, ClusterID: m.clusterID, Incarnation: m.incarnation,
			Resources: maps.Clone(m.resources), Sessions: maps.Clone(m.sessions),
			Pipelines: maps.Clone(m.pipelines), Assignments: maps.Clone(m.assignments), Routers: maps.Clone(m.routers),
		}
	}
	return m.view
}

// Index is that of the last applied command.
func (m *Machine) Index() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.index
}

// Latest is the latest time of the commands that were applied here, and after a start from a snapshot that of what it shows times of: a leader gives none that is earlier to
// the commands that it adds, so that times which people see do not go back where its clock is behind that of another leader.
func (m *Machine) Latest() (unixNano int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.latest
}

// CompareStages orders stage keys.
func CompareStages(a, b StageKey) int {
	if a.Pipeline != b.Pipeline {
		return compare(a.Pipeline, b.Pipeline)
	}
	return compare(a.Stage, b.Stage)
}

// CompareResources orders resource keys by kind, namespace and name.
func CompareResources(a, b ResourceKey) int {
	if a.Kind != b.Kind {
		return compare(a.Kind, b.Kind)
	}
	if a.Namespace != b.Namespace {
		return compare(a.Namespace, b.Namespace)
	}
	return compare(a.Name, b.Name)
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// SortedKeys returns the keys of a map in their order.
func SortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
