// Package dispatch decides which records a stage gives to its service when, what is tried again, and in which order results leave.
//
// A [Dispatcher] is a state machine without clock, goroutines or I/O. Records come in by Add. Next gives the requests to send. Answer,
// Lost and Buried tell what became of them, and return the steps that follow, in order. The usual record passes in a run with its
// neighbours. Only a record that failed leaves its run: it heads a line, behind which the later records of its key wait.
package dispatch

import (
	"container/heap"
	"slices"
	"time"

	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// Ordering is what keeps its order.
type Ordering int

// The orderings. KeyStrict has at most one record of a key at the service.
const (
	Key Ordering = iota
	KeyStrict
	Lane
	None
)

// Policy is when a failed record is tried again. The wait before try n+1 is random between 0 and Backoff times 2 to the n-1, at most
// MaxBackoff: full jitter, which spreads those who failed together.
type Policy struct {
	MaxRetries int
	Backoff    time.Duration
	MaxBackoff time.Duration
}

// Config of a dispatcher.
type Config struct {
	Ordering Ordering
	// HoldResults keeps the result of a record back while an earlier one of its key has none: for stages that pass records on.
	HoldResults bool
	// Ordered: the service refuses the later records of a key after it failed one, until that comes again or is released.
	Ordered bool
	// MaxRecords and MaxBytes bound one request; one record is always allowed.
	MaxRecords int
	MaxBytes   int64
	// WindowRecords and WindowBytes bound what the service has not answered.
	WindowRecords int
	WindowBytes   int64
	Retry         Policy
	// Jitter returns a random number in [0, 1).
	Jitter func() float64
}

// Class of a failure.
type Class int

// The classes; see the protocol of services.
const (
	Retryable Class = iota
	Permanent
	Unavailable
	NotTried
)

// Failure is why a record was not processed.
type Failure struct {
	Class   Class
	Code    string
	Message string
}

// Result answers a run of a request's inputs, From..To-1. A nil Failure means that the service is done with them.
type Result struct {
	From, To int
	Failure  *Failure
}

// Attempt is one try of a record that failed.
type Attempt struct {
	At      time.Time
	Code    string
	Message string
}

// maxAttempts bounds how many tries a record remembers; the first ones are forgotten first.
const maxAttempts = 16

// Input is a run of a request's records: either From..To-1 of a batch, or one record that waited in a line.
type Input struct {
	Batch    *flow.Batch
	From, To int
	Item     *Item

	order uint64 // of record From among all that the dispatcher was given
}

// Len returns the number of records.
func (in Input) Len() int {
	if in.Item != nil {
		return 1
	}
	return in.To - in.From
}

// Request is records to send to the service.
type Request struct {
	Sequence uint64
	Inputs   []Input
	Records  int
	Bytes    int64
	// Response is the caller's: what it needs of the answer until the last of the request's records has finished.
	Response any

	results  []Result
	answered bool
	open     int // records without a step that ends them
}

// Open returns how many of the request's records have not been finished, failed or sent again. At 0 nothing refers to its response.
func (r *Request) Open() int { return r.open }

// Kind of a step.
type Kind int

// The kinds of steps.
const (
	// Finish: the inputs From..To-1 of the request are done, and what came of them goes on.
	Finish Kind = iota
	// Bury: the item goes to the dead letters; then Buried is called.
	Bury
	// Release: an ordered service is told that the item will not come again.
	Release
)

// Step is something to do. Steps are done in the order in which they are returned.
type Step struct {
	Kind     Kind
	Request  *Request
	From, To int
	Item     *Item
	Failure  Failure
}

// Item is a record out of the ordinary: it failed, or waits behind one that did.
type Item struct {
	Batch *flow.Batch
	Index int
	// Record is a copy of the encoded record, so that waiting does not hold the memory of its neighbours.
	Record   []byte
	Attempts []Attempt
	Tries    int

	state   state
	line    *line
	request *Request // of the result that is held back
	input   int
	due     time.Time
	waits   int
	order   uint64
	// barrier is the last request sent when the item failed. Later records of the key that are at an ordered service by then come back
	// untried: until they have, nothing behind the item may be sent, or it would overtake them.
	barrier uint64
	failed  bool // an ordered service refuses its key until it comes again or is released
}

type state int

const (
	waiting state = iota // to be sent when its turn comes, not before due
	sent
	done   // the result is held back
	dying  // on its way to the dead letters
	buried // there
	gone   // finished out of turn
)

// line is the records of one key from the first unfinished one on.
type line struct {
	key   uint64
	items []*Item
	due   time.Time
	at    int // index in the heap, or -1
}

// laneName is what makes a lane another one to a stage: the same lane may come by several links.
type laneName struct{ source, stage, partition string }

// Dispatcher is the state of one stage. It is not safe for concurrent use.
type Dispatcher struct {
	cfg        Config
	configured int     // MaxRecords as it was given
	queue      []Input // records not sent yet, in order
	lines      map[uint64]*line
	nlines     int // with those of records without a key
	due        lineHeap
	barred     []*line
	sent       []*Request // not answered, or answered and waiting for an earlier one
	next       uint64
	records    int
	bytes      int64
	total      int // records added and not ended
	added      uint64
	retries    uint64
	lanes      map[laneName]uint64
}

// New returns a dispatcher.
func New(cfg Config) *Dispatcher {
	return &Dispatcher{cfg: cfg, configured: cfg.MaxRecords, lines: make(map[uint64]*line), lanes: make(map[laneName]uint64), next: 1}
}

// Add takes in the records of a batch, which stay the caller's to settle as steps tell. It calls the batch's Done for records whose bytes
// are not needed any more.
func (d *Dispatcher) Add(b *flow.Batch) {
	d.queue = append(d.queue, Input{Batch: b, From: 0, To: b.Len(), order: d.added})
	d.added += uint64(b.Len())
	d.total += b.Len()
}

// Idle reports whether nothing is left to do.
func (d *Dispatcher) Idle() bool { return len(d.queue) == 0 && len(d.sent) == 0 && d.nlines == 0 }

// InFlight returns how many records the stage has.
func (d *Dispatcher) InFlight() int { return d.total }

// Retries returns how many tries beyond the first there were.
func (d *Dispatcher) Retries() uint64 { return d.retries }

// Request returns the request of a sequence, as long as it is not answered; else nil.
func (d *Dispatcher) Request(sequence uint64) *Request {
	for _, r := range d.sent {
		if r.Sequence == sequence && !r.answered {
			return r
		}
	}
	return nil
}

// Unanswered returns how many records the service has been sent and has not answered.
func (d *Dispatcher) Unanswered() int { return d.records }

// Sent returns the sequence of the last request.
func (d *Dispatcher) Sent() uint64 { return d.next - 1 }

// Waiting returns how many keys wait for a failed record.
func (d *Dispatcher) Waiting() int { return d.nlines }

// Due returns when a record should be tried again; ok is false when none waits for a time.
func (d *Dispatcher) Due() (at time.Time, ok bool) {
	if len(d.due) == 0 {
		return time.Time{}, false
	}
	return d.due[0].due, true
}

// room reports whether n more bytes in one more record fit the window and the request.
func (d *Dispatcher) room(r *Request, n int64) bool {
	if r.Records > 0 && (r.Records >= d.cfg.MaxRecords || r.Bytes+n > d.cfg.MaxBytes) {
		return false
	}
	return d.records == 0 || d.records < d.cfg.WindowRecords && d.bytes+n <= d.cfg.WindowBytes
}

// Next returns the next request to send, or nil when there is nothing to send or the window is full.
func (d *Dispatcher) Next(now time.Time) *Request {
	r := &Request{}
	d.takeDue(r, now)
	d.takeQueue(r)
	if r.Records == 0 {
		return nil
	}
	r.Sequence = d.next
	r.open = r.Records
	d.next++
	d.sent = append(d.sent, r)
	return r
}

func (d *Dispatcher) add(r *Request, in Input, bytes int64) {
	r.Inputs = append(r.Inputs, in)
	n := in.Len()
	r.Records += n
	r.Bytes += bytes
	d.records += n
	d.bytes += bytes
}

// takeDue puts the waiting records at the heads of lines into a request. Those behind go with it only where the service keeps the order
// itself, or where the head has not failed.
func (d *Dispatcher) takeDue(r *Request, now time.Time) {
	for len(d.due) > 0 && !d.due[0].due.After(now) {
		l := d.due[0]
		if !d.room(r, int64(len(l.items[0].Record))) {
			return
		}
		heap.Pop(&d.due)
		head := l.items[0]
		alone := d.cfg.Ordering == KeyStrict || head.failed && (!d.cfg.Ordered || d.barredBy(head))
		for k, it := range l.items {
			if it.state != waiting || k > 0 && (alone || it.failed || !d.room(r, int64(len(it.Record)))) {
				break
			}
			it.state = sent
			if it.Tries > 0 {
				d.retries++
			}
			d.add(r, Input{Item: it}, int64(len(it.Record)))
		}
	}
}

// barredBy reports whether requests that were at the service when an item failed are still unanswered.
func (d *Dispatcher) barredBy(it *Item) bool {
	return len(d.sent) > 0 && d.sent[0].Sequence <= it.barrier
}

// takeQueue puts records from the queue into a request, except those that must wait in a line.
func (d *Dispatcher) takeQueue(r *Request) {
	for len(d.queue) > 0 {
		in := &d.queue[0]
		if d.cfg.Ordering != KeyStrict && d.nlines == 0 {
			if !d.takeRun(r, in) {
				return
			}
		} else if !d.takeOne(r, in) {
			return
		}
		if in.From == in.To {
			d.queue[0] = Input{}
			d.queue = d.queue[1:]
		}
	}
}

// takeRun takes as much of an input as fits. A request that is half full goes without a part of the next input: one that is made of a whole
// input, or of a part of one, needs no copy of its records.
func (d *Dispatcher) takeRun(r *Request, in *Input) bool {
	n, bytes := 0, int64(0)
	for i := in.From; i < in.To; i++ {
		size := in.Batch.Bytes(i, i+1)
		if r.Records+n > 0 && (r.Records+n >= d.cfg.MaxRecords || r.Bytes+bytes+size > d.cfg.MaxBytes) ||
			d.records+n > 0 && (d.records+n >= d.cfg.WindowRecords || d.bytes+bytes+size > d.cfg.WindowBytes) {
			break
		}
		n++
		bytes += size
	}
	halfFull := 2*r.Records >= d.cfg.MaxRecords || 2*r.Bytes >= d.cfg.MaxBytes
	if n == 0 || r.Records > 0 && halfFull && in.From+n < in.To {
		return false
	}
	d.add(r, Input{Batch: in.Batch, From: in.From, To: in.From + n, order: in.order}, bytes)
	in.skip(n)
	return in.From == in.To
}

// takeOne takes the first record of an input, into the request or into the line of its key.
func (d *Dispatcher) takeOne(r *Request, in *Input) bool {
	b, i := in.Batch, in.From
	key := d.key(b, i)
	if l := d.lines[key]; l != nil && key != 0 {
		d.insert(l, b, i, in.order)
		in.skip(1)
		return true
	}
	size := b.Bytes(i, i+1)
	if !d.room(r, size) {
		return false
	}
	if d.cfg.Ordering == KeyStrict && key != 0 {
		l := d.newLine(key)
		it := d.insert(l, b, i, in.order)
		it.state = sent
		d.add(r, Input{Item: it}, size)
	} else if n := len(r.Inputs); n > 0 && r.Inputs[n-1].Batch == b && r.Inputs[n-1].To == i {
		r.Inputs[n-1].To++
		r.Records++
		r.Bytes += size
		d.records++
		d.bytes += size
	} else {
		d.add(r, Input{Batch: b, From: i, To: i + 1, order: in.order}, size)
	}
	in.skip(1)
	return true
}

func (in *Input) skip(n int) {
	in.From += n
	in.order += uint64(n)
}

// key returns what a record keeps its order with; 0 when with nothing.
func (d *Dispatcher) key(b *flow.Batch, i int) uint64 {
	switch d.cfg.Ordering {
	case None:
		return 0
	case Lane:
		name := laneName{b.Lane.Source, b.Lane.Stage, b.Lane.Partition}
		key, ok := d.lanes[name]
		if !ok {
			key = uint64(len(d.lanes) + 1)
			d.lanes[name] = key
		}
		return key
	default:
		return b.Key(i)
	}
}

func (d *Dispatcher) newLine(key uint64) *line {
	l := &line{key: key, at: -1}
	d.nlines++
	if key != 0 {
		d.lines[key] = l
	}
	return l
}

// insert puts a record into a line, behind those that came before it: a record that was at the service may join a line after later ones
// from the queue did.
func (d *Dispatcher) insert(l *line, b *flow.Batch, i int, order uint64) *Item {
	it := &Item{Batch: b, Index: i, Record: append([]byte(nil), b.Records.Record(i)...), line: l, order: order}
	b.Done(1)
	at := len(l.items)
	for at > 0 && l.items[at-1].order > order {
		at--
	}
	l.items = slices.Insert(l.items, at, it)
	return it
}

// Adapt takes in what the service says of itself, before anything is sent on a new stream: whether it keeps the order of keys, and the most
// records it takes at once, 0 for any.
func (d *Dispatcher) Adapt(ordered bool, maxBatch int) {
	d.cfg.Ordered = ordered
	d.cfg.MaxRecords = d.configured
	if maxBatch > 0 {
		d.cfg.MaxRecords = min(d.configured, maxBatch)
	}
}
