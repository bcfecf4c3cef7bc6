// Package lane knows, of one partition of a source, which records have settled, and up to where that may be committed.
package lane

import (
	"sync"

	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// Point is a place in a lane at which a commit may stop: everything up to and including the record of this sequence.
type Point struct {
	Sequence uint64
	Position []byte
}

// Counts are a lane's records by outcome since it was opened. read = the sum of the outcomes + in flight.
type Counts struct {
	Read     uint64
	Outcomes [flow.Outcomes]uint64
}

// InFlight returns how many records were read and have not settled.
func (c Counts) InFlight() uint64 {
	n := c.Read
	for _, o := range c.Outcomes {
		n -= o
	}
	return n
}

// Tracker numbers the records of a lane as they are read and moves its watermark as they settle. It is the root of the lane's settlement
// trees. All methods may be called at once; none blocks.
type Tracker struct {
	moved func()

	mu       sync.Mutex
	next     uint64 // sequence of the next record
	settled  uint64 // everything up to here has settled
	chunks   []chunk
	point    Point // the newest commit point at or below settled
	reported uint64
	counts   Counts
}

// chunk is the records of one batch that was read.
type chunk struct {
	first uint64
	done  []bool // per record; nil while none has settled
	left  int
	n     int
	// positions of the records, one behind the other; ends[i] is where that of record i ends.
	positions []byte
	ends      []uint32
}

func (c *chunk) position(i int) []byte {
	from := uint32(0)
	if i > 0 {
		from = c.ends[i-1]
	}
	return c.positions[from:c.ends[i]]
}

// bootSequences is how many sequences one process has for a lane: fifty days at a million records a second.
const bootSequences = 1 << 42

// Base returns the sequence behind which a process counts in an epoch that an earlier process has counted in: above all that one with a lower
// boot can have used, so that the router never takes a checkpoint for an older one, nor an older one for it.
func Base(boot uint64) uint64 { return boot * bootSequences }

// NewTracker returns the tracker of a lane. Sequences count on behind base, which is 0 for the first process of an epoch and Base for the
// others, and grow over all openings. moved is called whenever the watermark has moved, by whoever settled the records, and must not block.
func NewTracker(base uint64, moved func()) *Tracker {
	return &Tracker{next: base + 1, settled: base, reported: base, moved: moved}
}

// Read takes in the next records: their positions one behind the other (empty for records at which no commit may stop), and where each
// one ends. It keeps both slices. It returns the sequence of the first.
func (t *Tracker) Read(positions []byte, ends []uint32) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := t.next
	n := len(ends)
	t.next += uint64(n)
	t.counts.Read += uint64(n)
	t.chunks = append(t.chunks, chunk{first: first, left: n, n: n, positions: positions, ends: ends})
	return first
}

// Settle takes in that n records from sequence first on have ended.
func (t *Tracker) Settle(first uint64, n int, o flow.Outcome) {
	t.mu.Lock()
	t.counts.Outcomes[o] += uint64(n)
	for k := t.find(first); n > 0; k++ {
		c := &t.chunks[k]
		i := int(first - c.first)
		m := min(n, c.n-i)
		c.settle(i, m)
		first += uint64(m)
		n -= m
	}
	moved := t.advance()
	t.mu.Unlock()
	if moved {
		t.moved()
	}
}

func (c *chunk) settle(i, m int) {
	c.left -= m
	if m == c.n {
		return
	}
	if c.done == nil {
		c.done = make([]bool, c.n)
	}
	for j := i; j < i+m; j++ {
		if c.done[j] {
			panic("lane: record settled twice")
		}
		c.done[j] = true
	}
}

// find returns the index of the chunk that holds a sequence.
func (t *Tracker) find(seq uint64) int {
	lo, hi := 0, len(t.chunks)
	if hi == 0 || seq < t.chunks[0].first || seq >= t.next {
		panic("lane: settled a record that is not in flight")
	}
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		if t.chunks[mid].first <= seq {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// advance moves the watermark over what has settled without a hole. I4: no checkpoint beyond holes.
func (t *Tracker) advance() bool {
	before := t.settled
	gone := 0
	for gone < len(t.chunks) {
		c := &t.chunks[gone]
		from := int(t.settled + 1 - c.first)
		to := c.n
		if c.left > 0 {
			for to = from; c.done != nil && c.done[to]; {
				to++
			}
		}
		t.settled += uint64(to - from)
		for i := to - 1; i >= from; i-- {
			if p := c.position(i); len(p) > 0 {
				t.point = Point{Sequence: c.first + uint64(i), Position: p}
				break
			}
		}
		if to < c.n {
			break
		}
		gone++
	}
	if gone > 0 {
		t.chunks = append(t.chunks[:0], t.chunks[gone:]...)
	}
	return t.settled > before
}

// Checkpoint returns the newest point at which a commit may stop, once: ok is false when there is none newer than the last one returned.
func (t *Tracker) Checkpoint() (p Point, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.point.Sequence <= t.reported {
		return Point{}, false
	}
	t.reported = t.point.Sequence
	return t.point, true
}

// Restore makes Checkpoint return again what it returned last, since that was not stored.
func (t *Tracker) Restore(p Point) {
	t.mu.Lock()
	t.reported = min(t.reported, p.Sequence-1)
	t.mu.Unlock()
}

// Last returns the newest commit point below the watermark; its sequence is 0 when there is none yet.
func (t *Tracker) Last() Point {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.point
}

// Idle reports whether every record that was read has settled.
func (t *Tracker) Idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.settled+1 == t.next
}

// Span returns how many records were read past the oldest unsettled one, that one included.
func (t *Tracker) Span() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next - 1 - t.settled
}

// Next returns the sequence that the next record will get.
func (t *Tracker) Next() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next
}

// SettledThrough returns the sequence up to which everything has settled.
func (t *Tracker) SettledThrough() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.settled
}

// Counts returns the counts of this moment.
func (t *Tracker) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}
