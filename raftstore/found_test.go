package raftstore_test

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/raftstore"
)

// said passes on what a store logs.
type said chan string

func (s said) Write(p []byte) (int, error) {
	select {
	case s <- string(p):
	default:
	}
	return len(p), nil
}

func (s said) wait(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line := <-s:
			if strings.Contains(line, text) {
				return
			}
		case <-deadline:
			t.Fatalf("nothing said of %q", text)
		}
	}
}

func TestOpen_FoundsNothingWithoutAllOfItsPeers(t *testing.T) {
	log := make(said, 100)
	s, err := raftstore.Open(t.Context(), raftstore.Config{
		Dir: t.TempDir(), ServerName: "1", Address: "127.0.0.1:1", Logger: slog.New(slog.NewTextHandler(log, nil)),
		Peers: []raftstore.Peer{{ServerName: "1", Address: "127.0.0.1:1"}, {ServerName: "2", Address: "127.0.0.1:2"}},
	}, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	log.wait(t, "does not answer")
	if s.ClusterID() != "" || s.Leader() != "" {
		t.Errorf("cluster %q, leader %q", s.ClusterID(), s.Leader())
	}
}

func TestOpen_DoesNotDialOtherMachinesWithoutCredentials(t *testing.T) {
	log := make(said, 100)
	s, err := raftstore.Open(t.Context(), raftstore.Config{
		Dir: t.TempDir(), ServerName: "1", Address: "a.invalid:1", Logger: slog.New(slog.NewTextHandler(log, nil)),
		Peers: []raftstore.Peer{{ServerName: "1", Address: "a.invalid:1"}, {ServerName: "2", Address: "b.invalid:1"}},
	}, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	log.wait(t, "no credentials")
}

func TestOpen_AClusterOfOneKeepsItsStateWhenPeersAreListed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir, &journal{})
	propose(t, s, "a")
	id := s.ClusterID()
	s.Close()
	j := &journal{}
	s, err := raftstore.Open(t.Context(), raftstore.Config{
		Dir: dir, ServerName: "1", Address: "127.0.0.1:1",
		Peers: []raftstore.Peer{{ServerName: "1", Address: "127.0.0.1:1"}, {ServerName: "2", Address: "127.0.0.1:2"}},
	}, j)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	lead(t, s)
	if got := j.all(); s.ClusterID() != id || len(got) != 1 {
		t.Errorf("cluster %q with %v, and it was %q", s.ClusterID(), got, id)
	}
}
