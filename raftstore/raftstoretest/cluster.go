// Package raftstoretest runs clusters of raft stores in one process, whose network can be partitioned.
package raftstoretest

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
)

// Wait is how long the cluster is given to do what a test waits for.
const Wait = 30 * time.Second

// Config says what cluster to run.
type Config struct {
	// Servers is how many are founded together.
	Servers int
	// Machine makes the empty state machine of a server, at each of its starts.
	Machine func(server int) raftstore.StateMachine
	// Timeouts of the servers; zero values mean 500, 500 and 250 ms.
	Timeouts raftstore.Timeouts
	// Change alters the configuration of a server before it starts; nil leaves it.
	Change func(server int, cfg *raftstore.Config)
	// Logger of the servers; nil discards.
	Logger *slog.Logger
}

// Cluster is some servers, numbered from 1. Its methods are for the test's goroutine; they fail the test when something does not happen within Wait.
type Cluster struct {
	t       testing.TB
	cfg     Config
	dir     string
	network *network
	nodes   map[int]*node
}

type node struct {
	store  *raftstore.Store
	server *grpc.Server
	served chan struct{}
}

// New makes the cluster and starts its servers, which end with the test. It does not wait for a leader.
func New(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	if cfg.Timeouts == (raftstore.Timeouts{}) {
		cfg.Timeouts = raftstore.Timeouts{Heartbeat: 500 * time.Millisecond, Election: 500 * time.Millisecond, Lease: 250 * time.Millisecond}
	}
	c := &Cluster{t: t, cfg: cfg, dir: t.TempDir(), network: newNetwork(), nodes: map[int]*node{}}
	t.Cleanup(func() {
		for n := range c.nodes {
			c.Stop(n)
		}
	})
	for n := 1; n <= cfg.Servers; n++ {
		c.Start(n)
	}
	return c
}

// Address is where a server is reached within the cluster.
func Address(server int) string { return fmt.Sprintf("server-%d:9000", server) }

// Dir is where a server keeps its state.
func (c *Cluster) Dir(server int) string { return filepath.Join(c.dir, fmt.Sprint(server)) }

// Start starts a server: one of the founders, one that was stopped, or with a higher number a new one, which waits to be added.
func (c *Cluster) Start(server int) *raftstore.Store {
	c.t.Helper()
	cfg := raftstore.Config{
		Dir: c.Dir(server), ServerName: fmt.Sprint(server), Address: Address(server), Timeouts: c.cfg.Timeouts, Logger: c.cfg.Logger,
		DialOptions: c.network.options(Address(server)),
	}
	for n := 1; n <= max(c.cfg.Servers, server); n++ {
		cfg.Peers = append(cfg.Peers, raftstore.Peer{ServerName: fmt.Sprint(n), Address: Address(n)})
	}
	if c.cfg.Change != nil {
		c.cfg.Change(server, &cfg)
	}
	store, err := raftstore.Open(c.t.Context(), cfg, c.cfg.Machine(server))
	if err != nil {
		c.t.Fatalf("start server %d: %v", server, err)
	}
	n := &node{store: store, server: grpc.NewServer(), served: make(chan struct{})}
	controlv1.RegisterRaftServiceServer(n.server, store.RaftService())
	lis := c.network.listen(Address(server))
	go func() { defer close(n.served); _ = n.server.Serve(lis) }()
	c.nodes[server] = n
	return store
}

// Stop stops a server and returns when it has ended. It does nothing when the server does not run.
func (c *Cluster) Stop(server int) {
	c.t.Helper()
	n := c.nodes[server]
	if n == nil {
		return
	}
	delete(c.nodes, server)
	if err := n.store.Close(); err != nil {
		c.t.Errorf("stop server %d: %v", server, err)
	}
	n.server.Stop()
	<-n.served
}

// Wipe deletes what a stopped server has stored.
func (c *Cluster) Wipe(server int) {
	c.t.Helper()
	if err := os.RemoveAll(c.Dir(server)); err != nil {
		c.t.Fatal(err)
	}
}

// Store is a running server, or nil.
func (c *Cluster) Store(server int) *raftstore.Store {
	if n := c.nodes[server]; n != nil {
		return n.store
	}
	return nil
}

// Block cuts what one server dials of another, and not the other direction.
func (c *Cluster) Block(from, to int) { c.network.block(link{Address(from), Address(to)}) }

// Isolate cuts a server off from all the others, in both directions.
func (c *Cluster) Isolate(server int) {
	for n := range c.nodes {
		if n != server {
			c.Block(n, server)
			c.Block(server, n)
		}
	}
}

// Heal makes the network whole.
func (c *Cluster) Heal() { c.network.heal() }

// Leader waits until exactly one of the servers leads, of all that run when none are named, and returns its number.
func (c *Cluster) Leader(among ...int) int {
	c.t.Helper()
	if len(among) == 0 {
		for n := range c.nodes {
			among = append(among, n)
		}
	}
	var leader int
	c.Eventually("one server leads", func() bool {
		leaders := 0
		for _, n := range among {
			if c.nodes[n].store.Leadership().Leader {
				leader = n
				leaders++
			}
		}
		return leaders == 1
	})
	return leader
}

// Eventually waits for a condition.
func (c *Cluster) Eventually(what string, condition func() bool) {
	c.t.Helper()
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	deadline := time.After(Wait)
	for !condition() {
		select {
		case <-ticks.C:
		case <-deadline:
			c.t.Fatalf("not within %v: %s", Wait, what)
		}
	}
}
