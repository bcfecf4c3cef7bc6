package letters_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/dlq/dlqtest"
	"github.com/conveyor-etl/conveyor/router/internal/letters"
)

// patience bounds every wait: elections of the servers take some seconds.
const patience = 40 * time.Second

// leadership is what the routers of a test share: who leads, and the mark.
type leadership struct {
	mu      sync.Mutex
	leader  int
	term    context.Context
	end     context.CancelFunc
	mark    []byte
	version uint64
	least   atomic.Int64 // the room at the member that has the least
}

func (l *leadership) lead(i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != nil {
		l.end()
	}
	l.leader = i
	l.term, l.end = context.WithCancel(context.Background())
}

func (l *leadership) Load(context.Context) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mark, nil
}

func (l *leadership) Save(_ context.Context, mark []byte, version uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if version == l.version && bytes.Equal(mark, l.mark) {
		return nil
	}
	if version != l.version+1 {
		return dlq.ErrSuperseded
	}
	l.mark, l.version = mark, version
	return nil
}

// routers are the stores of three routers.
type routers struct {
	t      *testing.T
	shared leadership
	dirs   [3]string
	rooms  [3]int64
	routes []string
	names  []string
	// members are the addresses of those that belong to the cluster.
	members atomic.Pointer[map[string]string]
	stores  [3]*letters.Store
	stops   [3]func()
}

func newRouters(t *testing.T) *routers {
	const room = 1 << 30
	r := &routers{t: t, rooms: [3]int64{room, room, room}}
	r.shared.least.Store(room)
	r.routes = dlqtest.FreeAddresses(t, 3)
	for i := range 3 {
		r.names, r.dirs[i] = append(r.names, fmt.Sprintf("%d-first", i+1)), t.TempDir()
	}
	r.setMembers(r.names...)
	r.shared.lead(0)
	t.Cleanup(func() { r.shared.end() })
	return r
}

// setMembers takes names in the order of the routes.
func (r *routers) setMembers(names ...string) {
	members := map[string]string{}
	for i, name := range names {
		members[name] = r.routes[i]
	}
	r.members.Store(&members)
}

func (r *routers) logger() *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	return slog.New(slog.DiscardHandler)
}

func (r *routers) start(i int) {
	s := letters.New(r.dirs[i], &letters.Cluster{
		Name: func() string { return "test" }, ServerName: r.names[i], Listen: r.routes[i],
		Routes: func() (map[string]string, bool) {
			return *r.members.Load(), true
		},
		Room: r.rooms[i], Least: func() int64 { return r.shared.least.Load() },
		Leading: func() (context.Context, bool) {
			r.shared.mu.Lock()
			defer r.shared.mu.Unlock()
			return r.shared.term, r.shared.leader == i
		},
		Mark: &r.shared,
	}, r.logger())
	r.stores[i], r.stops[i] = s, run(r.t, s)
}

// run runs a store until the returned function, or the end of the test.
func run(t *testing.T, s *letters.Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func await(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func letter(id string) dlq.Letter {
	return dlq.Letter{RecordID: id, Namespace: "default", Pipeline: "p", Generation: 1, Stage: "s", Class: "permanent", Record: []byte(id)}
}

func (r *routers) append(i int, id string) (at uint64) {
	r.t.Helper()
	await(r.t, func() error {
		results, err := r.stores[i].Append(r.t.Context(), []dlq.Letter{letter(id)})
		if err == nil {
			at = results[0].ID
		}
		return err
	})
	return at
}

func (r *routers) ids(i int) (ids []uint64) {
	r.t.Helper()
	for l, err := range r.stores[i].List(r.t.Context(), dlq.Query{}) {
		if err != nil {
			r.t.Fatal(err)
		}
		ids = append(ids, l.ID)
	}
	return ids
}

func TestCluster_TakesOverTheLettersOfARouterThatWasAlone(t *testing.T) {
	r := newRouters(t)
	alone := letters.New(r.dirs[0], nil, r.logger())
	stop := run(t, alone)
	r.stores[0] = alone
	<-alone.Opened()
	for i := range 12 {
		r.append(0, fmt.Sprint("alone-", i))
	}
	if err := alone.Discard(t.Context(), 1, 2, 7); err != nil {
		t.Fatal(err)
	}
	if st, err := alone.Status(t.Context()); err != nil || st.Replicas != 1 || st.Current() != 1 {
		t.Errorf("status alone: %+v, %v", st, err)
	}
	if err := alone.Complete(t.Context(), nil); err != nil {
		t.Errorf("alone: %v", err)
	}
	want := r.ids(0)
	stop()
	// What a router leaves that stopped while it removed what it had taken over.
	leftover := filepath.Join(r.dirs[0], "jetstream.migrated", "jetstream")
	if err := os.MkdirAll(leftover, 0o750); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r.start(i)
	}
	if again := r.append(0, "alone-3"); again != 4 {
		t.Errorf("a letter from before is %d now", again)
	}
	if got := r.ids(0); !slices.Equal(got, want) {
		t.Errorf("letters %v, want %v", got, want)
	}
	for _, dir := range []string{"jetstream", "jetstream.migrated"} {
		if _, err := os.Stat(filepath.Join(r.dirs[0], dir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there still: %v", dir, err)
		}
	}
	await(t, func() error { return r.stores[0].Complete(t.Context(), r.names) })
	if err := r.stores[0].Complete(t.Context(), []string{r.names[0], r.names[1], "4-first"}); err == nil {
		t.Error("complete, with a copy at a server that is no member")
	}
	// Another one leads, without the first.
	r.shared.lead(1)
	r.stops[0]()
	if at := r.append(1, "later"); at != 13 {
		t.Errorf("the next letter is %d", at)
	}
	if got := r.ids(1); !slices.Equal(got, append(want, 13)) {
		t.Errorf("letters %v", got)
	}
	if err := r.stores[1].Complete(t.Context(), r.names); err == nil {
		t.Error("complete, with a server that is gone")
	}
	if _, err := r.stores[2].Status(t.Context()); !errors.Is(err, dlq.ErrUnavailable) {
		t.Errorf("status of one that does not lead: %v", err)
	}
	// The router cannot be alone again with the directory of a cluster.
	back := letters.New(r.dirs[0], nil, r.logger())
	defer run(t, back)()
	<-back.Opened()
	if err := back.Check(t.Context()); err == nil {
		t.Error("a router that is alone opened the letters of a cluster")
	}
}

func TestCluster_ARouterWithMoreRoomThanTheOthersKeepsNoMoreThanTheyCan(t *testing.T) {
	const little, less = 256 << 20, 128 << 20
	r := newRouters(t)
	r.rooms[0], r.rooms[1] = little, little
	r.shared.least.Store(little)
	r.shared.lead(2)
	for i := range 3 {
		r.start(i)
	}
	limit := func(want uint64) {
		t.Helper()
		await(t, func() error {
			st, err := r.stores[2].Status(t.Context())
			if err == nil && (st.MaxBytes > want || st.MaxBytes < want/2) {
				err = fmt.Errorf("letters may take %d bytes, and a router has %d for them", st.MaxBytes, want)
			}
			return err
		})
	}
	r.append(2, "a")
	limit(little)
	// The store is told when that changes, as it does when a router is replaced.
	r.shared.least.Store(less)
	limit(less)
	r.append(2, "b")
}

func TestCluster_ARouterThatWasLostBeforeTheServersMetIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRouters(t)
	for i := range 2 {
		r.start(i)
		await(t, func() error { // with three of them
			_, err := os.Stat(filepath.Join(r.dirs[i], "cluster", "jetstream", "SYS", "_js_", "_meta_", "peers.idx"))
			return err
		})
	}
	await(t, func() error {
		if _, err := r.stores[0].Status(t.Context()); err == nil || !strings.Contains(err.Error(), "have not all met yet") {
			return fmt.Errorf("letters without the third: %w", err)
		}
		return nil
	})
	r.setMembers(r.names[:2]...)
	await(t, func() error { return r.stores[0].Forget(t.Context(), r.names[2]) })
	r.names[2], r.dirs[2] = "3-second", t.TempDir()
	r.setMembers(r.names...)
	r.start(2)
	r.append(0, "a")
	await(t, func() error { return r.stores[0].Complete(t.Context(), r.names) })
}

func TestStore_WhoeverReadsLettersWaitsUntilTheyAreOpen(t *testing.T) {
	s := letters.New(t.TempDir(), nil, slog.New(slog.DiscardHandler))
	listed := make(chan error, 1)
	go func() {
		for _, err := range s.List(t.Context(), dlq.Query{}) {
			listed <- err
			return
		}
		listed <- nil
	}()
	defer run(t, s)()
	if err := <-listed; err != nil {
		t.Errorf("the letters were about to be opened: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := letters.New(t.TempDir(), nil, slog.New(slog.DiscardHandler)).Get(ctx, 1); !errors.Is(err, dlq.ErrUnavailable) {
		t.Errorf("whoever gives up is told why: %v", err)
	}
}

// It would take no letters until another router leads, or longer.
func TestCluster_AStoreThatWasSupersededIsOpenedAgainByTheRouterThatLeads(t *testing.T) {
	r := newRouters(t)
	for i := range 3 {
		r.start(i)
	}
	r.append(0, "a")
	r.shared.saveAsAnother(t)
	if _, err := r.stores[0].Append(t.Context(), []dlq.Letter{letter("b")}); !errors.Is(err, dlq.ErrUnavailable) {
		t.Errorf("the store that was superseded answered %v", err)
	}
	r.append(0, "b")
	r.append(0, "a")
	if got := r.ids(0); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("letters %v", got)
	}
	if _, err := r.stores[0].Count(t.Context()); err != nil {
		t.Errorf("after it was opened again: %v", err)
	}
}

// saveAsAnother saves the mark once more, as a store does that nothing else is known of.
func (l *leadership) saveAsAnother(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var state map[string]any
	if err := json.Unmarshal(l.mark, &state); err != nil {
		t.Fatal(err)
	}
	l.version++
	state["version"], state["writer"] = l.version, "another"
	mark, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	l.mark = mark
}
