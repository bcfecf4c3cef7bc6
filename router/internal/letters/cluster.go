package letters

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/dlq/embed"
)

const (
	// copies is how many routers keep each letter.
	copies = 3
	// loneDir and sharedDir are where the server of a router that is alone, and of one among several, keeps its files.
	loneDir   = "jetstream"
	sharedDir = "cluster"
	lookEvery = 100 * time.Millisecond
)

// Cluster makes the store that of several routers: each keeps copies, and the one that leads reads and writes. All fields but TLS are required.
type Cluster struct {
	// Name is the same for all routers of the cluster.
	Name func() string
	// ServerName is this router's; a router with another disk has another one.
	ServerName string
	// Listen is where the others are accepted, host:port.
	Listen string
	// Routes are the addresses of all members, this one included; ok is false until all are known.
	Routes func() (routes []string, ok bool)
	// TLS is for both directions; nil keeps to this machine.
	TLS *tls.Config
	// Leading returns a context that ends with the leadership of this router, and whether it leads.
	Leading func() (context.Context, bool)
	// Mark keeps the high-water mark, and refuses it from a router that leads no more.
	Mark dlq.Mark
}

// runCluster keeps the server running, and the store open while this router leads.
func (s *Store) runCluster(ctx context.Context) {
	s.once.Do(func() { close(s.opened) }) // what waits for it would wait for other routers
	retry := firstRetry
	for ctx.Err() == nil {
		server, err := s.openServer(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Error("dead-letter server cannot be started; lanes with failed records wait", "err", err, "again", retry)
				s.set(nil, err)
				pause(ctx, retry)
				retry = min(2*retry, lastRetry)
			}
			continue
		}
		retry = firstRetry
		s.mu.Lock()
		s.server = server
		s.mu.Unlock()
		s.serveCluster(ctx, server)
		s.mu.Lock()
		s.server = nil
		s.mu.Unlock()
		if err := server.Close(); err != nil {
			s.log.Warn("dead-letter server did not close well", "err", err)
		}
	}
	s.set(nil, errors.New("it is closed"))
}

// openServer waits until the members are known. A new cluster begins with at least three of them, so that each letter can have its copies.
func (s *Store) openServer(ctx context.Context) (*embed.Server, error) {
	dir := filepath.Join(s.dir, sharedDir)
	for {
		routes, ok := s.cluster.Routes()
		_, err := os.Stat(dir)
		switch {
		case ok && len(routes) >= copies, ok && len(routes) > 1 && err == nil:
			return embed.Open(embed.Config{
				Dir: dir, ServerName: s.cluster.ServerName, Logger: s.log,
				Cluster: &embed.Cluster{Name: s.cluster.Name(), Listen: s.cluster.Listen, Routes: routes, TLS: s.cluster.TLS},
			})
		case ok:
			s.set(nil, fmt.Errorf("the letters are kept by %d routers, and the cluster has %d: add the others", copies, len(routes)))
		default:
			s.set(nil, errors.New("not all routers of the cluster have been heard of yet"))
		}
		if !pause(ctx, lookEvery) {
			return nil, context.Cause(ctx)
		}
	}
}

// serveCluster opens the store whenever this router leads, until ctx ends or the server fails.
func (s *Store) serveCluster(ctx context.Context, server *embed.Server) {
	retry := firstRetry
	for {
		s.set(nil, errors.New("this router does not lead the cluster"))
		leading, ok := s.awaitLeading(ctx, server)
		if !ok {
			return
		}
		s.set(nil, errors.New("it is being opened"))
		store, hangUp, err := s.openShared(leading, server)
		if err != nil {
			s.set(nil, err)
			// Right after a start the servers elect, which is no news.
			s.log.Debug("dead-letter store cannot be opened yet", "err", err, "again", retry)
			if !pause(ctx, retry) {
				return
			}
			retry = min(2*retry, lastRetry/10)
			continue
		}
		retry = firstRetry
		s.set(store, nil)
		s.log.Info("dead-letter store is open")
		failed := false
		select {
		case <-ctx.Done():
		case <-leading.Done():
		case <-server.Failed():
			s.log.Error("dead-letter server failed; it is being started again", "err", server.Err())
			failed = true
		}
		s.set(nil, errors.New("this router does not lead the cluster"))
		if err := store.Close(); err != nil {
			s.log.Warn("dead-letter store did not close well", "err", err)
		}
		hangUp()
		if failed || ctx.Err() != nil {
			return
		}
	}
}

// awaitLeading waits until this router leads; false when the server failed, or ctx ended, before.
func (s *Store) awaitLeading(ctx context.Context, server *embed.Server) (context.Context, bool) {
	for {
		if leading, ok := s.cluster.Leading(); ok {
			return leading, true
		}
		select {
		case <-server.Failed():
			s.log.Error("dead-letter server failed; it is being started again", "err", server.Err())
			return nil, false
		default:
		}
		if !pause(ctx, lookEvery) {
			return nil, false
		}
	}
}

// openShared opens the store of the cluster, and takes over what this router kept while it was alone.
func (s *Store) openShared(ctx context.Context, server *embed.Server) (store *dlq.Store, hangUp func(), err error) {
	js, err := server.JetStream()
	if err != nil {
		return nil, nil, err
	}
	store, err = dlq.Open(ctx, js, dlq.Config{Mark: s.cluster.Mark, Replicas: copies, MaxBytes: room(server), Logger: s.log})
	if err != nil {
		js.Conn().Close()
		return nil, nil, err
	}
	if err := s.takeOver(ctx, store); err != nil {
		err = errors.Join(err, store.Close())
		js.Conn().Close()
		return nil, nil, err
	}
	return store, js.Conn().Close, nil
}

// takeOver moves the letters of the time when this router was alone into the store of the cluster. It can be interrupted anywhere: letters that are there already are
// recognised by their identity, and the old files go only after every letter was counted.
func (s *Store) takeOver(ctx context.Context, to *dlq.Store) error {
	lone := filepath.Join(s.dir, loneDir)
	if _, err := os.Stat(lone); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	s.log.Info("letters from before the cluster are taken over", "dir", lone)
	server, err := embed.Open(embed.Config{Dir: lone, Logger: s.log})
	if err != nil {
		return fmt.Errorf("take over the letters of %s: %w", lone, err)
	}
	defer func() { _ = server.Close() }() // a second time where it went well
	js, err := server.JetStream()
	if err != nil {
		return fmt.Errorf("take over the letters of %s: %w", lone, err)
	}
	from, err := dlq.Open(ctx, js, dlq.Config{Dir: s.dir, MaxBytes: room(server), Logger: s.log})
	if err != nil {
		return fmt.Errorf("take over the letters of %s: %w", lone, err)
	}
	moved, err := move(ctx, from, to)
	if err := errors.Join(err, from.Close(), server.Close()); err != nil {
		return fmt.Errorf("take over the letters of %s: %w", lone, err)
	}
	s.log.Info("letters from before the cluster were taken over", "letters", moved)
	if err := os.RemoveAll(lone); err != nil {
		return fmt.Errorf("remove the letters that were taken over: %w", err)
	}
	return nil
}

// moveBatch is how many letters are stored at a time.
const moveBatch = 100

func move(ctx context.Context, from, to *dlq.Store) (moved uint64, err error) {
	var batch []dlq.Letter
	flush := func() error {
		results, err := to.Append(ctx, batch)
		if err != nil {
			return err
		}
		moved += uint64(len(results))
		batch = batch[:0]
		return nil
	}
	for l, err := range from.List(ctx, dlq.Query{}) {
		if err != nil {
			return moved, fmt.Errorf("%w: nothing was removed; discard the letter there with a router that is alone, or move the directory away", err)
		}
		if batch = append(batch, l); len(batch) == moveBatch {
			if err := flush(); err != nil {
				return moved, err
			}
		}
	}
	if len(batch) > 0 {
		if err := flush(); err != nil {
			return moved, err
		}
	}
	want, err := from.Count(ctx, dlq.Query{})
	if err != nil {
		return moved, err
	}
	if moved != want {
		return moved, fmt.Errorf("%d of %d letters were taken over", moved, want)
	}
	return moved, nil
}

// Forget takes a router that is no member any more out of the servers that keep letters. One that is not known is no error.
func (s *Store) Forget(ctx context.Context, serverName string) error {
	s.mu.RLock()
	server := s.server
	s.mu.RUnlock()
	if s.cluster == nil {
		return nil
	}
	if server == nil {
		return fmt.Errorf("forget server %s: %w: the server is not running", serverName, dlq.ErrUnavailable)
	}
	return server.Forget(ctx, serverName)
}
