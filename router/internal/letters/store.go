// Package letters keeps the router's dead-letter store open, and turns its letters into those of the API.
package letters

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/dlq/embed"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
	// openWait is how long people wait for a store that is not open: after a change of leader it takes some seconds.
	openWait = 8 * time.Second
)

// Store is the dead-letter store of this router. While it is not open its methods return errors that wrap dlq.ErrUnavailable.
type Store struct {
	dir     string
	cluster *Cluster // nil when the router is alone
	log     *slog.Logger
	opened  chan struct{}
	once    sync.Once

	mu     sync.RWMutex // held for reading by calls, for writing while the store is exchanged
	store  *dlq.Store
	server *embed.Server // of a cluster
	cause  error
	news   chan struct{} // closed and replaced when store or cause changes
}

// New returns a store in dir that is not open yet; cluster is nil for a router that is alone. Run it.
func New(dir string, cluster *Cluster, log *slog.Logger) *Store {
	return &Store{dir: dir, cluster: cluster, log: log, opened: make(chan struct{}), cause: errors.New("it is being opened"), news: make(chan struct{})}
}

// Opened is closed after the first try to open it, however that went; among several routers it does not wait for the others.
func (s *Store) Opened() <-chan struct{} { return s.opened }

// Run opens the store, opens it again when its server fails, and closes it when ctx ends.
func (s *Store) Run(ctx context.Context) {
	if s.cluster != nil {
		s.runCluster(ctx)
		return
	}
	retry := firstRetry
	for {
		failed, stop, err := s.open(ctx)
		s.once.Do(func() { close(s.opened) })
		if err != nil && ctx.Err() != nil {
			s.set(nil, err)
			return
		}
		if err != nil {
			s.log.Error("dead-letter store cannot be opened; lanes with failed records wait", "err", err, "again", retry)
			s.set(nil, err)
			if !pause(ctx, retry) {
				return
			}
			retry = min(2*retry, lastRetry)
			continue
		}
		retry = firstRetry
		select {
		case <-ctx.Done():
		case <-failed:
			s.log.Error("dead-letter store failed; it is being opened again")
		}
		s.set(nil, errors.New("it is closed"))
		if err := stop(); err != nil {
			s.log.Warn("dead-letter store did not close well", "err", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// pause waits; false means that ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (s *Store) open(ctx context.Context) (failed <-chan struct{}, stop func() error, err error) {
	if _, err := os.Stat(filepath.Join(s.dir, sharedDir)); err == nil {
		return nil, nil, fmt.Errorf("%s holds the letters of a cluster of several routers, and this router is alone: start it with RAFT_PEERS", s.dir)
	}
	server, err := embed.Open(embed.Config{Dir: filepath.Join(s.dir, loneDir), Logger: s.log})
	if err != nil {
		return nil, nil, err
	}
	js, err := server.JetStream()
	if err != nil {
		return nil, nil, errors.Join(err, server.Close())
	}
	store, err := dlq.Open(ctx, js, dlq.Config{Dir: s.dir, MaxBytes: maxBytes(server.MaxStoreBytes()), Logger: s.log})
	if err != nil {
		return nil, nil, errors.Join(err, server.Close())
	}
	s.set(store, nil)
	return server.Failed(), func() error { return errors.Join(store.Close(), server.Close()) }, nil
}

func (s *Store) set(store *dlq.Store, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store, s.cause = store, cause
	close(s.news)
	s.news = make(chan struct{})
}

func (s *Store) use() (*dlq.Store, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.store == nil {
		return nil, fmt.Errorf("%w: %w", dlq.ErrUnavailable, s.cause)
	}
	return s.store, nil
}

// await is use for who would only ask again: it waits a while for a store that is not open.
func (s *Store) await(ctx context.Context) (*dlq.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	for {
		s.mu.RLock()
		changed := s.news
		s.mu.RUnlock()
		store, err := s.use()
		if err == nil {
			return store, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-changed:
		}
	}
}

// Append stores letters durably.
func (s *Store) Append(ctx context.Context, letters []dlq.Letter) ([]dlq.Result, error) {
	store, err := s.use()
	if err != nil {
		return nil, err
	}
	return store.Append(ctx, letters)
}

// Get returns one letter.
func (s *Store) Get(ctx context.Context, id uint64) (dlq.Letter, error) {
	store, err := s.await(ctx)
	if err != nil {
		return dlq.Letter{}, err
	}
	return store.Get(ctx, id)
}

// List yields letters in the order of their ids.
func (s *Store) List(ctx context.Context, q dlq.Query) iter.Seq2[dlq.Letter, error] {
	store, err := s.await(ctx)
	if err != nil {
		return func(yield func(dlq.Letter, error) bool) { yield(dlq.Letter{}, err) }
	}
	return store.List(ctx, q)
}

// Discard removes letters durably.
func (s *Store) Discard(ctx context.Context, ids ...uint64) error {
	store, err := s.await(ctx)
	if err != nil {
		return err
	}
	return store.Discard(ctx, ids...)
}

// Count is how many letters there are, and what is wrong with the store; nil when nothing is.
func (s *Store) Count(ctx context.Context) (uint64, error) {
	store, err := s.use()
	if err != nil {
		return 0, err
	}
	n, err := store.Count(ctx, dlq.Query{})
	return n, errors.Join(err, store.Health())
}

// Check reports whether the store can be used; among several routers, by the one that leads.
func (s *Store) Check(context.Context) error {
	if s.cluster != nil {
		if _, leads := s.cluster.Leading(); !leads {
			s.mu.RLock()
			defer s.mu.RUnlock()
			if s.server == nil {
				return s.cause
			}
			return nil
		}
	}
	_, err := s.use()
	return err
}

// Load returns one letter as the API has it.
func (s *Store) Load(ctx context.Context, id uint64) (*controlv1.Letter, error) {
	l, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return FromStore(&l)
}

// DiscardOne removes a letter durably. One that is gone is no error.
func (s *Store) DiscardOne(ctx context.Context, id uint64) error {
	if err := s.Discard(ctx, id); err != nil && !errors.Is(err, dlq.ErrNotFound) {
		return err
	}
	return nil
}
