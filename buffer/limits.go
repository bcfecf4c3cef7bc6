package buffer

import (
	"context"
	"sync"
)

// A Grant is how much a sender may have sent in total since the stream began. Totals only grow, so
// a grant that is repeated or overtaken does no harm, and the next one makes up for a lost one.
type Grant struct {
	Records uint64
	Bytes   uint64
}

// plus returns g with an amount added.
func (g Grant) plus(records int, bytes int64) Grant {
	return Grant{g.Records + uint64(records), g.Bytes + uint64(bytes)}
}

// covers reports whether a total stays within g in both units.
func (g Grant) covers(used Grant) bool { return used.Records <= g.Records && used.Bytes <= g.Bytes }

// A SendLimit is the sender's end of credit between two processes: it waits until the receiver's
// grant covers what is to be sent. It belongs to one stream; a new stream gets a new one. It is safe
// for concurrent use; without contention Acquire allocates nothing.
type SendLimit struct {
	mu      sync.Mutex
	window  Grant // the first grant: all that can ever be outstanding
	limit   Grant
	used    Grant
	settled Grant
	waiting waiters[struct{}]
	closed  bool
}

// NewSendLimit returns a limit that allows nothing until the receiver's first grant arrives. Give
// that grant as first if it is known already, else the zero Grant.
func NewSendLimit(first Grant) *SendLimit { return &SendLimit{window: first, limit: first} }

// Raise takes a grant of the receiver. It is idempotent, and older or smaller totals change nothing.
// The first grant tells the receiver's window.
func (s *SendLimit) Raise(g Grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit == (Grant{}) {
		s.window = g
	}
	s.limit = Grant{max(s.limit.Records, g.Records), max(s.limit.Bytes, g.Bytes)}
	s.serve()
}

// Acquire takes credit for records and bytes that are sent right after, waiting until the grant
// covers them or ctx ends. Callers are served in the order in which they came. One record may
// overdraw the grant when everything sent before it is settled (see [SendLimit.Settle]). It returns
// nil when the credit is taken, [ErrTooLarge] for several records that exceed the first grant,
// [ErrClosed], or the cause of ctx's end. Negative amounts panic.
func (s *SendLimit) Acquire(ctx context.Context, records int, bytes int64) error {
	checkAmount(records, bytes)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	if s.waiting.empty() {
		ok, err := s.take(records, bytes)
		if ok || err != nil {
			s.mu.Unlock()
			return err
		}
	} else if err := s.refuse(records, bytes); err != nil {
		s.mu.Unlock()
		return err
	}
	me := s.waiting.push(counts{records, bytes}, struct{}{})
	s.mu.Unlock()
	return s.waiting.wait(ctx, &s.mu, me, s.serve)
}

// TryAcquire takes the credit if the grant covers it now and nobody waits, and reports whether it did.
func (s *SendLimit) TryAcquire(records int, bytes int64) bool {
	checkAmount(records, bytes)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waiting.empty() {
		return false
	}
	ok, _ := s.take(records, bytes)
	return ok
}

// Settle notes that the receiver settled so much of what was sent. It gives no credit by itself,
// only a grant does; it is what lets one outsized record overdraw once nothing is outstanding.
// Settling more than was sent is a lie of the receiver: it changes nothing and returns false.
func (s *SendLimit) Settle(records int, bytes int64) bool {
	checkAmount(records, bytes)
	s.mu.Lock()
	defer s.mu.Unlock()
	settled := s.settled.plus(records, bytes)
	if !s.used.covers(settled) {
		return false
	}
	s.settled = settled
	s.serve()
	return true
}

// Outstanding returns what was acquired and is not settled.
func (s *SendLimit) Outstanding() (records int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.used.Records - s.settled.Records), int64(s.used.Bytes - s.settled.Bytes)
}

// Used returns the totals acquired since the stream began.
func (s *SendLimit) Used() Grant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// Available returns how much more the grant covers, zero while it is overdrawn.
func (s *SendLimit) Available() (records int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(remaining(s.limit.Records, s.used.Records)), int64(remaining(s.limit.Bytes, s.used.Bytes))
}

// Close ends the limit: waiting and later calls of Acquire get [ErrClosed]. It is idempotent.
func (s *SendLimit) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.waiting.failAll(ErrClosed)
}

// Stats returns how often and how long callers of Acquire had to wait so far.
func (s *SendLimit) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting.stats()
}

// serve lets waiting requests go ahead. The lock is held.
func (s *SendLimit) serve() {
	s.waiting.serve(func(me *waiter[struct{}]) (bool, error) {
		return s.take(me.amount.records, me.amount.bytes)
	})
}

// take takes credit if the grant covers it. The lock is held.
func (s *SendLimit) take(records int, bytes int64) (bool, error) {
	if err := s.refuse(records, bytes); err != nil {
		return false, err
	}
	used := s.used.plus(records, bytes)
	overdraw := records == 1 && s.used == s.settled && s.limit != Grant{}
	if !overdraw && !s.limit.covers(used) {
		return false, nil
	}
	s.used = used
	return true, nil
}

// refuse returns why a request can never succeed, or nil. The lock is held.
func (s *SendLimit) refuse(records int, bytes int64) error {
	switch {
	case s.closed:
		return ErrClosed
	case s.limit == Grant{}: // before the first grant nothing is known to be too large
		return nil
	case records != 1 && !s.window.covers(Grant{}.plus(records, bytes)):
		return ErrTooLarge
	}
	return nil
}

// A RecvLimit is the receiver's end of credit between two processes: it holds the sender to what was
// granted, and grants more as records settle. It belongs to one stream. It is safe for concurrent use
// and never blocks.
type RecvLimit struct {
	mu       sync.Mutex
	window   Grant
	received Grant
	settled  Grant
	granted  Grant // as last announced
}

// NewRecvLimit returns a limit whose first grant is the window: so many records and bytes may be
// received and not yet settled. Sizes below one count as one, so that the first grant is never empty.
func NewRecvLimit(records int, bytes int64) *RecvLimit {
	w := Grant{uint64(max(records, 1)), uint64(max(bytes, 1))}
	return &RecvLimit{window: w, granted: w}
}

// Granted returns the grant as last announced, at first the window.
func (r *RecvLimit) Granted() Grant {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.granted
}

// Check accounts for records and bytes that arrived. A sender that exceeds what was announced to it
// gets a [*GrantError] and nothing is accounted: end its stream. One record may overdraw when
// nothing is outstanding; how large it may be is for the caller to bound. Negative amounts panic.
func (r *RecvLimit) Check(records int, bytes int64) error {
	checkAmount(records, bytes)
	r.mu.Lock()
	defer r.mu.Unlock()
	received := r.received.plus(records, bytes)
	overdraw := records == 1 && r.received == r.settled
	if !overdraw && !r.granted.covers(received) {
		return &GrantError{Used: received, Granted: r.granted}
	}
	r.received = received
	return nil
}

// Settle returns the credit of records that are settled. Settling more than was received is a fault
// of the caller and panics.
func (r *RecvLimit) Settle(records int, bytes int64) {
	checkAmount(records, bytes)
	r.mu.Lock()
	defer r.mu.Unlock()
	settled := r.settled.plus(records, bytes)
	if !r.received.covers(settled) {
		panic("buffer: settled more than was received")
	}
	r.settled = settled
}

// ShouldAnnounce reports whether credit came free that the sender should hear of without delay: a
// quarter of the window or more, or any at all while the sender has less than a quarter of the window
// left or nothing outstanding. So a sender that asks for no more than a quarter of the window at a
// time never waits for credit that is already free. Callers add a short delay of their own if they
// want fewer, larger announcements.
func (r *RecvLimit) ShouldAnnounce() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.next()
	if next == r.granted {
		return false
	}
	return r.received == r.settled ||
		due(r.window.Records, next.Records-r.granted.Records, remaining(r.granted.Records, r.received.Records)) ||
		due(r.window.Bytes, next.Bytes-r.granted.Bytes, remaining(r.granted.Bytes, r.received.Bytes))
}

// Announce returns the grant to send now: all that is settled plus the window. It counts as
// announced from here on, so it must reach the sender if the stream lives.
func (r *RecvLimit) Announce() Grant {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.granted = r.next()
	return r.granted
}

// Resize changes the window. A grant is never taken back: after shrinking, the sender's credit
// grows again only when enough was settled.
func (r *RecvLimit) Resize(records int, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.window = Grant{uint64(max(records, 1)), uint64(max(bytes, 1))}
}

// Outstanding returns what was received and is not settled.
func (r *RecvLimit) Outstanding() (records int, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int(r.received.Records - r.settled.Records), int64(r.received.Bytes - r.settled.Bytes)
}

// next is the grant that could be announced. The lock is held.
func (r *RecvLimit) next() Grant {
	return Grant{
		max(r.granted.Records, r.settled.Records+r.window.Records),
		max(r.granted.Bytes, r.settled.Bytes+r.window.Bytes),
	}
}

// due decides for one unit whether freed credit is worth a message.
func due(window, freed, left uint64) bool {
	quarter := (window + 3) / 4
	return freed > 0 && (freed >= quarter || left < quarter)
}

// remaining is limit - used, or zero when overdrawn.
func remaining(limit, used uint64) uint64 {
	if used >= limit {
		return 0
	}
	return limit - used
}
