package dlq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// codeNoMessage is the server's answer for a number or a subject of which it has nothing.
	codeNoMessage jetstream.ErrorCode = 10037
	// doubtTries is how often a place that nobody can read is looked at before it counts as damaged: copies agree within moments.
	doubtTries = 5
	doubtPause = 200 * time.Millisecond
)

// Status says where the letters of a store are kept.
type Status struct {
	// Replicas is how many servers are to have a copy.
	Replicas int
	// Copies are the servers that have one or are getting it, by name.
	Copies []Copy
	// Bytes is what the letters take at each of them, of at most MaxBytes.
	Bytes, MaxBytes uint64
}

// Copy is one server's copy of the letters.
type Copy struct {
	// Server is the server's name.
	Server string
	// Leader says that the others copy from it.
	Leader bool
	// Current says that it is up to date, and was heard of within the last seconds.
	Current bool
	// Lag is how many changes it is behind.
	Lag uint64
	// Silent is how long ago it was heard of; 0 when it was not since the present leader of the copies leads them.
	Silent time.Duration
}

// Missing says what a copy that is not current lacks.
func (c *Copy) Missing() string {
	if c.Silent == 0 {
		return fmt.Sprintf("the server that leads the copies has not heard of that of server %s yet", c.Server)
	}
	return fmt.Sprintf("the copy at server %s is %d changes behind, and was heard of %s ago", c.Server, c.Lag, c.Silent.Round(time.Millisecond))
}

// Leader is the name of the server that the others copy from; empty while there is none.
func (s *Status) Leader() string {
	for i := range s.Copies {
		if s.Copies[i].Leader {
			return s.Copies[i].Server
		}
	}
	return ""
}

// Current is how many copies are up to date; all letters are as safe as they are to be when that is Replicas.
func (s *Status) Current() int {
	n := 0
	for i := range s.Copies {
		if s.Copies[i].Current {
			n++
		}
	}
	return n
}

// Status tells where the letters are kept, as the server that leads their copies knows it.
func (s *Store) Status(ctx context.Context) (Status, error) {
	if err := s.open(); err != nil {
		return Status{}, err
	}
	info, err := s.info(ctx)
	if err != nil {
		return Status{}, err
	}
	return statusOf(info), nil
}

func statusOf(info *jetstream.StreamInfo) Status {
	st := Status{Replicas: max(info.Config.Replicas, 1), Bytes: info.State.Bytes, MaxBytes: uint64(max(info.Config.MaxBytes, 0))}
	if info.Cluster == nil {
		return st
	}
	if leader := info.Cluster.Leader; leader != "" {
		st.Copies = append(st.Copies, Copy{Server: leader, Leader: true, Current: true})
	}
	for _, r := range info.Cluster.Replicas {
		st.Copies = append(st.Copies, Copy{Server: r.Name, Current: r.Current && !r.Offline, Lag: r.Lag, Silent: r.Active})
	}
	slices.SortFunc(st.Copies, func(a, b Copy) int { return strings.Compare(a.Server, b.Server) })
	return st
}

// copied reports whether several servers keep the stream. Reads in pages are then answered by any of them, also by one that lags behind: it can lack what was
// stored and still have what was removed. What must be exact asks the one that leads.
func (s *Store) copied() bool { return s.stream.CachedInfo().Config.Replicas > 1 }

// getRequest asks the leader for one message, by its number or the next one of a subject from a number on.
type getRequest struct {
	Seq     uint64 `json:"seq"`
	NextFor string `json:"next_by_subj,omitempty"`
}

// ask gets one message from the server that leads the stream; nil means that it has none.
func (s *Store) ask(ctx context.Context, what getRequest) (*entry, error) {
	request, err := json.Marshal(what)
	if err != nil {
		return nil, fmt.Errorf("read letters: %w", err)
	}
	m, err := s.request(ctx, &nats.Msg{Subject: s.api("STREAM.MSG.GET." + s.cfg.Stream), Data: request})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, s.unavailable("read the server's answer", err)
	}
	switch got := answer.Message; {
	case answer.Error != nil && answer.Error.ErrorCode == codeNoMessage:
		return nil, nil
	case answer.Error != nil:
		return nil, s.unavailable("read letters", answer.Error)
	case got == nil:
		return nil, s.unavailable("read letters", errors.New("the server answered nothing"))
	default:
		return &entry{id: got.Seq, subject: got.Subject, stored: got.Time, data: got.Data}, nil
	}
}

// orAll turns an empty filter into one that matches all letters.
func (s *Store) orAll(filter string) string {
	if filter == "" {
		return filterOf(s.cfg.Stream, &Query{})
	}
	return filter
}

// askNext gets the first message that matches from an ID on to another from the leader, or one that stands for a place that cannot be read; nil means that there is none.
func (s *Store) askNext(ctx context.Context, filter string, from, to uint64) (*entry, error) {
	for range doubtTries {
		e, err := s.ask(ctx, getRequest{Seq: from, NextFor: s.orAll(filter)})
		if err != nil {
			return nil, err
		}
		if e != nil {
			if e.id > to {
				e = nil
			}
			return e, nil
		}
		// Nothing follows, or the leader stumbles over what does: the answer is the same.
		pending, err := s.pending(ctx, filter, from)
		if err != nil || pending == 0 {
			return nil, err
		}
		// Some copy counts more than the leader has: most likely what was removed a moment ago.
		if err := s.wait(ctx, doubtPause); err != nil {
			return nil, err
		}
	}
	return &entry{id: from, unreadable: true}, nil
}

// scanExact is scan in small pages, and misses nothing that the leader has: wherever a page leaves numbers out, the leader is asked about them.
func (s *Store) scanExact(ctx context.Context, filter string, from, to uint64, visit func(*entry) bool) error {
	switch {
	case !s.copied():
		return s.scan(ctx, filter, from, to, smallPage, visit)
	case filter != "":
		// Almost every letter has others before it.
		return s.scanLeader(ctx, filter, from, to, visit)
	}
	next, failed := from, error(nil)
	err := s.scan(ctx, filter, from, to, smallPage, func(e *entry) bool {
		for next < e.id {
			l, err := s.askNext(ctx, filter, next, e.id)
			switch {
			case err != nil:
				failed = err
				return false
			case l == nil: // the leader has not even this one any more
				next = e.id + 1
				return true
			case l.id == e.id:
				next = e.id
				continue
			case !visit(l):
				return false
			}
			if next = l.id + 1; l.unreadable {
				if next, failed = s.nextReadable(ctx, filter, next, e.id); failed != nil {
					return false
				}
			}
		}
		next = e.id + 1
		return visit(e)
	})
	return errors.Join(err, failed)
}

// scanLeader is scan by the leader alone: exact, one letter a request.
func (s *Store) scanLeader(ctx context.Context, filter string, from, to uint64, visit func(*entry) bool) error {
	for from > 0 && from <= to {
		next, err := s.scanOne(ctx, filter, from, to, visit)
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// wait waits, at most until ctx ends or the store closes.
func (s *Store) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return ErrClosed
	}
}
