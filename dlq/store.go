package dlq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"
)

// Store keeps letters in one stream. Its methods may be called concurrently. Those that take a context wait for the server, at most
// for Config.Timeout a request; when the context ends first they return its error, and what they had begun may or may not have happened.
type Store struct {
	cfg    Config
	log    *slog.Logger
	js     jetstream.JetStream
	nc     *nats.Conn
	stream jetstream.Stream

	index  *index
	mark   *watermark
	health health

	// room bounds the bytes of encoded letters that wait to be stored.
	room *semaphore.Weighted
	// removing serialises removals, so that what the mark calls begun is what one call is at.
	removing sync.Mutex

	queue  queue
	settle chan settlement
	// closing ends waiting; closed says that the goroutines are gone.
	closing chan struct{}
	once    sync.Once
	workers sync.WaitGroup
	closed  error
}

// Open opens the stream, creating it if there is none, and compares it with the high-water mark in Config.Dir. It reads all letters once
// to check them and to know their ids, which takes some seconds per gigabyte; ctx bounds that. The connection behind js stays the
// caller's and must outlive the Store.
//
// Damage and loss do not keep a store from opening: it logs them and [Store.Health] reports them.
func Open(ctx context.Context, js jetstream.JetStream, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("open dead-letter store: %w", err)
	}
	cfg.setDefaults()
	s := &Store{
		cfg:     cfg,
		log:     cfg.Logger,
		js:      js,
		nc:      js.Conn(),
		index:   newIndex(),
		room:    semaphore.NewWeighted(roomBytes),
		settle:  make(chan settlement, 4),
		closing: make(chan struct{}),
	}
	s.queue.wake = make(chan struct{}, 1)
	mark, found, err := openMark(ctx, &cfg)
	if err != nil {
		return nil, fmt.Errorf("open dead-letter store %s: %w", cfg.Stream, err)
	}
	s.mark = mark
	err = s.openStream(ctx)
	if err == nil {
		err = s.audit(ctx, found)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open dead-letter store %s: %w", cfg.Stream, err), mark.keeper.close())
	}
	s.workers.Go(s.storeQueued)
	s.workers.Go(s.settleStored)
	return s, nil
}

// Close ends the store: letters that are being stored are stored, those that wait get ErrClosed. It returns when nothing of the store
// runs any more, and may be called again.
func (s *Store) Close() error {
	s.once.Do(func() {
		close(s.closing)
		s.workers.Wait()
		s.closed = s.mark.close()
	})
	return s.closed
}

// Superseded is closed when the store has been told that another one has saved its mark since; it acknowledges and removes nothing any more then, and only a new one can
// take its place. It is nil for a store whose mark is in Config.Dir.
func (s *Store) Superseded() <-chan struct{} { return s.mark.keeper.superseded() }

// openStream creates the stream or brings an existing one's settings up to date, without ever lowering a limit below what is stored.
func (s *Store) openStream(ctx context.Context) error {
	want := streamConfig(&s.cfg)
	stream, err := s.js.Stream(ctx, s.cfg.Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		stream, err = s.js.CreateStream(ctx, want)
	case err == nil:
		have := stream.CachedInfo()
		if have.Config.Storage != want.Storage || have.Config.Retention != want.Retention {
			return fmt.Errorf("stream %s exists and is not one of dead letters: it has %s storage and %s retention",
				s.cfg.Stream, have.Config.Storage, have.Config.Retention)
		}
		want.Replicas, want.Placement = max(want.Replicas, have.Config.Replicas), have.Config.Placement
		makeRoom(&want, have)
		stream, err = s.js.UpdateStream(ctx, want)
	}
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode == storageExceeded:
		return s.unavailable(fmt.Sprintf("open the stream: a server that keeps it gives its streams less than the %d MiB that letters may take", want.MaxBytes>>20), err)
	case err != nil:
		return s.unavailable("open the stream", err)
	}
	s.stream = stream
	return nil
}

// storageExceeded is the server's JSStorageResourcesExceededErr: the limits of all streams do not fit within what it may take.
const storageExceeded = 10047

// makeRoom raises limits to what is stored.
func makeRoom(want *jetstream.StreamConfig, have *jetstream.StreamInfo) {
	want.MaxBytes = max(want.MaxBytes, int64(min(have.State.Bytes, 1<<62)))
	want.MaxMsgs = max(want.MaxMsgs, int64(min(have.State.Msgs, 1<<62)))
}

func streamConfig(cfg *Config) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        cfg.Stream,
		Description: "Conveyor dead letters",
		Subjects:    []string{cfg.Stream + ".*.*.*"},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		// A full store refuses new letters; what is stored is never dropped, neither for room nor for age.
		Discard:    jetstream.DiscardNew,
		MaxAge:     0,
		MaxBytes:   cfg.MaxBytes,
		MaxMsgs:    cfg.MaxLetters,
		MaxMsgSize: MaxEnvelopeBytes + maxHeaderBytes,
		Replicas:   cfg.Replicas,
		Duplicates: cfg.DuplicateWindow,
		// Reads by number in pages.
		AllowDirect:        true,
		AllowAtomicPublish: true,
		// The asynchronous mode would confirm before the sync.
		PersistMode: jetstream.DefaultPersistMode,
	}
}

// info asks the server for the state of the stream.
func (s *Store) info(ctx context.Context, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	within, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	info, err := s.stream.Info(within, opts...)
	switch {
	case err == nil:
		return info, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		return nil, s.unavailable("ask for the state of the stream", err)
	}
}

// request sends a message and waits for the answer, within the time of one request.
func (s *Store) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	within, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	answer, err := s.nc.RequestMsgWithContext(within, m)
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		return nil, s.unavailable("ask the server", err)
	}
}

// api returns the subject of a JetStream request.
func (s *Store) api(name string) string { return apiOf(s.js, name) }

func apiOf(js jetstream.JetStream, name string) string {
	switch opts := js.Options(); {
	case opts.Domain != "":
		return "$JS." + opts.Domain + ".API." + name
	case opts.APIPrefix != "":
		return opts.APIPrefix + "." + name
	default:
		return "$JS.API." + name
	}
}

// unavailable is an error of the server or of the way to it.
func (s *Store) unavailable(doing string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
}

// open returns ErrClosed after Close.
func (s *Store) open() error {
	select {
	case <-s.closing:
		return ErrClosed
	default:
		return nil
	}
}

// pause waits between two tries; false means that the store closes.
func (s *Store) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.closing:
		return false
	}
}
