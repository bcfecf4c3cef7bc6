package dlq

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// entry is one message of the stream as it was read.
type entry struct {
	id      uint64
	subject string
	stored  time.Time
	data    []byte
	// unreadable says that the server has a message at id, or at several from id on, and cannot read it.
	unreadable bool
}

// letter decodes the entry. The error is a *CorruptError.
func (e *entry) letter() (Letter, error) {
	if e.unreadable {
		return Letter{ID: e.id}, &CorruptError{ID: e.id, Reason: "the server cannot read what it stored at this place"}
	}
	l, err := decode(e.data)
	if err != nil {
		return Letter{ID: e.id, StoredAt: e.stored}, &CorruptError{ID: e.id, Reason: err.Error()}
	}
	l.ID, l.StoredAt = e.id, e.stored
	return l, nil
}

// page bounds what a scan asks for at once, and with it the memory it takes.
type page struct{ letters, bytes int }

var (
	// smallPage is for readers that may stop early.
	smallPage = page{letters: 128, bytes: 1 << 20}
	// largePage is for readers of everything.
	largePage = page{letters: 2000, bytes: 8 << 20}
)

// scan reads the messages that match filter, an empty one being all, in order of their IDs from..to, until visit returns false. It reads pages by stateless
// requests: a scan leaves nothing behind in the server. Of a stream with copies it
// may find what was removed moments ago, and miss what a damaged copy lacks: see scanExact.
func (s *Store) scan(ctx context.Context, filter string, from, to uint64, size page, visit func(*entry) bool) error {
	if from > to {
		return nil
	}
	copied := s.copied()
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return s.unavailable("read letters", err)
	}
	// The page's size bounds what can be pending.
	err = sub.SetPendingLimits(-1, -1)
	defer sub.Unsubscribe() //nolint:errcheck // the connection is gone, and the subscription with it
	if err != nil {
		return s.unavailable("read letters", err)
	}
	for from <= to {
		request, err := json.Marshal(directGet{Seq: from, NextFor: filter, Batch: size.letters, MaxBytes: size.bytes})
		if err != nil {
			return fmt.Errorf("read letters: %w", err)
		}
		if err := s.nc.PublishRequest(s.api("DIRECT.GET."+s.cfg.Stream), inbox, request); err != nil {
			return s.unavailable("read letters", err)
		}
		p, err := s.readPage(ctx, sub, to, visit)
		if err != nil || p.stopped {
			return err
		}
		if p.last >= from {
			from = p.last + 1
			if p.pending > 0 {
				continue
			}
			if !copied {
				return nil
			}
		}
		if copied {
			// The copy that answered has no more, which says nothing about the leader's.
			if from > to {
				return nil
			}
			if from, err = s.scanOne(ctx, filter, from, to, visit); err != nil || from == 0 {
				return err
			}
			continue
		}
		// Nothing follows, or the server stumbles over what does: the answer is the same.
		pending, err := s.pending(ctx, filter, from)
		if err != nil || pending == 0 {
			return err
		}
		if !visit(&entry{id: from, unreadable: true}) {
			return nil
		}
		if from, err = s.nextReadable(ctx, filter, from+1, to); err != nil {
			return err
		}
	}
	return nil
}

// scanOne visits the next letter that the leader has, and returns where to go on; 0 means that the scan is over.
func (s *Store) scanOne(ctx context.Context, filter string, from, to uint64, visit func(*entry) bool) (next uint64, err error) {
	e, err := s.askNext(ctx, filter, from, to)
	if err != nil || e == nil || !visit(e) {
		return 0, err
	}
	if e.unreadable {
		return s.nextReadable(ctx, filter, e.id+1, to)
	}
	return e.id + 1, nil
}

// pending returns how many matching messages the server knows of from an ID on, whether or not it can read them. Only a consumer is
// told, so one is made for the question.
func (s *Store) pending(ctx context.Context, filter string, from uint64) (uint64, error) {
	within, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	consumer, err := s.stream.CreateConsumer(within, jetstream.ConsumerConfig{
		Description:       "counts letters",
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     filter,
		InactiveThreshold: time.Minute,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return 0, s.unavailable("count letters", err)
	}
	info := consumer.CachedInfo()
	if err := s.stream.DeleteConsumer(within, info.Name); err != nil {
		return 0, s.unavailable("count letters", err)
	}
	return info.NumPending, nil
}

// directGet is the server's request for messages by number.
type directGet struct {
	Seq      uint64 `json:"seq"`
	NextFor  string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
	MaxBytes int    `json:"max_bytes,omitempty"`
}

// pageEnd says how a page ended.
type pageEnd struct {
	last    uint64 // the highest ID of the page, 0 if it was empty
	pending uint64 // how many messages follow
	stopped bool   // the visitor or the upper bound ended the scan
}

func (s *Store) readPage(ctx context.Context, sub *nats.Subscription, to uint64, visit func(*entry) bool) (pageEnd, error) {
	var end pageEnd
	for {
		m, err := s.next(ctx, sub)
		if err != nil {
			return end, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204":
			end.pending, err = strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			if err != nil {
				return end, fmt.Errorf("read letters: the server's end of a page: %w", err)
			}
			return end, nil
		case "404":
			return end, nil
		default:
			return end, s.unavailable("read letters", fmt.Errorf("the server answered %s %s", status, m.Header.Get("Description")))
		}
		e, err := entryOf(m)
		if err != nil {
			return end, fmt.Errorf("read letters: %w", err)
		}
		end.last = e.id
		if e.id > to || !visit(e) {
			// The rest of the page goes to a subscription that ends here.
			end.stopped = true
			return end, nil
		}
	}
}

// next waits for one message, within the time of one request.
func (s *Store) next(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	within, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	m, err := sub.NextMsgWithContext(within)
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		return nil, s.unavailable("read letters", err)
	}
}

// nextReadable finds the first ID from..to at which the server finds a matching message again, or to+1.
func (s *Store) nextReadable(ctx context.Context, filter string, from, to uint64) (uint64, error) {
	for ; from <= to; from++ {
		e, err := s.ask(ctx, getRequest{Seq: from, NextFor: s.orAll(filter)})
		if err != nil {
			return 0, err
		}
		if e != nil {
			return from, nil
		}
	}
	return from, nil
}

func entryOf(m *nats.Msg) (*entry, error) {
	id, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("the server's number of a letter: %w", err)
	}
	stored, err := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return nil, fmt.Errorf("the server's time of letter %d: %w", id, err)
	}
	return &entry{id: id, subject: m.Header.Get(jetstream.SubjectHeader), stored: stored, data: m.Data}, nil
}

// read returns the message at id as the leader has it, or ErrNotFound.
func (s *Store) read(ctx context.Context, id uint64) (*entry, error) {
	if id == 0 {
		return nil, fmt.Errorf("dead letter 0: %w", ErrNotFound)
	}
	e, err := s.ask(ctx, getRequest{Seq: id})
	switch {
	case err != nil:
		return nil, fmt.Errorf("read dead letter %d: %w", id, err)
	case e == nil:
		return nil, fmt.Errorf("dead letter %d: %w", id, ErrNotFound)
	default:
		return e, nil
	}
}
