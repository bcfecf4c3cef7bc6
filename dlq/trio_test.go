package dlq_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/dlq/dlqtest"
	"github.com/conveyor-etl/conveyor/dlq/embed"
)

// patience bounds every wait: elections of the servers take some seconds.
const patience = time.Minute

// trio is three servers of one cluster.
type trio struct {
	t       *testing.T
	routes  []string
	dirs    []string
	names   []string
	servers []*embed.Server // nil where stopped
	mark    *stateMark
}

func openTrio(t *testing.T) *trio {
	t.Helper()
	t.Parallel()
	c := &trio{t: t, mark: &stateMark{}, servers: make([]*embed.Server, 3)}
	c.routes = dlqtest.FreeAddresses(t, 3)
	for i := range 3 {
		// A directory may have any name.
		c.dirs, c.names = append(c.dirs, filepath.Join(t.TempDir(), "[x-")), append(c.names, fmt.Sprintf("%d-first", i+1))
	}
	for i := range 3 {
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.stop(i)
		}
	})
	return c
}

// join starts one more server.
func (c *trio) join() {
	c.t.Helper()
	n := len(c.servers)
	c.routes, c.dirs = append(c.routes, dlqtest.FreeAddresses(c.t, 1)...), append(c.dirs, c.t.TempDir())
	c.names, c.servers = append(c.names, fmt.Sprintf("%d-first", n+1)), append(c.servers, nil)
	c.start(n)
}

func (c *trio) start(i int) {
	c.t.Helper()
	s, err := embed.Open(embed.Config{
		Dir: filepath.Join(c.dirs[i], "nats"), ServerName: c.names[i], MaxStoreBytes: 4 << 30,
		Cluster: &embed.Cluster{Name: "test", Listen: c.routes[i], Routes: c.routes},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.servers[i] = s
}

func (c *trio) stop(i int) {
	c.t.Helper()
	if c.servers[i] == nil {
		return
	}
	if err := c.servers[i].Close(); err != nil {
		c.t.Errorf("close server %d: %v", i+1, err)
	}
	c.servers[i] = nil
}

// open opens the store at one of the servers, as a router does that begins to lead.
func (c *trio) open(i int) *dlq.Store {
	c.t.Helper()
	var store *dlq.Store
	c.await(func() error {
		js, err := c.servers[i].JetStream()
		if err != nil {
			return err
		}
		store, err = dlq.Open(bg, js, c.config())
		if err != nil {
			js.Conn().Close()
		}
		return err
	})
	c.t.Cleanup(func() { store.Close() })
	return store
}

func (c *trio) config() dlq.Config {
	return dlq.Config{Mark: c.mark, Replicas: 3, MaxBytes: 1 << 30, Timeout: 2 * time.Second}
}

// current waits until all copies are.
func (c *trio) current(store *dlq.Store) {
	c.t.Helper()
	c.await(func() error {
		st, err := store.Status(bg)
		if err == nil && (st.Current() != 3 || len(st.Copies) != 3 || st.Leader() == "") {
			err = fmt.Errorf("status %+v", st)
		}
		return err
	})
}

func (c *trio) await(try func() error) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// ask asks a store again while its servers elect, as any reader has to; every other answer stands.
func (c *trio) ask(question func() error) (err error) {
	c.t.Helper()
	c.await(func() error {
		if err = question(); errors.Is(err, dlq.ErrUnavailable) {
			return err
		}
		return nil
	})
	return err
}

// get reads a letter.
func (c *trio) get(store *dlq.Store, id uint64) (l dlq.Letter, err error) {
	c.t.Helper()
	err = c.ask(func() (err error) {
		l, err = store.Get(bg, id)
		return err
	})
	return l, err
}

// status asks where the copies are.
func (c *trio) status(store *dlq.Store) (st dlq.Status, err error) {
	c.t.Helper()
	err = c.ask(func() (err error) {
		st, err = store.Status(bg)
		return err
	})
	return st, err
}

func (c *trio) append(store *dlq.Store, id string) uint64 {
	c.t.Helper()
	l := named(id)
	var at uint64
	c.await(func() error {
		results, err := store.Append(bg, []dlq.Letter{l})
		if err == nil {
			at = results[0].ID
		}
		return err
	})
	return at
}

// appendToLeader stores a letter, more when the servers elect, and returns which server led the stream meanwhile: whatever was acknowledged until then is in its copy. The
// others have been told of it, and may end before the last of it is in theirs.
func (c *trio) appendToLeader(store *dlq.Store, stored func(id uint64, recordID string)) int {
	c.t.Helper()
	leader := func() string {
		st, err := c.status(store)
		if err != nil {
			c.t.Fatal(err)
		}
		return st.Leader()
	}
	for n := 0; ; n++ {
		before, recordID := leader(), fmt.Sprint("last-", n)
		stored(c.append(store, recordID), recordID)
		if i := slices.Index(c.names, before); i >= 0 && leader() == before {
			return i
		}
	}
}

// named is a letter of a record with this id.
func named(id string) dlq.Letter {
	l := letter(1)
	l.RecordID = id
	return l
}
