package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/raftstore"
)

// counter counts its commands.
type counter struct{ n atomic.Uint64 }

func (c *counter) Apply(uint64, []byte) any { return c.n.Add(1) }

func (c *counter) Snapshot() (func(io.Writer) error, error) {
	n := c.n.Load()
	return func(w io.Writer) error { _, err := fmt.Fprint(w, n); return err }, nil
}

func (c *counter) Restore(r io.Reader) error {
	var n uint64
	if _, err := fmt.Fscan(r, &n); err != nil {
		return err
	}
	c.n.Store(n)
	return nil
}

func Example() {
	dir, err := os.MkdirTemp("", "raftstore")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	store, err := raftstore.Open(ctx, raftstore.Config{Dir: dir, ServerName: "1"}, &counter{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	for lead := range store.LeadershipChanges(ctx) {
		if lead.Leader {
			break
		}
	}
	for range 3 {
		result, err := store.Propose(ctx, []byte("count"))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(result.Value)
	}
	// Output:
	// 1
	// 2
	// 3
}

// atLeader gives do the number of the server that leads, and that of the next one when it leads no more.
func atLeader(ctx context.Context, stores []*raftstore.Store, do func(n int) error) error {
	for {
		for n, store := range stores {
			if !store.Leadership().Leader {
				continue
			}
			if err := do(n); !errors.Is(err, raftstore.ErrNotLeader) {
				return err
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Three servers, which would be three processes, found a cluster and talk over gRPC. One of them takes commands, another one that leads afterwards answers a read that misses none of them, and
// a third one is taken out.
func Example_cluster() {
	dir, err := os.MkdirTemp("", "raftstore")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	var peers []raftstore.Peer
	var listeners []net.Listener
	for n := range 3 {
		lis, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
			return
		}
		defer lis.Close()
		listeners = append(listeners, lis)
		peers = append(peers, raftstore.Peer{ServerName: strconv.Itoa(n + 1), Address: lis.Addr().String()})
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	var stores []*raftstore.Store
	var counters []*counter
	for n, self := range peers {
		c := &counter{}
		store, err := raftstore.Open(ctx, raftstore.Config{
			Dir: filepath.Join(dir, self.ServerName), ServerName: self.ServerName, Address: self.Address, Peers: peers,
		}, c)
		if err != nil {
			fmt.Println(err)
			return
		}
		server := grpc.NewServer()
		controlv1.RegisterRaftServiceServer(server, store.RaftService())
		serving.Go(func() { _ = server.Serve(listeners[n]) })
		defer server.Stop()
		defer store.Close()
		stores, counters = append(stores, store), append(counters, c)
	}

	for range 3 {
		// A command is given again only when it was certainly not applied.
		err := atLeader(ctx, stores, func(n int) error {
			result, err := stores[n].Propose(ctx, []byte("count"))
			if err == nil {
				fmt.Println("count", result.Value)
			}
			return err
		})
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	var first int
	err = atLeader(ctx, stores, func(n int) error {
		first = n
		return stores[n].TransferLeadership(ctx, "")
	})
	for err == nil && stores[first].Leadership().Leader {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	err = atLeader(ctx, stores, func(n int) error {
		if err := stores[n].Read(ctx); err != nil {
			return err
		}
		fmt.Println("another server reads", counters[n].n.Load())
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = atLeader(ctx, stores, func(n int) error {
		members, err := stores[n].Membership()
		if err != nil {
			return err
		}
		// The index makes sure that nobody else has changed the list meanwhile.
		if _, err := stores[n].Remove(ctx, stores[(n+1)%len(stores)].ServerID(), members.Index); err != nil {
			return err
		}
		left, err := stores[n].Servers()
		fmt.Println("members left:", len(left))
		return err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Output:
	// count 1
	// count 2
	// count 3
	// another server reads 3
	// members left: 2
}
