package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/buffer"
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// linkIn is the receiving ends of a stage's edges from other sidecars.
type linkIn struct {
	s *stage

	mu     sync.Mutex
	ends   map[string]*linkEnd // by sending stage; that of the newest sender
	shut   bool                // nothing more is taken; what was taken is still told of
	closed bool
}

func newLinkIn(s *stage) *linkIn { return &linkIn{s: s, ends: make(map[string]*linkEnd)} }

// sender is one process that sends under one assignment: its numbers count from 1.
type sender struct {
	epoch flow.Epoch
	boot  uint64
}

// less reports whether another sender has taken the place of this one.
func (s sender) less(o sender) bool {
	return s.epoch.Less(o.epoch) || s.epoch == o.epoch && s.boot < o.boot
}

// open returns the receiving end for a sender. One that the stage has no edge from is refused, and so is one that is older than the stage has
// seen or the assignment names.
func (l *linkIn) open(from string, by sender) (*linkEnd, error) {
	peer := l.s.upstreamPeer(from)
	if peer == nil {
		return nil, refusal(codes.Unavailable, "NOT_ASSIGNED", "stage %s has no edge from stage %s, or not yet", l.s.key.stage, from)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, refusal(codes.FailedPrecondition, "STALE_EPOCH", "the stage has ended here")
	}
	end := l.ends[from]
	if l.shut && (end == nil || end.sender != by) {
		return nil, refusal(codes.Unavailable, "STOPPING", "the sidecar of stage %s stops", l.s.key.stage)
	}
	// I13: older owners are refused.
	if by.epoch.Less(epochOf(peer.GetEpoch())) || end != nil && by.less(end.sender) {
		return nil, refusal(codes.FailedPrecondition, reasonFenced, "stage %s has a newer owner than the one that sends", from)
	}
	if end != nil {
		if end.sender == by {
			return end, nil
		}
		// I24: another process counts anew, also under the same assignment.
		end.supersede()
	}
	end = &linkEnd{
		s: l.s, from: from, sender: by, limit: buffer.NewRecvLimit(l.s.windowRecords(), l.s.windowBytes()), wake: make(chan struct{}, 1),
	}
	l.ends[from] = end
	l.s.in.reopen(from)
	return end, nil
}

// shutIntake takes nothing more: whoever sends has it still, and hands it to the next owner of the stage.
func (l *linkIn) shutIntake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut = true
	for _, end := range l.ends {
		end.mu.Lock()
		end.shut = true
		end.mu.Unlock()
	}
}

// toldAll reports whether every sender that listens was told how all ended that was taken.
func (l *linkIn) toldAll() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, end := range l.ends {
		end.mu.Lock()
		waits := end.stream != nil && len(end.news) > 0
		end.mu.Unlock()
		if waits {
			return false
		}
	}
	return true
}

func (l *linkIn) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, end := range l.ends {
		end.supersede()
	}
}

// reasonFenced is why an owner is refused that is not the newest.
const reasonFenced = "FENCED"

// reasonOf is the reason that an error of a peer or a service gives for programs, or "" when it did not come from there.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// refusal is an error for a peer, with a reason for programs.
func refusal(code codes.Code, reason, format string, args ...any) error {
	st := status.New(code, fmt.Sprintf(format, args...))
	if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "conveyor.etl"}); err == nil {
		st = detailed
	}
	return st.Err()
}

// linkEnd receives what one sender sends, over one stream after the other. It is the root of the records' settlement
// and remembers how they ended until the sender has heard of it.
type linkEnd struct {
	s      *stage
	from   string
	sender sender
	limit  *buffer.RecvLimit
	wake   chan struct{}

	mu       sync.Mutex
	received uint64 // highest number taken
	taken    uint64 // records taken
	granted  uint64 // records that the sender may have sent in all, as it was told last
	news     []settled
	// told is what was sent and of which it is not known that it arrived. It cannot be longer than the window: who uses new credit has
	// heard of all that was told before.
	told    []settled
	ended   bool
	endSent bool
	shut    bool
	left    bool      // since then a frame came, and stays with its sender
	stream  *incoming // the current one
}

// settled is a run of records that ended alike. Once the sender has used more credit than granted it has heard of them.
type settled struct {
	first, count uint64
	outcome      flow.Outcome
	granted      uint64
}

// settledProto writes runs as links do.
func settledProto(runs []settled) *linkv1.SettledRuns {
	if len(runs) == 0 {
		return nil
	}
	out := &linkv1.SettledRuns{First: make([]uint64, len(runs)), Count: make([]uint64, len(runs)), Outcome: make([]linkv1.Outcome, len(runs))}
	for i, r := range runs {
		out.First[i], out.Count[i], out.Outcome[i] = r.first, r.count, r.outcome.Proto()
	}
	return out
}

// appendSettled adds a run, to the last one where it goes on there.
func appendSettled(runs []settled, r settled) []settled {
	if k := len(runs); k > 0 {
		last := &runs[k-1]
		if last.first+last.count == r.first && last.outcome == r.outcome && last.granted == r.granted {
			last.count += r.count
			return runs
		}
	}
	return append(runs, r)
}

// incoming is one stream of a link.
type incoming struct {
	end    *linkEnd
	cancel context.CancelCauseFunc
	// lanes by the index that introduced them on this stream.
	lanes map[uint32]*flow.Lane
}

// errSuperseded ends a stream whose sender, or whose stream, has a successor.
var errSuperseded = errors.New("superseded by a newer stream")

// errShut leaves a frame with its sender, which keeps it until it is told how it ended.
var errShut = errors.New("the sidecar stops")

func (e *linkEnd) supersede() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream != nil {
		e.stream.cancel(errSuperseded)
		e.stream = nil
	}
}

// detach makes a stream that has ended not the current one.
func (e *linkEnd) detach(in *incoming) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream == in {
		e.stream = nil
	}
}

// Settle notes how records ended, to tell the sender.
func (e *linkEnd) Settle(first uint64, n int, o flow.Outcome) {
	e.mu.Lock()
	e.news = appendSettled(e.news, settled{first: first, count: uint64(n), outcome: o})
	e.mu.Unlock()
	signal(e.wake)
}

// Release gives back the credit of records that have settled.
func (e *linkEnd) Release(_ *flow.Batch, records int, bytes int64, _ int) {
	e.limit.Settle(records, bytes)
	signal(e.wake)
}

// attach makes a stream the current one, and returns what the sender must be told first.
func (e *linkEnd) attach(in *incoming, firstUnsettled uint64) *linkv1.LinkResponse {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream != nil {
		e.stream.cancel(errSuperseded)
	}
	e.stream = in
	e.endSent = false
	// I15: told until it was heard.
	again := slices.Concat(e.told, e.news)
	e.told, e.news = nil, nil
	resp := &linkv1.LinkResponse{Opened: &linkv1.LinkOpened{ReceivedThrough: e.received, Credit: e.grant(), ReceiverBoot: e.s.e.cfg.Boot}}
	for _, r := range again {
		if r.first+r.count <= firstUnsettled {
			continue
		}
		r.granted = e.taken // any frame on this stream comes from one who has heard of it
		e.told = appendSettled(e.told, r)
	}
	resp.Settled = settledProto(e.told)
	return resp
}

// grant returns the credit to announce. Called with the lock.
func (e *linkEnd) grant() *linkv1.Credit {
	g := e.limit.Announce()
	e.granted = g.Records
	return &linkv1.Credit{Records: g.Records, Bytes: g.Bytes}
}

// response returns what is new for the sender, or nil. Only the current stream may tell it.
func (e *linkEnd) response(in *incoming) *linkv1.LinkResponse {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream != in {
		return nil
	}
	resp := &linkv1.LinkResponse{Settled: settledProto(e.news)}
	for _, r := range e.news {
		r.granted = e.granted
		e.told = appendSettled(e.told, r)
	}
	e.news = e.news[:0]
	if e.limit.ShouldAnnounce() {
		resp.Credit = e.grant()
	}
	if e.ended && !e.endSent {
		e.endSent = true
		resp.Ended = &linkv1.LinkEnded{}
	}
	if resp.Settled == nil && resp.Credit == nil && resp.Ended == nil {
		return nil
	}
	return resp
}

// heard forgets what the sender has heard of. Called with the lock.
func (e *linkEnd) heard() {
	n := 0
	for n < len(e.told) && e.told[n].granted < e.taken {
		n++
	}
	if n > 0 {
		e.told = append(e.told[:0], e.told[n:]...)
	}
}

// take hands a frame to the stage.
func (in *incoming) take(h *linkv1.FrameHeader, records *wire.Batch) error {
	n := records.Len()
	lane := in.lanes[h.GetLane()]
	switch {
	case lane == nil:
		return fmt.Errorf("frame of lane %d, which was not introduced", h.GetLane())
	case n == 0 || int(h.GetRecords()) != n || h.GetBytes() != uint64(records.Bytes()):
		return fmt.Errorf("frame with %d records of %d bytes, its header says %d of %d", n, records.Bytes(), h.GetRecords(), h.GetBytes())
	case len(h.GetKeyHashes()) != 0 && len(h.GetKeyHashes()) != n:
		return fmt.Errorf("frame with %d records and %d key hashes", n, len(h.GetKeyHashes()))
	case h.GetFirst()+uint64(n) < h.GetFirst():
		return fmt.Errorf("frame from number %d on, which is no number", h.GetFirst())
	}
	seqs, err := sequences(h.GetOrigins(), n)
	if err != nil {
		return err
	}
	var keys []uint64
	if len(h.GetKeyHashes()) > 0 {
		keys = append(keys, h.GetKeyHashes()...)
	}
	e := in.end
	e.mu.Lock()
	defer e.mu.Unlock()
	// I16: taken once, from one stream.
	switch {
	case e.stream != in:
		return errSuperseded
	case e.shut: // I21
		e.left = true
		return errShut
	case h.GetFirst() <= e.received:
		return fmt.Errorf("frame from number %d on, %d was received", h.GetFirst(), e.received)
	}
	// I8: senders keep to their credit.
	if err := e.limit.Check(n, int64(records.Bytes())); err != nil {
		return fmt.Errorf("the sender exceeds its credit: %w", err)
	}
	e.received = h.GetFirst() + uint64(n) - 1
	e.taken += uint64(n)
	e.heard()
	b := flow.FromRoot(lane, records, e, h.GetFirst(), seqs, keys)
	b.From = e.from
	b.Charge(e)
	e.s.in.push(b)
	return nil
}

// sequences writes out the origins of n records.
func sequences(origins []*linkv1.OriginRun, n int) ([]uint64, error) {
	seqs := make([]uint64, 0, n)
	for _, run := range origins {
		if uint64(run.GetCount()) > uint64(n-len(seqs)) {
			return nil, fmt.Errorf("frame with %d records and more origins", n)
		}
		for i := range uint64(run.GetCount()) {
			if run.GetSame() {
				i = 0
			}
			seqs = append(seqs, run.GetFirst()+i)
		}
	}
	if len(seqs) != n {
		return nil, fmt.Errorf("frame with %d records and %d origins", n, len(seqs))
	}
	return seqs, nil
}
