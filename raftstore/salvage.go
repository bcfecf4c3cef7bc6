package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/hashicorp/raft"
)

// Salvaged is what a server had that was one of a cluster.
type Salvaged struct {
	// ClusterID and ServerID are those of the directory, and ServerName is what the id has of Config.ServerName.
	ClusterID, ServerID, ServerName string
	// Term and Index are those of the last entry in the log. Of several servers the one of the highest term has all that was acknowledged and that any of them has, and among
	// those of one term the one of the highest index.
	Term, Index uint64
	// Beyond is an index that the cluster has never come to: behind it Refound goes on.
	Beyond uint64
	// Members are those of the newest list that the server has, this one included unless it was removed.
	Members []Server
	// Log is how the log lies on the disk.
	Log LogKind
}

// refoundGap is how far behind the last index that is known a cluster is taken to have come. Those that were lost may have come further, and no index may be given twice:
// it tells one state of a resource, or one owner, from another. A thousand commands a second take twelve days for so many.
const refoundGap = 1 << 30

// Salvage gives machine, which must be empty, the state that the server of dir has, and changes nothing there but what each start mends. It is for what is left of a
// cluster whose majority is lost for good, as the ground for Refound: all of the log is applied, also what the server does not know to be committed, since nobody is left
// who knows better. What only others had is not in it.
//
// The directory must not be in use, or the error wraps ErrInUse. What is damaged is refused with a *DamagedError, and a command that the machine does not know with a *HaltedError: what comes
// behind them would be put on a state that never was. ctx ends it between two commands. The machine is to be thrown away after an error.
func Salvage(ctx context.Context, dir string, machine StateMachine) (Salvaged, error) {
	found, err := salvage(ctx, dir, machine)
	if err != nil {
		return Salvaged{}, fmt.Errorf("salvage %s: %w", dir, err)
	}
	return found, nil
}

func salvage(ctx context.Context, dir string, machine StateMachine) (found Salvaged, err error) {
	id, known, err := loadIdentity(dir)
	if err != nil {
		return Salvaged{}, err
	}
	if !known || !id.Founded || id.ClusterID == "" {
		return Salvaged{}, ErrNothing
	}
	o := &opening{cfg: &Config{Dir: dir, ServerName: nameOf(id.ServerID)}, hlog: newHCLog(slog.New(slog.DiscardHandler))}
	log, path, err := o.openLog()
	if err != nil {
		return Salvaged{}, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if err := o.openSnapshots(); err != nil {
		return Salvaged{}, err
	}
	if err := checkLog(path, log, o.snapshotIndex); err != nil {
		return Salvaged{}, err
	}
	found = Salvaged{ClusterID: id.ClusterID, ServerID: id.ServerID, ServerName: o.cfg.ServerName, Log: LogBolt}
	if path == logPath(dir, LogWAL) {
		found.Log = LogWAL
	}
	members, err := found.restore(o, machine)
	if err != nil {
		return Salvaged{}, err
	}
	if listed, err := found.replay(ctx, log, machine); err != nil {
		return Salvaged{}, err
	} else if listed != nil {
		members = *listed
	}
	found.Members, found.Beyond = serversOf(members), found.Index+refoundGap
	return found, nil
}

// restore gives the machine the newest snapshot, if there is one.
func (found *Salvaged) restore(o *opening, machine StateMachine) (members raft.Configuration, err error) {
	listed, err := o.snapshots.List()
	if err != nil || len(listed) == 0 {
		return raft.Configuration{}, err
	}
	meta, state, err := o.snapshots.Open(listed[0].ID)
	if err != nil {
		return raft.Configuration{}, err
	}
	if err := errors.Join(machine.Restore(state), state.Close()); err != nil {
		return raft.Configuration{}, &HaltedError{Index: meta.Index, Reason: fmt.Sprintf("a snapshot cannot be restored: %v", err)}
	}
	found.Term, found.Index = meta.Term, meta.Index
	return meta.Configuration, nil
}

// replay applies the log behind the snapshot, and returns the newest list of members in it; nil when there is none.
func (found *Salvaged) replay(ctx context.Context, log persistent, machine StateMachine) (members *raft.Configuration, err error) {
	last, err := log.LastIndex()
	if err != nil {
		return nil, err
	}
	f := &fsm{machine: machine, failed: make(chan struct{})}
	for found.Index < last {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var entry raft.Log
		if err := log.GetLog(found.Index+1, &entry); err != nil {
			return nil, fmt.Errorf("read log index %d: %w", found.Index+1, err)
		}
		switch entry.Type {
		case raft.LogCommand:
			if err, halted := f.Apply(&entry).(*HaltedError); halted {
				return nil, err
			}
		case raft.LogConfiguration:
			list := raft.DecodeConfiguration(entry.Data)
			members = &list
		}
		found.Term, found.Index = entry.Term, entry.Index
	}
	return members, nil
}

// Refound founds a cluster of one in cfg.Dir, which must be empty or missing, from what Salvage found: its state is that of machine, which the caller may have changed since
// and which is restored from it, and its indexes go on far behind all that the lost cluster can have given. Its id is another one, as is that of the server: those of the
// lost cluster are no members, whatever they have and should they come back. cfg.Peers must be empty; the directory can be opened with peers later, and given other members.
// It blocks until all is on stable storage, with the state in memory twice. After an error, or a crash on the way, the directory is of no use: empty it and try again.
func Refound(ctx context.Context, cfg Config, from Salvaged, machine StateMachine) error {
	if err := refound(ctx, cfg, from.Beyond, machine); err != nil {
		return fmt.Errorf("found a cluster in %s: %w", cfg.Dir, err)
	}
	return nil
}

func refound(ctx context.Context, cfg Config, beyond uint64, machine StateMachine) (err error) {
	if len(cfg.Peers) > 0 {
		return errors.New("it begins with one server, and peers are configured")
	}
	if entries, err := os.ReadDir(cfg.Dir); len(entries) > 0 {
		return errors.New("the directory is not empty")
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	write, err := machine.Snapshot()
	if err != nil {
		return fmt.Errorf("capture the state: %w", err)
	}
	var state bytes.Buffer
	if err := write(&state); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	s, err := Open(ctx, cfg, machine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.awaitLead(ctx); err != nil {
		return err
	}
	var written bytes.Buffer
	meta := &raft.SnapshotMeta{Index: beyond, Size: int64(state.Len())}
	if err := writeFramed(ctx, &written, meta, &state); err != nil {
		return err
	}
	return s.Restore(ctx, &written)
}
