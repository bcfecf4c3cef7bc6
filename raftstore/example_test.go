package raftstore_test

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/conveyor-etl/conveyor/raftstore"
)

// counter counts its commands.
type counter struct{ n uint64 }

func (c *counter) Apply(uint64, []byte) any { c.n++; return c.n }

func (c *counter) Snapshot() (func(io.Writer) error, error) {
	n := c.n
	return func(w io.Writer) error { _, err := fmt.Fprint(w, n); return err }, nil
}

func (c *counter) Restore(r io.Reader) error { _, err := fmt.Fscan(r, &c.n); return err }

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
