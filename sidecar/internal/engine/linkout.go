package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"

	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// sending is a batch that was given to a link. Its records have the numbers first, first+1, ...
type sending struct {
	first   uint64
	batch   *flow.Batch
	records *wire.Batch // nil once the peer has all of it
	before  uint64      // bytes of everything numbered below first
	left    int         // records that have not settled
	done    []bool      // which have; nil while none or all have
}

func (s *sending) last() uint64 { return s.first + uint64(s.batch.Len()) - 1 }

// linkOut sends the records of an edge to the sidecar that owns the stage behind it. It numbers them, sends what credit allows, and after
// a break goes on behind what the peer had received.
type linkOut struct {
	s      *stage
	to     string
	peer   *controlv1.Peer
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{}

	mu        sync.Mutex
	entries   []*sending // not settled whole, by number
	next      uint64
	bytes     uint64 // of everything delivered
	sent      uint64 // highest number sent on the current stream
	sentBytes uint64
	limit     linkv1.Credit
	ended     bool
	completed bool
	endSent   bool
	endKnew   bool
	fault     string
	away      bool
	parts     []part // of the receiver, to be used again
	// receiver is the boot of the process that the link has sent to, once it is known.
	receiver  uint64
	greeted   bool
	forgotten bool // another process has taken its place
}

// newLinkOut starts a link to a peer; close ends it.
func newLinkOut(s *stage, out *edge, peer *controlv1.Peer) *linkOut {
	ctx, cancel := context.WithCancel(s.ctx)
	l := &linkOut{s: s, to: out.to, peer: peer, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1), next: 1}
	s.e.wg.Go(func() {
		defer close(l.done)
		l.run(ctx)
	})
	return l
}

func (l *linkOut) deliver(b *flow.Batch) {
	b.Records.Ref()
	l.mu.Lock()
	l.entries = append(l.entries, &sending{first: l.next, batch: b, records: b.Records, before: l.bytes, left: b.Len()})
	l.next += uint64(b.Len())
	l.bytes += uint64(b.Bytes(0, b.Len()))
	l.mu.Unlock()
	b.Drop()
	signal(l.wake)
}

func (l *linkOut) end(completed bool) {
	l.mu.Lock()
	l.ended, l.completed = true, completed
	l.mu.Unlock()
	signal(l.wake)
}

func (l *linkOut) endKnown() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.endKnew
}

func (l *linkOut) problem() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

func (l *linkOut) close() {
	l.cancel()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		e.drop()
	}
	l.entries = nil
}

func (s *sending) drop() {
	if s.records != nil {
		s.records.Free()
		s.records = nil
	}
}

// errForgotten ends a link whose receiver was started again.
var errForgotten = errors.New("it was started again and knows nothing of what it had received")

func (l *linkOut) stale() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.forgotten
}

// run keeps a stream to the peer.
func (l *linkOut) run(ctx context.Context) {
	for failures := 0; ; {
		before := l.progress()
		err := l.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if l.endKnown() {
			return // nothing is left to say
		}
		if l.stale() {
			signal(l.s.e.wake) // the edge gets another link, over which everything goes again
			return
		}
		if l.progress() != before {
			failures = 0
		}
		failures++
		l.s.refusedBy(err)
		l.setAway(reasonOf(err) == "")
		l.setFault(fmt.Sprintf("stage %s on sidecar %s at %s: %s", l.to, l.peer.GetSidecarId(), l.peer.GetAddress(), describeError(err)))
		if !sleep(ctx, backoff(failures)) {
			return
		}
	}
}

func (l *linkOut) progress() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries) - int(l.next)
}

func (l *linkOut) setFault(f string) {
	l.mu.Lock()
	l.fault = f
	l.mu.Unlock()
}

func (l *linkOut) setAway(away bool) {
	l.mu.Lock()
	l.away = away
	l.mu.Unlock()
}

// unreachable is the sidecar of the peer while it does not answer, or "".
func (l *linkOut) unreachable() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.away {
		return ""
	}
	return l.peer.GetSidecarId()
}

// session sends over one stream until it breaks.
func (l *linkOut) session(ctx context.Context) error {
	conn, err := l.s.e.cfg.DialPeer(l.peer.GetAddress(), l.peer.GetSidecarId())
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	stream, err := dialStream(ctx, conn, controlv1.SidecarDataPlane_Link_FullMethodName)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(l.open()); err != nil {
		return streamError(stream, err)
	}
	first := &linkv1.LinkResponse{}
	if err := stream.RecvMsg(first); err != nil {
		return err
	}
	if first.GetOpened() == nil {
		return errors.New("its first response is not an opened")
	}
	if err := l.resume(first.GetOpened()); err != nil {
		return err
	}
	if err := l.settle(first); err != nil {
		return err
	}
	l.setFault("")
	l.setAway(false)
	wg.Go(func() { cancel(l.receive(stream)) })
	err = l.send(ctx, stream)
	if errors.Is(err, io.EOF) {
		<-ctx.Done() // the receiver knows why the stream broke
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (l *linkOut) open() *linkv1.LinkRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	unsettled := l.next
	if len(l.entries) > 0 {
		unsettled = l.entries[0].first
	}
	return &linkv1.LinkRequest{Request: &linkv1.LinkRequest_Open{Open: &linkv1.LinkOpen{
		Pipeline: l.s.key.pipeline, Generation: l.s.key.generation, From: l.s.key.stage, To: l.to,
		Sender: epochProto(l.s.epoch), Receiver: l.peer.GetEpoch(), FirstUnsettled: unsettled, SenderBoot: l.s.e.cfg.Boot,
		Ownership: l.s.owner,
	}}}
}

// resume goes on behind what the peer has received.
func (l *linkOut) resume(o *linkv1.LinkOpened) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	// I24: another process of the same owner has nothing of what was sent.
	if l.greeted && l.receiver != o.GetReceiverBoot() {
		l.forgotten = true
		return errForgotten
	}
	l.receiver, l.greeted = o.GetReceiverBoot(), true
	through := o.GetReceivedThrough()
	if through >= l.next {
		return fmt.Errorf("it received number %d, of %d sent", through, l.next-1)
	}
	l.sent, l.sentBytes = through, l.bytes
	for _, e := range l.entries {
		if e.last() <= through {
			continue
		}
		l.sentBytes = e.before
		if e.first <= through {
			l.sentBytes += uint64(e.batch.Bytes(0, int(through+1-e.first)))
		}
		if e.records == nil {
			return fmt.Errorf("it has lost records from number %d on, which it had received", e.first)
		}
		break
	}
	l.limit = linkv1.Credit{Records: o.GetCredit().GetRecords(), Bytes: o.GetCredit().GetBytes()}
	l.endSent = false
	return nil
}

// receive takes what the peer tells.
func (l *linkOut) receive(stream grpc.ClientStream) error {
	for {
		resp := &linkv1.LinkResponse{}
		if err := stream.RecvMsg(resp); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("it ended the stream")
			}
			return err
		}
		if err := l.settle(resp); err != nil {
			return err
		}
	}
}

// settle takes in what has settled, and credit.
func (l *linkOut) settle(resp *linkv1.LinkResponse) error {
	if err := l.settleRuns(resp.GetSettled()); err != nil {
		return err
	}
	l.mu.Lock()
	if c := resp.GetCredit(); c != nil {
		l.limit.Records, l.limit.Bytes = max(l.limit.Records, c.GetRecords()), max(l.limit.Bytes, c.GetBytes())
	}
	if resp.GetEnded() != nil {
		l.endKnew = true
	}
	l.mu.Unlock()
	signal(l.wake)
	return nil
}

// part is records of a batch that have settled alike.
type part struct {
	b        *flow.Batch
	from, to int
	outcome  flow.Outcome
}

// settleRuns settles what the peer says has ended.
func (l *linkOut) settleRuns(runs *linkv1.SettledRuns) error {
	first, count, outcomes := runs.GetFirst(), runs.GetCount(), runs.GetOutcome()
	if len(count) != len(first) || len(outcomes) != len(first) {
		return fmt.Errorf("it settled %d runs with %d counts and %d outcomes", len(first), len(count), len(outcomes))
	}
	l.mu.Lock()
	parts := l.parts[:0]
	var err error
	for i := range first {
		outcome, ok := flow.FromProto(outcomes[i])
		last := first[i] + count[i] - 1
		if !ok || first[i] == 0 || count[i] == 0 || last < first[i] || last > l.sent {
			err = fmt.Errorf("it settled the numbers %d..%d as %s, sent are %d", first[i], last, outcomes[i], l.sent)
			break
		}
		parts = l.settled(parts, first[i], last, outcome)
	}
	kept := l.entries[:0]
	for _, e := range l.entries {
		if e.left > 0 {
			kept = append(kept, e)
		}
	}
	clear(l.entries[len(kept):])
	l.entries = kept
	l.mu.Unlock()
	for _, p := range parts {
		p.b.Settle(p.from, p.to, p.outcome)
	}
	// Only the stream's receiver settles, so nobody else uses the list meanwhile.
	clear(parts)
	l.parts = parts
	return err
}

// settled adds the records of the numbers first..last that had not settled. Called with the lock.
func (l *linkOut) settled(parts []part, first, last uint64, outcome flow.Outcome) []part {
	k := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].last() >= first })
	for _, e := range l.entries[:k] {
		e.drop() // the peer takes frames in order: it has all that came before
	}
	for _, e := range l.entries[k:] {
		if e.first > last {
			break
		}
		if e.last() <= last {
			e.drop()
		}
		parts = e.settle(parts, int(max(first, e.first)-e.first), int(min(last, e.last())+1-e.first), outcome)
	}
	return parts
}

// settle adds the records from..to-1 that had not settled: after a break the peer tells again what it told before.
func (s *sending) settle(parts []part, from, to int, outcome flow.Outcome) []part {
	n := s.batch.Len()
	if s.left == n && from == 0 && to == n {
		s.left = 0
		return append(parts, part{s.batch, from, to, outcome})
	}
	if s.done == nil {
		s.done = make([]bool, n)
	}
	for i := from; i < to; i++ {
		if s.done[i] {
			continue
		}
		s.done[i] = true
		s.left--
		if k := len(parts); k > 0 && parts[k-1].b == s.batch && parts[k-1].to == i && parts[k-1].outcome == outcome {
			parts[k-1].to++
		} else {
			parts = append(parts, part{s.batch, i, i + 1, outcome})
		}
	}
	return parts
}

// send sends frames as credit allows, until the stream breaks.
func (l *linkOut) send(ctx context.Context, stream grpc.ClientStream) error {
	lanes := make(map[*flow.Lane]uint32)
	for {
		m := l.frame(lanes)
		if m == nil {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-l.wake:
			}
			continue
		}
		err := stream.SendMsg(m)
		if m.Batch != nil {
			m.Batch.Free()
		}
		if err != nil {
			return err
		}
	}
}
