package state

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/conveyor-etl/conveyor/router/internal/state/statepb"
)

const (
	snapshotVersion = 1
	// maxEntryBytes is above what one command can make.
	maxEntryBytes = 4 << 20
)

// Snapshot implements raftstore.StateMachine. Equal states make equal bytes.
func (m *Machine) Snapshot() (func(io.Writer) error, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.clone().write, nil
}

// clone is a copy of what a snapshot has. Values are replaced, never changed, so copies of the maps are a copy of the state.
func (m *Machine) clone() *Machine {
	c := &Machine{
		index: m.index, clusterID: m.clusterID, incarnation: m.incarnation,
		resources: maps.Clone(m.resources), sessions: maps.Clone(m.sessions), pipelines: maps.Clone(m.pipelines), assignments: maps.Clone(m.assignments),
		lanes:   make(map[string]map[laneKey]*statepb.Checkpoint, len(m.lanes)),
		routers: maps.Clone(m.routers), clients: maps.Clone(m.clients), letterMark: m.letterMark, signingKey: m.signingKey,
	}
	for name, lanes := range m.lanes {
		c.lanes[name] = maps.Clone(lanes)
	}
	return c
}

func (m *Machine) write(w io.Writer) error {
	opts := protodelim.MarshalOptions{MarshalOptions: proto.MarshalOptions{Deterministic: true}}
	buf := bufio.NewWriter(w)
	head := &statepb.SnapshotHead{Version: snapshotVersion, ClusterId: m.clusterID, Incarnation: m.incarnation, Index: m.index}
	if _, err := opts.MarshalTo(buf, head); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	var count uint64
	var failed error
	put := func(e *statepb.SnapshotEntry) {
		if failed == nil {
			count++
			_, failed = opts.MarshalTo(buf, e)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(m.resources), CompareResources) {
		put(&statepb.SnapshotEntry{Entry: &statepb.SnapshotEntry_Resource{Resource: m.resources[k]}})
	}
	for _, k := range SortedKeys(m.sessions) {
		put(&statepb.SnapshotEntry{Entry: &statepb.SnapshotEntry_Session{Session: m.sessions[k]}})
	}
	for _, k := range SortedKeys(m.pipelines) {
		put(&statepb.SnapshotEntry{Entry: &statepb.SnapshotEntry_Pipeline{Pipeline: m.pipelines[k]}})
	}
	for _, k := range slices.SortedFunc(maps.Keys(m.assignments), CompareStages) {
		put(&statepb.SnapshotEntry{Entry: &statepb.SnapshotEntry_Assignment{Assignment: m.assignments[k]}})
	}
	for _, name := range SortedKeys(m.lanes) {
		for _, k := range slices.SortedFunc(maps.Keys(m.lanes[name]), compareLanes) {
			put(&statepb.SnapshotEntry{Entry: &statepb.SnapshotEntry_Checkpoint{Checkpoint: m.lanes[name][k]}})
		}
	}
	for _, id := range SortedKeys(m.routers) {
		put(&statepb.SnapshotEntry{Entry: &statepb.SnapshotEntry_Router{Router: m.routers[id]}})
	}
	for _, id := range sortedIDs(m.clients) {
		put(&statepb.SnapshotEntry{Entry: &statepb.SnapshotEntry_ClientSession{ClientSession: m.clients[id].toSnapshot()}})
	}
	if m.letterMark != nil {
		put(&statepb.SnapshotEntry{Entry: &statepb.SnapshotEntry_LetterMark{LetterMark: m.letterMark}})
	}
	if m.signingKey != nil {
		put(&statepb.SnapshotEntry{Entry: &statepb.SnapshotEntry_SigningKey{SigningKey: m.signingKey}})
	}
	put(&statepb.SnapshotEntry{Entry: &statepb.SnapshotEntry_End{End: &statepb.SnapshotEnd{Entries: count}}})
	if failed == nil {
		failed = buf.Flush()
	}
	if failed != nil {
		return fmt.Errorf("write snapshot: %w", failed)
	}
	return nil
}

// Restore implements raftstore.StateMachine. After an error the state is empty.
func (m *Machine) Restore(r io.Reader) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
	if err := m.read(r); err != nil {
		m.clear()
		return fmt.Errorf("read snapshot: %w", err)
	}
	// What led here is not known any more: watchers list again.
	m.events.floor = m.index
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

func (m *Machine) read(r io.Reader) error {
	opts := protodelim.UnmarshalOptions{MaxSize: maxEntryBytes}
	buf := bufio.NewReader(r)
	var head statepb.SnapshotHead
	if err := opts.UnmarshalFrom(buf, &head); err != nil {
		return err
	}
	if head.GetVersion() != snapshotVersion {
		return fmt.Errorf("its version %d is not known", head.GetVersion())
	}
	m.index, m.clusterID, m.incarnation = head.GetIndex(), head.GetClusterId(), head.GetIncarnation()
	for count := uint64(0); ; count++ {
		var e statepb.SnapshotEntry
		if err := opts.UnmarshalFrom(buf, &e); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		switch e := e.GetEntry().(type) {
		case *statepb.SnapshotEntry_Resource:
			m.resources[ResourceKey{e.Resource.GetKind(), e.Resource.GetNamespace(), e.Resource.GetName()}] = e.Resource
			m.latest = max(m.latest, e.Resource.GetCreatedAtUnixNano(), e.Resource.GetUpdatedAtUnixNano())
		case *statepb.SnapshotEntry_Session:
			m.sessions[e.Session.GetSidecarId()] = e.Session
			m.latest = max(m.latest, e.Session.GetRegisteredAtUnixNano())
		case *statepb.SnapshotEntry_Pipeline:
			m.pipelines[e.Pipeline.GetName()] = e.Pipeline
		case *statepb.SnapshotEntry_Assignment:
			m.assignments[StageKey{e.Assignment.GetPipeline(), e.Assignment.GetStage()}] = e.Assignment
		case *statepb.SnapshotEntry_Checkpoint:
			lanes := m.lanes[e.Checkpoint.GetPipeline()]
			if lanes == nil {
				lanes = map[laneKey]*statepb.Checkpoint{}
				m.lanes[e.Checkpoint.GetPipeline()] = lanes
			}
			lanes[laneKey{e.Checkpoint.GetSourceStage(), e.Checkpoint.GetSource(), e.Checkpoint.GetPartition()}] = e.Checkpoint
		case *statepb.SnapshotEntry_Router:
			m.routers[e.Router.GetServerId()] = e.Router
		case *statepb.SnapshotEntry_ClientSession:
			m.clients[e.ClientSession.GetId()] = fromSnapshot(e.ClientSession)
		case *statepb.SnapshotEntry_LetterMark:
			m.letterMark = e.LetterMark
		case *statepb.SnapshotEntry_SigningKey:
			if refused := m.adoptSigningKey(e.SigningKey); refused != nil {
				return refused
			}
		case *statepb.SnapshotEntry_End:
			if e.End.GetEntries() != count {
				return fmt.Errorf("it holds %d entries of %d", count, e.End.GetEntries())
			}
			return nil
		default:
			return errors.New("it holds an entry that this version does not know")
		}
	}
}
