package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/internal/atomicfile"
	"github.com/conveyor-etl/conveyor/router/internal/state"
)

const (
	// divergedFile is in the data directory of a router whose state was found to be wrong, and keeps it from starting.
	divergedFile = "diverged.json"
	// compareEvery is how often is looked what fingerprints there are. New ones come about every 1,000 changes.
	compareEvery = time.Second
)

// ErrDiverged is what every *DivergedError is.
var ErrDiverged = errors.New("STATE_DIVERGED: the state of this router is not that of the others")

// DivergedError says that more than half of the routers of a cluster had one and the same state at an index of the log, and this one had another. All of them apply the same
// commands, so a memory or a disk has changed what was in it, or a program applied them wrongly. What such a router answers, or decides once it leads, cannot be trusted.
type DivergedError struct {
	// Router is the id of this one, and Address where the others reach it.
	Router  string `json:"router"`
	Address string `json:"address"`
	// Index of the log, and the routers that had another state there.
	Index uint64   `json:"index"`
	From  []string `json:"from"`
	// Dir is its data directory.
	Dir string `json:"-"`
}

// Error says what can be done.
func (e *DivergedError) Error() string {
	return fmt.Sprintf("%v: behind index %d of the log, router %s had another one than %s, which are the majority; what it answers may be wrong, and it does not start again: conveyor cluster remove %s, "+
		"move %s away and keep it for who looks for the cause, start the router with an empty one, and conveyor cluster add %s; if the others are lost for good and this is all there is, remove %s",
		ErrDiverged, e.Index, e.Router, strings.Join(e.From, ", "), e.Router, e.Dir, e.Address, filepath.Join(e.Dir, divergedFile))
}

// Is reports whether target is ErrDiverged.
func (e *DivergedError) Is(target error) bool { return target == ErrDiverged }

// checkDiverged returns what was found in an earlier run.
func checkDiverged(dataDir string) error {
	path := filepath.Join(dataDir, divergedFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	found := &DivergedError{Dir: dataDir}
	if err == nil {
		err = json.Unmarshal(b, found)
	}
	if err != nil {
		return fmt.Errorf("read %s, which is there when the state was found to be wrong: %w", path, err)
	}
	return found
}

// compareStates ends the router when the others agree that its state is wrong, for good. It says when it is that of another one, or when nobody can tell.
func (r *Router) compareStates(ctx context.Context) error {
	said := map[string]uint64{}
	tick := time.NewTicker(compareEvery)
	defer tick.Stop()
	for {
		for id, d := range r.divergences() {
			if id == r.store.ServerID() && d.Outvoted {
				return r.diverged(d)
			}
			if said[id] != d.Index {
				said[id] = d.Index
				r.logger.Error("STATE_DIVERGED: routers have applied the same commands, and have not the same state", "router", id, "differs-from", d.From, "index", d.Index, "outvoted", d.Outvoted)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// divergences are those of the members, see state.View.Divergences.
func (r *Router) divergences() map[string]*state.Divergence {
	members, err := r.members()
	if err != nil {
		return nil
	}
	return r.machine.View().Divergences(slices.Collect(maps.Keys(members)))
}

func (r *Router) diverged(d *state.Divergence) error {
	found := &DivergedError{Router: r.store.ServerID(), Address: r.ownAddress(), Index: d.Index, From: d.From, Dir: r.cfg.DataDir}
	b, err := json.MarshalIndent(found, "", "  ")
	if err == nil {
		err = atomicfile.Write(filepath.Join(r.cfg.DataDir, divergedFile), append(b, '\n'))
	}
	return errors.Join(found, err)
}
