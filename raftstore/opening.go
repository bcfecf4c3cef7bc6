package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// opening is what a node knows of its directory before it changes anything there.
type opening struct {
	cfg  *Config
	hlog hclog.Logger

	snapshots     raft.SnapshotStore
	snapshotIndex uint64 // where the newest ends
}

// openLog opens the log, once identity, snapshots and log are found to belong together.
func (o *opening) openLog() (log persistent, path string, err error) {
	id, known, err := loadIdentity(o.cfg.Dir)
	if err != nil {
		return nil, "", err
	}
	if known && !strings.HasPrefix(id.ServerID, o.cfg.ServerName+"-") {
		return nil, "", fmt.Errorf("open raft store: %s belongs to server %s, not to a server %s", o.cfg.Dir, id.ServerID, o.cfg.ServerName)
	}
	if id.Restoring {
		return nil, "", restoreBegun(o.cfg.Dir)
	}
	taken, err := fs.Glob(os.DirFS(o.cfg.Dir), snapshotsDir+"/*")
	if err != nil {
		return nil, "", fmt.Errorf("look for snapshots: %w", err)
	}
	if !known && len(taken) > 0 {
		return nil, "", &DamagedError{Path: o.cfg.Dir, Cause: fmt.Errorf("%s is missing", identityFile)}
	}
	return openLog(o.cfg.Dir, o.cfg.Log, !id.Founded && len(taken) == 0, func(first, last uint64) error {
		if !known && last > 0 {
			return &DamagedError{Path: o.cfg.Dir, Cause: fmt.Errorf("%s is missing", identityFile)}
		}
		switch _, err := os.Stat(filepath.Join(o.cfg.Dir, snapshotsDir)); {
		case errors.Is(err, fs.ErrNotExist): // and is not made yet
		case err != nil:
			return fmt.Errorf("look for snapshots: %w", err)
		default:
			if err := o.openSnapshots(); err != nil {
				return err
			}
		}
		if first > o.snapshotIndex+1 {
			return &DamagedError{Path: o.cfg.Dir, Cause: fmt.Errorf("the log begins at index %d and the newest snapshot ends at %d", first, o.snapshotIndex)}
		}
		return nil
	})
}

// openSnapshots opens them unless they are open.
func (o *opening) openSnapshots() (err error) {
	if o.snapshots == nil {
		o.snapshots, o.snapshotIndex, err = openSnapshots(o.cfg.Dir, o.hlog)
	}
	return err
}
