package letters

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// Cluster makes the store that of several routers: each keeps copies, and the one that leads reads and writes. All fields but TLS and VerifyPeer are required.
type Cluster struct {
	// Name is the same for all routers of the cluster.
	Name func() string
	// ServerName is this router's; a router with another disk has another one.
	ServerName string
	// Listen is where the others are accepted, host:port.
	Listen string
	// Routes are the addresses of all members by their server names, this one included; ok is false until all are known. They may be out of date for a while, until each
	// member has said where it is now.
	Routes func() (routes map[string]string, ok bool)
	// TLS is for both directions; nil keeps to this machine. See embed.Cluster.
	TLS *tls.Config
	// VerifyPeer judges the certificate of another router, in both directions; it is only asked about those that TLS has verified. Nil accepts them all.
	VerifyPeer func(*x509.Certificate) error
	// Room is how many bytes this router's server may take, and Least the same of the member that gives the fewest: what does not fit there cannot have its copies.
	Room  int64
	Least func() int64
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
		server, routes, err := s.openServer(ctx)
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
		s.serveCluster(ctx, server, routes)
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
func (s *Store) openServer(ctx context.Context) (*embed.Server, map[string]string, error) {
	dir := filepath.Join(s.dir, sharedDir)
	for {
		routes, ok := s.cluster.Routes()
		_, err := os.Stat(dir)
		switch {
		case ok && len(routes) >= copies, ok && len(routes) > 1 && err == nil:
			server, err := embed.Open(embed.Config{
				Dir: dir, ServerName: s.cluster.ServerName, MaxStoreBytes: s.cluster.Room, Logger: s.log,
				Cluster: &embed.Cluster{
					Name: s.cluster.Name(), Listen: s.cluster.Listen, Routes: slices.Collect(maps.Values(routes)), TLS: s.cluster.TLS, VerifyPeer: s.cluster.VerifyPeer,
				},
			})
			return server, routes, err
		case ok:
			s.set(nil, fmt.Errorf("the letters are kept by %d routers, and the cluster has %d: add the others", copies, len(routes)))
		default:
			s.set(nil, errors.New("not all routers of the cluster have been heard of yet"))
		}
		if !pause(ctx, lookEvery) {
			return nil, nil, context.Cause(ctx)
		}
	}
}

// moved reports whether a member is not any more where the server was told. Members that come or go are no reason for a new server, once it has met
// those that were there: they find it.
func (s *Store) moved(routes map[string]string) bool {
	now, ok := s.cluster.Routes()
	for name, address := range now {
		if before := routes[name]; ok && before != "" && before != address {
			return true
		}
	}
	return false
}

// serveCluster opens the store whenever this router leads, until ctx ends, the server fails, or another one is needed.
func (s *Store) serveCluster(ctx context.Context, server *embed.Server, routes map[string]string) {
	retry := firstRetry
	for {
		s.set(nil, errors.New("this router does not lead the cluster"))
		leading, ok := s.awaitLeading(ctx, server, routes)
		if !ok {
			return
		}
		s.set(nil, errors.New("it is being opened"))
		room := s.cluster.Least()
		store, hangUp, err := s.openShared(leading, server, room)
		if err != nil {
			if !server.Founded() {
				err = fmt.Errorf("the servers of routers %s have not all met yet, as they must the first time: %w", strings.Join(slices.Sorted(maps.Keys(routes)), ", "), err)
			}
			s.set(nil, err)
			// Right after a start the servers elect, which is no news.
			s.log.Debug("dead-letter store cannot be opened yet", "err", err, "again", retry)
			if s.useless(server, routes) || !pause(ctx, retry) {
				return
			}
			retry = min(2*retry, lastRetry/10)
			continue
		}
		retry = firstRetry
		s.set(store, nil)
		s.log.Info("dead-letter store is open")
		over := s.keepOpen(ctx, leading, store, server, routes, room)
		s.set(nil, errors.New("this router does not lead the cluster"))
		if err := store.Close(); err != nil {
			s.log.Warn("dead-letter store did not close well", "err", err)
		}
		hangUp()
		if over {
			return
		}
	}
}

// keepOpen waits while the store can stay open as it is; over says that the server cannot go on either.
func (s *Store) keepOpen(ctx, leading context.Context, store *dlq.Store, server *embed.Server, routes map[string]string, room int64) (over bool) {
	for leading.Err() == nil && s.cluster.Least() == room {
		select {
		case <-store.Superseded():
			s.log.Warn("dead-letter store is opened again, for another one has saved its mark since")
			return false
		default:
		}
		if s.useless(server, routes) || !pause(ctx, lookEvery) {
			return true
		}
	}
	return false
}

// useless reports, and says, that another server is needed.
func (s *Store) useless(server *embed.Server, routes map[string]string) bool {
	select {
	case <-server.Failed():
		s.log.Error("dead-letter server failed; it is being started again", "err", server.Err())
		return true
	default:
	}
	if s.moved(routes) {
		s.log.Info("dead-letter server is started again, for another one is at another address now")
		return true
	}
	if s.otherMembers(routes) && !server.Founded() {
		s.log.Info("dead-letter server is started again, for it has never met all of those that it began with, and the members are others now")
		return true
	}
	return false
}

// otherMembers reports whether the members are not those that the server was told.
func (s *Store) otherMembers(routes map[string]string) bool {
	now, ok := s.cluster.Routes()
	return ok && !maps.Equal(now, routes)
}

// awaitLeading waits until this router leads; false when ctx ended, or another server is needed, before.
func (s *Store) awaitLeading(ctx context.Context, server *embed.Server, routes map[string]string) (context.Context, bool) {
	for {
		if leading, ok := s.cluster.Leading(); ok {
			return leading, true
		}
		if s.useless(server, routes) || !pause(ctx, lookEvery) {
			return nil, false
		}
	}
}

// openShared opens the store of the cluster, and takes over what this router kept while it was alone.
func (s *Store) openShared(ctx context.Context, server *embed.Server, room int64) (store *dlq.Store, hangUp func(), err error) {
	js, err := server.JetStream()
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			js.Conn().Close()
		}
	}()
	cfg := dlq.Config{Mark: s.cluster.Mark, Replicas: copies, MaxBytes: maxBytes(room), Logger: s.log}
	old, err := s.openOld(ctx)
	if err != nil {
		return nil, nil, err
	}
	if old == nil {
		store, err = dlq.Open(ctx, js, cfg)
		return store, js.Conn().Close, err
	}
	store, n, err := dlq.Migrate(ctx, old.store, js, cfg)
	if err = errors.Join(err, old.close()); err == nil {
		err = s.removeOld()
	}
	if err != nil {
		if store != nil {
			err = errors.Join(err, store.Close())
		}
		return nil, nil, err
	}
	s.log.Info("letters from before the cluster were taken over", "letters", n)
	return store, js.Conn().Close, nil
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
		if _, err := os.Stat(filepath.Join(s.dir, sharedDir)); errors.Is(err, fs.ErrNotExist) {
			return nil // there were never enough routers for such servers
		}
		return fmt.Errorf("forget server %s: %w: the server is not running", serverName, dlq.ErrUnavailable)
	}
	return server.Forget(ctx, serverName)
}

// Status tells where the letters are kept; of several routers, the one that leads knows it.
func (s *Store) Status(ctx context.Context) (dlq.Status, error) {
	store, err := s.use()
	if err != nil {
		return dlq.Status{}, err
	}
	return store.Status(ctx)
}

// Complete returns nil when every letter has all its copies, up to date and at these servers, and otherwise says what is missing. After a router was added or removed it
// takes until then that one more may be lost. A router that is alone, and a cluster that is too small to keep letters, have nothing to complete.
func (s *Store) Complete(ctx context.Context, servers []string) error {
	if s.cluster == nil || len(servers) < copies {
		return nil
	}
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	for _, c := range st.Copies {
		switch {
		case !slices.Contains(servers, c.Server):
			return fmt.Errorf("%w: server %s, which is no member, is to give its copy of the letters to another one", dlq.ErrUnavailable, c.Server)
		case !c.Current:
			return fmt.Errorf("%w: letters: %s", dlq.ErrUnavailable, c.Missing())
		}
	}
	if n := len(st.Copies); n < st.Replicas {
		return fmt.Errorf("%w: %d of %d copies of the letters are assigned", dlq.ErrUnavailable, n, st.Replicas)
	}
	return nil
}

// maxBytes is what letters may take of what a server may: it refuses a stream that could outgrow it.
func maxBytes(room int64) int64 {
	return min(dlq.DefaultMaxBytes, room/10*9)
}
