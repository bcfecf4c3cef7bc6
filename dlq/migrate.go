package dlq

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// migrating is a stream's mark of letters that came from another store and were not compared with it yet.
	migrating = "conveyor-migrating"
	// migrateBatch is how many letters are appended at a time.
	migrateBatch = 100
	currentPoll  = 100 * time.Millisecond
	// codeNameInUse is the server's answer when there is, or is to be, a stream of the name.
	codeNameInUse jetstream.ErrorCode = 10130
)

// Migrate opens the store that cfg describes, at another server, with the letters of from in it, and returns how many they were. Every one of them is then kept by a
// majority of the copies and was compared with the original, so that the files of from may be removed. It needs from for itself, and leaves it as it is.
//
// Letters keep their IDs and the times at which they were stored, unless the other store has had letters of its own; then they get new IDs there, and keep their
// identity. Migrate may be interrupted anywhere and called again: what is there already is recognised.
//
// A damaged letter in from is an error: it cannot be compared.
func Migrate(ctx context.Context, from *Store, js jetstream.JetStream, cfg Config) (to *Store, letters uint64, err error) {
	wrap := func(err error) error { return fmt.Errorf("migrate the letters of %s: %w", from.cfg.Stream, err) }
	if err := cfg.Validate(); err != nil {
		return nil, 0, wrap(err)
	}
	cfg.setDefaults()
	if err := sound(ctx, from); err != nil {
		return nil, 0, wrap(err)
	}
	fresh, err := from.begin(ctx, js, &cfg)
	if err != nil {
		return nil, 0, wrap(err)
	}
	if to, err = Open(ctx, js, cfg); err != nil {
		return nil, 0, wrap(err)
	}
	if fresh {
		letters, err = compare(ctx, from, to)
	} else {
		letters, err = appendAll(ctx, from, to)
	}
	if err == nil {
		err = to.adoptLosses(from)
	}
	if err == nil {
		err = to.awaitMajority(ctx)
	}
	if err != nil {
		return nil, 0, errors.Join(wrap(err), to.Close())
	}
	return to, letters, nil
}

// sound reads all letters of a store.
func sound(ctx context.Context, from *Store) error {
	for _, err := range from.List(ctx, Query{}) {
		if errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("%w: nothing was migrated; discard it there, or move the directory away to go on without its letters", err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// begin transfers the stream as a whole if the other store never had letters; fresh says so.
func (s *Store) begin(ctx context.Context, js jetstream.JetStream, cfg *Config) (fresh bool, err error) {
	mark, found, err := openMark(ctx, cfg)
	if err != nil {
		return false, err
	}
	used := found && mark.snapshot().Last > 0
	if err := mark.keeper.close(); err != nil {
		return false, err
	}
	if used {
		return false, nil
	}
	stream, err := js.Stream(ctx, cfg.Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
	case err != nil:
		return false, s.unavailable("look for the other stream", err)
	default:
		have := stream.CachedInfo()
		if _, unfinished := have.Config.Metadata[migrating]; !unfinished && have.State.LastSeq > 0 {
			return false, nil // whatever it is, it is nothing to remove
		}
		// Nobody has ever been told of a letter in it.
		if err := js.DeleteStream(ctx, cfg.Stream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return false, s.unavailable("begin again", err)
		}
	}
	want := streamConfig(cfg)
	have, err := s.info(ctx)
	if err != nil {
		return false, err
	}
	makeRoom(&want, have)
	want.Metadata = map[string]string{migrating: "true"}
	if err := s.transfer(ctx, js, want); err != nil {
		if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == codeNameInUse {
			// A transfer that was interrupted: the servers wait for the rest of a stream that, as they say themselves, is not there.
			err = errors.Join(err, js.DeleteStream(ctx, cfg.Stream))
		}
		return false, s.unavailable("transfer the stream", err)
	}
	return true, awaitStream(ctx, js, cfg, have)
}

// awaitStream waits until the servers agree on a stream that was transferred.
func awaitStream(ctx context.Context, js jetstream.JetStream, cfg *Config, want *jetstream.StreamInfo) error {
	ctx, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	for {
		stream, err := js.Stream(ctx, cfg.Stream)
		if err == nil {
			have := stream.CachedInfo().State
			if have.Msgs == want.State.Msgs && have.LastSeq == want.State.LastSeq {
				return nil
			}
			err = fmt.Errorf("it has %d letters up to %d, of %d up to %d", have.Msgs, have.LastSeq, want.State.Msgs, want.State.LastSeq)
		}
		if e := sleep(ctx, currentPoll); e != nil {
			return fmt.Errorf("look at the transferred stream: %w: %w", ErrUnavailable, err)
		}
	}
}

// compare finds every letter of one store in the other, under the same ID.
func compare(ctx context.Context, from, to *Store) (letters uint64, err error) {
	next, stop := iter.Pull2(to.List(ctx, Query{}))
	defer stop()
	for l, err := range from.List(ctx, Query{}) {
		if err != nil {
			return 0, err
		}
		got, err, ok := next()
		switch {
		case err != nil:
			return 0, err
		case !ok || got.ID != l.ID || got.LetterID != l.LetterID || got.Checksum != l.Checksum:
			return 0, fmt.Errorf("letter %d did not arrive as it was: nothing was removed", l.ID)
		}
		letters++
	}
	return letters, nil
}

// appendAll stores the letters of one store in the other, which gives them IDs of its own.
func appendAll(ctx context.Context, from, to *Store) (letters uint64, err error) {
	var batch []Letter
	flush := func() error {
		results, err := to.Append(ctx, batch)
		if err != nil {
			return err
		}
		letters += uint64(len(results))
		batch = batch[:0]
		return nil
	}
	for l, err := range from.List(ctx, Query{}) {
		if err != nil {
			return 0, err
		}
		if batch = append(batch, l); len(batch) == migrateBatch {
			if err := flush(); err != nil {
				return 0, err
			}
		}
	}
	if len(batch) > 0 {
		if err := flush(); err != nil {
			return 0, err
		}
	}
	want, err := from.Count(ctx, Query{})
	if err == nil && letters != want {
		err = fmt.Errorf("%d of %d letters arrived: nothing was removed", letters, want)
	}
	return letters, err
}

// adoptLosses keeps the report of losses that nobody has accepted.
func (s *Store) adoptLosses(from *Store) error {
	var missing []LostError
	known := s.mark.snapshot().Lost
	for _, l := range from.mark.snapshot().Lost {
		if !slices.Contains(known, l) {
			missing = append(missing, l)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return s.mark.change(func(m *markState) { m.lose(missing) })
}

// awaitMajority waits until a majority of the copies is current: a stream that was transferred is, at first, at one server only.
func (s *Store) awaitMajority(ctx context.Context) error {
	for {
		st, err := s.Status(ctx)
		if err != nil {
			return err
		}
		if len(st.Copies) == 0 || st.Current() > st.Replicas/2 {
			return nil
		}
		if err := s.wait(ctx, currentPoll); err != nil {
			return fmt.Errorf("%d of %d copies are current: %w", st.Current(), st.Replicas, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
