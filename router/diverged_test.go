package router_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/internal/logging/logtest"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/router"
)

// changes makes more changes than routers let go by before they compare their states.
func (m *member) changes() {
	m.t.Helper()
	for i := range 1100 {
		await(m.t, func() string {
			_, err := m.tryApply(source("changes", fmt.Sprint("file-", i)))
			if err != nil {
				return err.Error()
			}
			return ""
		})
	}
}

func TestCluster_ARouterWhoseStateIsNotThatOfTheOthersEndsForGood(t *testing.T) {
	c := startCluster(t, 3)
	wrong := c.leader()
	wrong.apply(simple...)
	id, dir := wrong.serverID(), wrong.cfg.DataDir
	if err := router.FlipState(wrong.router); err != nil {
		t.Fatal(err)
	}
	var other *member
	for _, m := range c.nodes {
		if m != wrong {
			other = m
		}
	}
	other.changes()
	var err error
	select {
	case err = <-wrong.ended:
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
	wrong.cancel()
	wrong.cancel, wrong.cfg.Listener = nil, nil
	told := new(router.DivergedError)
	if !errors.As(err, &told) || router.CodeOf(err) != router.CodeDiverged || told.Router != id || told.Address != wrong.conn.Target() || len(told.From) != 2 {
		t.Fatalf("it ended with %v", err)
	}
	for _, todo := range []string{"conveyor cluster remove " + id, "move " + dir + " away", "conveyor cluster add " + wrong.conn.Target()} {
		if !strings.Contains(err.Error(), todo) {
			t.Errorf("it does not say %q: %v", todo, err)
		}
	}
	again, err := router.New(wrong.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Run(t.Context()); !errors.Is(err, router.ErrDiverged) || !strings.Contains(err.Error(), "cluster remove "+id) {
		t.Errorf("started again, it ended with %v", err)
	}
	if _, err := router.OpenLost(t.Context(), dir); !errors.Is(err, router.ErrDiverged) {
		t.Errorf("recovered: %v", err)
	}
	// What it says is to be done.
	await(t, func() string {
		_, err := other.admin.RemoveRouter(t.Context(), &controlv1.RemoveRouterRequest{Id: id})
		return differs(err, nil)
	})
	wrong.cfg.DataDir = t.TempDir()
	wrong.start()
	await(t, func() string {
		_, err := other.admin.AddRouter(t.Context(), &controlv1.AddRouterRequest{Address: wrong.conn.Target()})
		return differs(err, nil)
	})
	wrong.awaitReady()
	await(t, func() string {
		list, err := wrong.admin.ListResources(t.Context(), &controlv1.ListResourcesRequest{Stale: true})
		if err != nil {
			return err.Error()
		}
		for _, r := range list.GetResources() {
			if r.GetName() == "flipped" {
				return "what it had is there again"
			}
		}
		return differs(len(list.GetResources()), len(simple)+1)
	})
}

func TestCluster_SaysWhenNobodyCanTellWhoseStateIsWrong(t *testing.T) {
	log := &logtest.Buffer{}
	c := &cluster{t: t, nodes: map[string]*member{}, prepare: func(m *member) { m.log = slog.New(slog.NewTextHandler(log, nil)) }}
	runCluster(c, 3)
	gone := c.follower()
	goneID := gone.serverID()
	gone.stop()
	l := c.leader()
	if err := router.FlipState(l.router); err != nil {
		t.Fatal(err)
	}
	l.changes()
	await(t, func() string {
		for _, s := range l.info().GetServers() {
			if s.GetId() != goneID && !strings.Contains(s.GetProblem(), "is not that of") {
				return fmt.Sprintf("router %s has problem %q", s.GetId(), s.GetProblem())
			}
		}
		return ""
	})
	for _, m := range c.nodes {
		if _, err := os.Stat(filepath.Join(m.cfg.DataDir, "diverged.json")); err == nil {
			t.Errorf("router %s has ended for good", m.id)
		}
	}
	await(t, func() string {
		if !strings.Contains(log.String(), "STATE_DIVERGED") {
			return "no log says it"
		}
		return ""
	})
}
