package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/conveyor-etl/conveyor/internal/atomicfile"
	"github.com/conveyor-etl/conveyor/internal/lock"
	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/router/internal/letters"
	"github.com/conveyor-etl/conveyor/router/internal/state"
)

const (
	// recoveredDir is where the log of the new cluster is made, and lostDir with the beginning of the old cluster's id where the old one stays.
	recoveredDir = raftDir + ".recovered"
	lostDir      = raftDir + ".lost-"
	// recoveryFile is there from the moment at which recoveredDir is whole until all is in its place.
	recoveryFile = "recovery.json"
)

var (
	// ErrNoRouter is returned by OpenLost for a directory that is not that of a router.
	ErrNoRouter = errors.New("not the data directory of a router")
	// ErrNotLost is returned by OpenLost for a router that is all of its cluster.
	ErrNotLost = errors.New("the cluster has no other router with a vote")
)

// Lost is what a router that does not run has of a cluster whose majority is lost for good. It keeps the directory from everybody else until Close.
type Lost struct {
	// Cluster is the id of that cluster, and Router that of the router in it.
	Cluster, Router string
	// Term and Index are those of the last entry in the router's log, see raftstore.Salvaged.
	Term, Index uint64
	// Address is where the router was reached, and Members are all that the cluster had, each with its address.
	Address string
	Members []raftstore.Server
	// Pipelines is how many there are.
	Pipelines int
	// Letters is set when the router has a copy of the dead letters.
	Letters bool
	// Begun is set when a recovery was interrupted: Recover finishes it. Term, Index, Members, Pipelines and Letters are not known then.
	Begun bool
	// Kept is where Recover leaves the old log.
	Kept string

	dir     string
	lock    *lock.Lock
	found   raftstore.Salvaged
	machine *state.Machine
	mark    []byte // of the letters, once the state has left its cluster
}

// recovery is what recoveryFile has.
type recovery struct {
	Cluster    string `json:"cluster"`
	Router     string `json:"router"`
	Address    string `json:"address"`
	LetterMark []byte `json:"letterMark,omitempty"`
}

// OpenLost reads what the router of a data directory has. Nothing but what each start mends is changed before Recover. The error wraps ErrNoRouter for another directory and
// for one that was never used, and ErrNotLost for one that need only be started; it is a *lock.HeldError while the router runs, and wraps what raftstore.Salvage returns for
// what cannot be used.
func OpenLost(ctx context.Context, dataDir string) (*Lost, error) {
	if _, err := os.Stat(filepath.Join(dataDir, raftDir)); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dataDir, recoveryFile)); err != nil {
			return nil, fmt.Errorf("%s is %w: it has no directory %s", dataDir, ErrNoRouter, raftDir)
		}
	}
	held, err := lock.Acquire(dataDir)
	if err != nil {
		return nil, err
	}
	l := &Lost{dir: dataDir, lock: held}
	if err := l.open(ctx); err != nil {
		return nil, errors.Join(err, held.Close())
	}
	l.Kept = filepath.Join(dataDir, lostDir+l.Cluster[:min(8, len(l.Cluster))])
	return l, nil
}

func (l *Lost) open(ctx context.Context) error {
	b, err := os.ReadFile(filepath.Join(l.dir, recoveryFile))
	if err == nil {
		var begun recovery
		if err := json.Unmarshal(b, &begun); err != nil {
			return fmt.Errorf("read %s: %w", filepath.Join(l.dir, recoveryFile), err)
		}
		l.Begun, l.Cluster, l.Router, l.Address, l.mark = true, begun.Cluster, begun.Router, begun.Address, begun.LetterMark
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := checkDiverged(l.dir); err != nil {
		return err
	}
	l.machine = state.New()
	l.found, err = raftstore.Salvage(ctx, filepath.Join(l.dir, raftDir), l.machine)
	if errors.Is(err, raftstore.ErrNothing) {
		return fmt.Errorf("%w that was ever in use: %w", ErrNoRouter, err)
	}
	if err != nil {
		return err
	}
	l.Cluster, l.Router, l.Term, l.Index, l.Members = l.found.ClusterID, l.found.ServerID, l.found.Term, l.found.Index, l.found.Members
	l.Pipelines, l.Letters = len(l.machine.View().Pipelines), letters.HasCopy(filepath.Join(l.dir, lettersDir))
	voters, votes := 0, false
	for _, m := range l.Members {
		if m.ID == l.Router {
			l.Address, votes = m.Address, m.Voter
		}
		if m.Voter {
			voters++
		}
	}
	if voters == 1 && votes {
		return fmt.Errorf("%w than %s at %s", ErrNotLost, l.Router, l.Address)
	}
	if l.Address == "" {
		return fmt.Errorf("router %s was removed from cluster %s before it was lost: what it has is older than what the others agreed on since", l.Router, l.Cluster)
	}
	return letters.CheckLeave(filepath.Join(l.dir, lettersDir))
}

// Recover makes the router the only one of a new cluster that has what it has. The log of the old one stays in Kept. After an error or a crash it is to be called again, on
// what OpenLost returns then, before the router can start. What only the others had is gone, and they have no place in the new cluster with what they hold.
func (l *Lost) Recover(ctx context.Context) error {
	made := filepath.Join(l.dir, recoveredDir)
	if !l.Begun {
		if err := l.refound(ctx, made); err != nil {
			return err
		}
	}
	// The letters come before the exchange, so they are done when that is. A directory that is in use again is not to be touched.
	switch _, err := os.Stat(made); {
	case err == nil:
		if err := letters.Leave(filepath.Join(l.dir, lettersDir), l.mark); err != nil {
			return err
		}
		if err := l.exchange(made); err != nil {
			return fmt.Errorf("put the new log in the place of the old one: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return atomicfile.Remove(filepath.Join(l.dir, recoveryFile))
}

// refound makes the new log, in a place of its own.
func (l *Lost) refound(ctx context.Context, made string) error {
	if _, err := os.Stat(l.Kept); err == nil {
		return fmt.Errorf("%s is in the way: move it", l.Kept)
	}
	if err := os.RemoveAll(made); err != nil {
		return err
	}
	l.mark = l.machine.LeaveCluster(l.found.Beyond)
	// The state is written before anything is given up for it: there is no disk to be kept free for others.
	cfg := raftstore.Config{Dir: made, ServerName: l.found.ServerName, Address: l.Address, Log: l.found.Log, MinFree: -1}
	if err := raftstore.Refound(ctx, cfg, l.found, l.machine); err != nil {
		return err
	}
	b, err := json.Marshal(recovery{Cluster: l.Cluster, Router: l.Router, Address: l.Address, LetterMark: l.mark})
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(l.dir, recoveryFile), b)
}

// exchange puts the new log in the place of the old one, which may have left it already.
func (l *Lost) exchange(made string) error {
	place := filepath.Join(l.dir, raftDir)
	if err := atomicfile.Rename(place, l.Kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return atomicfile.Rename(made, place)
}

// Close gives the directory up.
func (l *Lost) Close() error { return l.lock.Close() }

// checkRecovered refuses a directory in which a recovery has not ended.
func checkRecovered(dataDir string) error {
	_, err := os.Stat(filepath.Join(dataDir, recoveryFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("a recovery of %s was interrupted: run conveyor cluster recover %s", dataDir, dataDir)
}
