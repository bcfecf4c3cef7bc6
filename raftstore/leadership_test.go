package raftstore_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/conveyor-etl/conveyor/raftstore"
	"github.com/conveyor-etl/conveyor/raftstore/raftstoretest"
)

// gate keeps answers of peers back while it is shut.
type gate struct {
	mu   sync.Mutex
	held int
	open chan struct{} // nil while nothing is kept back
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

func (g *gate) lift() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil {
		close(g.open)
		g.open = nil
	}
}

func (g *gate) holds() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}

// pass is called with an answer that has come.
func (g *gate) pass() {
	g.mu.Lock()
	open := g.open
	if open != nil {
		g.held++
	}
	g.mu.Unlock()
	if open != nil {
		<-open
	}
}

// slowStream is one whose answers pass the gate.
type slowStream struct {
	grpc.ClientStream
	gate *gate
}

func (s slowStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		s.gate.pass()
	}
	return err
}

// slow lets the answers to one method, of the servers at some addresses, pass the gate.
func slow(cfg *raftstore.Config, g *gate, method string, addresses ...string) {
	dial := cfg.DialOptions
	cfg.DialOptions = func(to raftstore.Peer) ([]grpc.DialOption, error) {
		options, err := dial(to)
		for _, a := range addresses {
			if a != to.Address {
				continue
			}
			options = append(options, grpc.WithChainStreamInterceptor(
				func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, name string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
					s, err := streamer(ctx, d, cc, name, opts...)
					if err != nil || !strings.HasSuffix(name, method) {
						return s, err
					}
					return slowStream{s, g}, nil
				}), grpc.WithChainUnaryInterceptor(
				func(ctx context.Context, name string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
					err := invoke(ctx, name, req, reply, cc, opts...)
					if err == nil && strings.HasSuffix(name, method) {
						g.pass()
					}
					return err
				}))
		}
		return options, err
	}
}

// lead makes one server lead.
func (c *testCluster) lead(server int) {
	c.t.Helper()
	c.Eventually("the server leads", func() bool {
		leader := c.Leader()
		if leader != server {
			_ = c.Store(leader).TransferLeadership(c.t.Context(), c.Store(server).ServerID()) // it is tried again
		}
		return leader == server
	})
}

// same are timeouts of one length.
func same(d time.Duration) raftstore.Timeouts {
	return raftstore.Timeouts{Heartbeat: d, Election: d, Lease: d}
}

func TestRead_AnAnswerToAnEarlierHeartbeatProvesNoLeadership(t *testing.T) {
	var slowly gate
	c := cluster(t, func(server int, cfg *raftstore.Config) {
		cfg.Timeouts = same(time.Second)
		if server == 3 {
			cfg.Timeouts = same(30 * time.Second) // it takes itself for the leader until it hears of another one
			slow(cfg, &slowly, "AppendEntries", raftstoretest.Address(2))
		}
	})
	t.Cleanup(slowly.lift)
	c.lead(3)
	c.write("old", 3)
	// A read asks both, and one of them suffices.
	slowly.shut()
	if err := c.Store(3).Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Eventually("an answer is on its way", func() bool { return slowly.holds() > 0 })
	c.Isolate(3)
	c.write("new", 1, 2)
	if !c.Store(3).Leadership().Leader {
		t.Fatal("the server that is cut off knows, and there is nothing to see")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	read := make(chan error, 1)
	go func() { read <- c.Store(3).Read(ctx) }()
	<-time.After(200 * time.Millisecond) // until raft has been asked
	slowly.lift()
	if err := <-read; !errors.Is(err, raftstore.ErrNotLeader) {
		t.Errorf("a server that leads no more answered a read, while another one had acknowledged a change: %v", err)
	}
}

func TestLeadership_OneThatIsWonAgainWhileAHandOverHasNotEndedIsKnown(t *testing.T) {
	var slowly gate
	c := cluster(t, func(server int, cfg *raftstore.Config) {
		if server == 1 {
			slow(cfg, &slowly, "TimeoutNow", raftstoretest.Address(2))
		}
	})
	t.Cleanup(slowly.lift)
	c.lead(1)
	slowly.shut()
	first, third := c.Store(1), c.Store(3)
	done := make(chan error, 1)
	go func() { done <- first.TransferLeadership(t.Context(), c.Store(2).ServerID()) }()
	c.Eventually("the other one was told to lead", func() bool { return slowly.holds() > 0 && c.Store(2).Leadership().Leader })
	c.Isolate(2)
	c.Eventually("the first one is elected again", func() bool {
		if third.Leadership().Leader {
			_ = third.TransferLeadership(t.Context(), first.ServerID()) // it is tried again
		}
		return first.Leader() == first.ServerID()
	})
	<-time.After(300 * time.Millisecond) // until it was refused to bring its machine up to date
	slowly.lift()
	<-done // whatever it says
	c.Leader(1, 3)
	c.write("after", 1)
}
