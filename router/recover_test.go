package router_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/internal/lock"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router"
)

func recoverAlone(t *testing.T, dir string) error {
	t.Helper()
	lost, err := router.OpenLost(t.Context(), dir)
	if err != nil {
		return err
	}
	return errors.Join(lost.Recover(t.Context()), lost.Close())
}

// Whatever moment ends a recovery, the next one finishes it, and nothing starts in between.
func TestRecover_WhatOneRouterHasGoesOnAsAClusterOfItsOwn(t *testing.T) {
	for name, interrupt := range map[string]func(t *testing.T, dir string){
		"at once": func(*testing.T, string) {},
		"after the new log was made": func(t *testing.T, dir string) {
			interruptRecovery(t, dir)
		},
		"between the names of the logs": func(t *testing.T, dir string) {
			kept := interruptRecovery(t, dir)
			if err := os.Rename(filepath.Join(dir, "raft"), kept); err != nil {
				t.Fatal(err)
			}
		},
		"while the new log was made": func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "raft.recovered"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "raft.recovered", "raft.db"), []byte("begun"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recoverFrom(t, interrupt)
		})
	}
}

// interruptRecovery lets a recovery fail once the new log is there, and returns where the old one is to go.
func interruptRecovery(t *testing.T, dir string) (kept string) {
	t.Helper()
	lost, err := router.OpenLost(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	obstacle := filepath.Join(dir, "dead-letters", "jetstream")
	if err := os.Mkdir(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := lost.Recover(t.Context()); err == nil {
		t.Fatal("recovered, with letters of two kinds")
	}
	if err := errors.Join(os.Remove(obstacle), lost.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := router.New(testConfig(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.Run(ctx); err == nil || !strings.Contains(err.Error(), "run conveyor cluster recover "+dir) {
		t.Errorf("started in the middle of a recovery: %v", err)
	}
	return lost.Kept
}

func recoverFrom(t *testing.T, interrupt func(t *testing.T, dir string)) {
	c := startCluster(t, 3)
	m := c.leader() // which has all that was acknowledged
	m.apply(simple...)
	a := m.register("a", both...)
	a.awaitStages("in keep out")
	old := a.stage("in")
	if got := a.checkpoint(old, 7, "seven", false); got != controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED {
		t.Fatalf("checkpoint: %v", got)
	}
	a.awaitStored(m.node, "r1")
	m.apply(source("last", "file"))
	before := m.info()
	if _, err := router.OpenLost(t.Context(), m.cfg.DataDir); !errors.As(err, new(*lock.HeldError)) {
		t.Errorf("opened while the router runs: %v", err)
	}
	for _, other := range c.nodes {
		if other != m {
			other.stop()
		}
	}
	m.stop()
	dir := m.cfg.DataDir
	interrupt(t, dir)
	if err := recoverAlone(t, dir); err != nil {
		t.Fatal(err)
	}
	if err := recoverAlone(t, dir); !errors.Is(err, router.ErrNotLost) {
		t.Errorf("recovered twice: %v", err)
	}
	m.cfg.Peers = slices.DeleteFunc(slices.Clone(m.cfg.Peers), func(p env.Peer) bool { return p.ID != m.id })
	m.start()
	m.awaitReady()
	var info *controlv1.GetClusterResponse
	await(t, func() string { // the client dials again in its own time
		var err error
		if info, err = m.admin.GetCluster(t.Context(), &controlv1.GetClusterRequest{}); err != nil {
			return err.Error()
		}
		return ""
	})
	if info.GetClusterId() == before.GetClusterId() || info.GetIncarnation() <= before.GetIncarnation() || len(info.GetServers()) != 1 {
		t.Errorf("the cluster was %v and is %v", before, info)
	}
	list, err := m.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{})
	if err != nil || len(list.GetResources()) != len(simple)+1 {
		t.Errorf("it knows %d resources, %v", len(list.GetResources()), err)
	}
	// Who was lost may have given the next revisions, and who heard of one is to look again at what there is: it is not there.
	lost := before.GetAppliedIndex() + 5
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = m.watchAfter(ctx, lost).Recv()
	mustRefuse(t, err, "REVISION_COMPACTED")
	m.apply(source("new", "file"))
	if now := m.info().GetAppliedIndex(); now < before.GetAppliedIndex()+1<<30 {
		t.Errorf("index %d follows %d", now, before.GetAppliedIndex())
	}
	if got := a.position("in"); got != "seven" {
		t.Errorf("the source goes on behind %q", got)
	}
	// What the cluster knew of the sidecar holds, except that its stages are of a newer owner.
	again := m.register("a", both...)
	again.awaitStages("in keep out")
	if e := again.stage("in").GetEpoch(); e.GetIncarnation() != info.GetIncarnation() {
		t.Errorf("its stage has epoch %v, in a cluster of incarnation %d", e, info.GetIncarnation())
	}
	if got := again.checkpoint(old, 9, "nine", false); got != controlv1.CheckpointResult_CHECKPOINT_RESULT_FENCED {
		t.Errorf("a checkpoint of the owner before: %v", got)
	}
	if got := m.list(everything); len(got) != 1 {
		t.Errorf("its letters are %v", got)
	}
	again.awaitStored(m.node, "r2")
}

func TestRecover_WhatIsNoRouterOfALostClusterIsRefused(t *testing.T) {
	if _, err := router.OpenLost(t.Context(), t.TempDir()); !errors.Is(err, router.ErrNoRouter) {
		t.Errorf("an empty directory: %v", err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := router.OpenLost(t.Context(), missing); !errors.Is(err, router.ErrNoRouter) {
		t.Errorf("a directory that is not there: %v", err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the directory was made")
	}
}
