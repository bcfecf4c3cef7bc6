package flow

import (
	"sync"

	"github.com/conveyor-etl/conveyor/protos/wire"
)

// Batch is records of one lane with what must happen when they settle. Its makers fill it with a [Builder]; then it is put on an edge,
// and whoever takes it from there calls Settle for every record, once for each branch that it has.
type Batch struct {
	Lane *Lane
	// Records are the encoded records. The batch holds a reference until Drop; who needs the bytes longer takes its own.
	Records *wire.Batch
	// Seqs are the records' sequences in the lane; children share their parent's. Keys are hashes of the keys that the records had at
	// their source, or nil when none had one. Both are read-only.
	Seqs []uint64
	Keys []uint64
	// From is the stage on the other end of the edge by which the batch came in, or empty.
	From string

	origins []origin
	sizes   []uint32
	done    int

	mu        sync.Mutex
	branches  []int32   // per record; nil while every unsettled record has one
	worst     []Outcome // per record; nil while no record with several branches has ended on one
	settled   []bool    // per record; nil while none or all are
	left      int       // records not settled
	credit    Credit
	abandoned bool
	detached  bool
}

// Len returns the number of records.
func (b *Batch) Len() int { return len(b.Seqs) }

// Key returns the hash of the key of record i, 0 without one.
func (b *Batch) Key(i int) uint64 {
	if b.Keys == nil {
		return 0
	}
	return b.Keys[i]
}

// Bytes returns the encoded size of the records from..to-1.
func (b *Batch) Bytes(from, to int) int64 {
	n := int64(0)
	for _, s := range b.sizes[from:to] {
		n += int64(s)
	}
	return n
}

// Charge says where to give back what the records occupy, as each one settles. It is called before the batch is handed on.
func (b *Batch) Charge(c Credit) { b.credit = c }

// Drop gives up the batch's own reference of the encoded records. The settlement goes on without them.
func (b *Batch) Drop() {
	b.mu.Lock()
	r := b.Records
	b.Records = nil
	b.mu.Unlock()
	if r != nil {
		r.Free()
	}
}

// Done counts records whose bytes the stage that works on the batch needs no more; with the last one the batch drops them. Only that stage
// calls it.
func (b *Batch) Done(n int) {
	b.done += n
	if b.done == b.Len() {
		b.Drop()
	}
}

// Branch adds n branches to record i, which must not have settled. Each branch is settled by itself.
func (b *Batch) Branch(i, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.openBranches()
	b.branches[i] += int32(n)
}

func (b *Batch) openBranches() {
	if b.branches != nil {
		return
	}
	b.branches = make([]int32, b.Len())
	for i := range b.branches {
		if b.settled == nil || !b.settled[i] {
			b.branches[i] = 1
		}
	}
}

// Settle ends one branch of each of the records from..to-1 with outcome o. A record with no branch left is settled: what it occupied is
// given back, and where it came from is told the worst outcome of its branches.
func (b *Batch) Settle(from, to int, o Outcome) {
	if from >= to {
		return
	}
	b.mu.Lock()
	if b.abandoned {
		b.mu.Unlock()
		return
	}
	if b.branches == nil && b.settled == nil && from == 0 && to == b.Len() {
		// The usual case: everything at once, on the only branch.
		b.left = 0
		b.settled = allSettled
		credit, tell := b.credit, !b.detached
		b.mu.Unlock()
		b.end(from, to, o, tell)
		if credit != nil {
			credit.Release(b, to-from, b.Bytes(from, to), 0)
		}
		return
	}
	b.settleSome(from, to, o)
}

// allSettled marks a batch whose records settled all at once. It is never indexed.
var allSettled = make([]bool, 0)

// run is consecutive records that settled with one outcome.
type run struct {
	from, to int
	o        Outcome
}

// settleSome is called with the lock and gives it back.
func (b *Batch) settleSome(from, to int, o Outcome) {
	if b.left == 0 {
		b.mu.Unlock()
		panic("flow: batch settled twice")
	}
	if b.settled == nil {
		b.settled = make([]bool, b.Len())
	}
	var ended []run
	for i := from; i < to; i++ {
		if b.settled[i] {
			b.mu.Unlock()
			panic("flow: record settled twice")
		}
		outcome := o
		if b.branches != nil {
			// I1: told once, the worst wins.
			if b.branches[i] > 1 || b.worst != nil {
				if b.worst == nil {
					b.worst = make([]Outcome, b.Len())
				}
				b.worst[i] = max(b.worst[i], o)
				outcome = b.worst[i]
			}
			b.branches[i]--
			if b.branches[i] > 0 {
				continue
			}
		}
		b.settled[i] = true
		b.left--
		if n := len(ended); n > 0 && ended[n-1].to == i && ended[n-1].o == outcome {
			ended[n-1].to = i + 1
		} else {
			ended = append(ended, run{i, i + 1, outcome})
		}
	}
	credit, left, tell := b.credit, b.left, !b.detached
	b.mu.Unlock()
	for k, r := range ended {
		b.end(r.from, r.to, r.o, tell)
		if credit == nil {
			continue
		}
		remaining := left
		if k < len(ended)-1 {
			remaining = max(left, 1)
		}
		credit.Release(b, r.to-r.from, b.Bytes(r.from, r.to), remaining)
	}
}

// end tells the records' origins that they have settled. I10: they know before credit returns.
func (b *Batch) end(from, to int, o Outcome, tell bool) {
	if !tell {
		return
	}
	for k := find(b.origins, from); from < to; k++ {
		origin := &b.origins[k]
		n := min(to, origin.at+origin.n) - from
		offset := from - origin.at
		switch {
		case origin.root != nil:
			origin.root.Settle(origin.first+uint64(offset), n, o)
		case origin.same:
			for range n {
				origin.parent.Settle(origin.idx, origin.idx+1, o)
			}
		default:
			origin.parent.Settle(origin.idx+offset, origin.idx+offset+n, o)
		}
		from += n
	}
}

// Detach ends the branches of all records that have not settled with outcome o, as far as their origins are concerned. The records stay
// where they are, and so does their credit, until Settle is called for them; how they end then makes no difference any more. It returns
// how many there were.
func (b *Batch) Detach(o Outcome) int {
	b.mu.Lock()
	if b.abandoned || b.detached {
		b.mu.Unlock()
		return 0
	}
	b.detached = true
	open := b.unsettled()
	b.mu.Unlock()
	for at := 0; at < len(open); {
		n := 1
		for at+n < len(open) && open[at+n] == open[at]+n {
			n++
		}
		b.end(open[at], open[at]+n, o, true)
		at += n
	}
	return len(open)
}

// Settled reports whether record i has settled.
func (b *Batch) Settled(i int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left == 0 || b.settled != nil && b.settled[i]
}

// Left returns the number of records that have not settled.
func (b *Batch) Left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left
}

// Abandon takes the batch back from whoever works on it: from now on nothing that they settle counts. It returns the indexes of the
// records that had not settled; the caller answers for them, and for their credit.
func (b *Batch) Abandon() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.abandoned {
		return nil
	}
	b.abandoned = true
	return b.unsettled()
}

// Unsettled returns the indexes of the records that have not settled.
func (b *Batch) Unsettled() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.unsettled()
}

func (b *Batch) unsettled() []int {
	if b.left == 0 {
		return nil
	}
	open := make([]int, 0, b.left)
	for i := range b.Len() {
		if b.settled == nil || !b.settled[i] {
			open = append(open, i)
		}
	}
	return open
}
