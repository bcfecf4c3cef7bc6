package raftstore

import (
	"time"

	"github.com/hashicorp/raft"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// isHeartbeat knows the calls that raft answers besides its main loop.
func isHeartbeat(r *raft.AppendEntriesRequest) bool {
	return r.Term != 0 && len(r.Addr) > 0 && r.PrevLogEntry == 0 && r.PrevLogTerm == 0 && len(r.Entries) == 0 && r.LeaderCommitIndex == 0
}

func header(t *controlv1.RaftTarget) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(t.GetProtocolVersion()), ID: t.GetSenderId(), Addr: t.GetSenderAddress()}
}

// split makes requests of about chunkBytes of one that raft made, each of them complete in itself.
func split(target *controlv1.RaftTarget, r *raft.AppendEntriesRequest) []*controlv1.AppendEntriesRequest {
	var out []*controlv1.AppendEntriesRequest
	index, term, entries := r.PrevLogEntry, r.PrevLogTerm, r.Entries
	for {
		m := &controlv1.AppendEntriesRequest{Target: target, Term: r.Term, PreviousEntry: index, PreviousTerm: term, Committed: r.LeaderCommitIndex}
		for size := 0; len(entries) > 0; entries = entries[1:] {
			e := entries[0]
			size += len(e.Data) + len(e.Extensions) + 64
			if size > chunkBytes && len(m.Entries) > 0 {
				break
			}
			w := &controlv1.LogEntry{Index: e.Index, Term: e.Term, Type: uint32(e.Type), Data: e.Data, Extensions: e.Extensions}
			if !e.AppendedAt.IsZero() {
				w.AppendedAtUnixNano = e.AppendedAt.UnixNano()
			}
			m.Entries = append(m.Entries, w)
			index, term = e.Index, e.Term
		}
		// What lies behind this part in the receiver's log may be another leader's, and is not to be committed by it.
		m.LeaderCommitIndex = min(r.LeaderCommitIndex, index)
		out = append(out, m)
		if len(entries) == 0 {
			return out
		}
	}
}

func appendRequest(m *controlv1.AppendEntriesRequest) *raft.AppendEntriesRequest {
	r := &raft.AppendEntriesRequest{
		RPCHeader: header(m.GetTarget()), Term: m.GetTerm(), PrevLogEntry: m.GetPreviousEntry(), PrevLogTerm: m.GetPreviousTerm(),
		LeaderCommitIndex: m.GetLeaderCommitIndex(),
	}
	for _, e := range m.GetEntries() {
		entry := &raft.Log{Index: e.GetIndex(), Term: e.GetTerm(), Type: raft.LogType(e.GetType()), Data: e.GetData(), Extensions: e.GetExtensions()}
		if n := e.GetAppendedAtUnixNano(); n != 0 {
			entry.AppendedAt = time.Unix(0, n)
		}
		r.Entries = append(r.Entries, entry)
	}
	return r
}

func appendResponse(m *controlv1.AppendEntriesResponse) raft.AppendEntriesResponse {
	return raft.AppendEntriesResponse{
		RPCHeader: header(m.GetTarget()), Term: m.GetTerm(), LastLog: m.GetLastLog(), Success: m.GetSuccess(), NoRetryBackoff: m.GetNoRetryBackoff(),
	}
}

func snapshotHead(target *controlv1.RaftTarget, r *raft.InstallSnapshotRequest) *controlv1.SnapshotHead {
	return &controlv1.SnapshotHead{
		Target: target, SnapshotVersion: uint32(r.SnapshotVersion), Term: r.Term, LastLogIndex: r.LastLogIndex, LastLogTerm: r.LastLogTerm,
		Configuration: r.Configuration, ConfigurationIndex: r.ConfigurationIndex, Size: r.Size,
	}
}

func snapshotRequest(h *controlv1.SnapshotHead) *raft.InstallSnapshotRequest {
	return &raft.InstallSnapshotRequest{
		RPCHeader: header(h.GetTarget()), SnapshotVersion: raft.SnapshotVersion(h.GetSnapshotVersion()), Term: h.GetTerm(),
		LastLogIndex: h.GetLastLogIndex(), LastLogTerm: h.GetLastLogTerm(),
		Configuration: h.GetConfiguration(), ConfigurationIndex: h.GetConfigurationIndex(), Size: h.GetSize(),
	}
}
