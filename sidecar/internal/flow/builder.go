package flow

import "github.com/conveyor-etl/conveyor/protos/wire"

// Builder makes a batch of records that come from other batches or from a root. It is not safe for concurrent use.
type Builder struct {
	b    *Batch
	keys bool
}

// NewBuilder begins a batch of records of a lane, with room for n.
func NewBuilder(lane *Lane, n int) *Builder {
	return &Builder{b: &Batch{Lane: lane, Seqs: make([]uint64, 0, n), sizes: make([]uint32, 0, n)}}
}

// FromRoot makes the batch of n records that a root numbers from first on, with their sequences and key hashes (keys may be nil). It
// takes over the caller's reference of the records.
func FromRoot(lane *Lane, records *wire.Batch, root Root, first uint64, seqs, keys []uint64) *Batch {
	n := records.Len()
	b := &Batch{
		Lane: lane, Records: records, Seqs: seqs, Keys: keys,
		origins: []origin{{n: n, root: root, first: first}},
		sizes:   make([]uint32, n), left: n,
	}
	for i := range n {
		b.sizes[i] = uint32(records.Size(i))
	}
	return b
}

// Same adds to the batch the records from..to-1 of parent, one for one. The parent's branch for each of them ends when it settles here.
func (w *Builder) Same(parent *Batch, from, to int) {
	b := w.b
	at := len(b.Seqs)
	b.Seqs = append(b.Seqs, parent.Seqs[from:to]...)
	w.addKeys(parent, from, to)
	if n := len(b.origins); n > 0 {
		if last := &b.origins[n-1]; last.parent == parent && !last.same && last.idx+last.n == from {
			last.n += to - from
			return
		}
	}
	b.origins = append(b.origins, origin{at: at, n: to - from, parent: parent, idx: from})
}

// Children adds n children of record i of parent. The parent's branch is split into n.
func (w *Builder) Children(parent *Batch, i, n int) {
	if n == 1 {
		w.Same(parent, i, i+1)
		return
	}
	parent.Branch(i, n-1)
	b := w.b
	at := len(b.Seqs)
	for range n {
		b.Seqs = append(b.Seqs, parent.Seqs[i])
		w.addKeys(parent, i, i+1)
	}
	b.origins = append(b.origins, origin{at: at, n: n, parent: parent, idx: i, same: true})
}

func (w *Builder) addKeys(parent *Batch, from, to int) {
	b := w.b
	if parent.Keys == nil && !w.keys {
		return
	}
	if !w.keys {
		w.keys = true
		b.Keys = make([]uint64, len(b.Seqs)-(to-from), cap(b.Seqs))
	}
	if parent.Keys == nil {
		b.Keys = append(b.Keys, make([]uint64, to-from)...)
		return
	}
	b.Keys = append(b.Keys, parent.Keys[from:to]...)
}

// Len returns the number of records so far.
func (w *Builder) Len() int { return len(w.b.Seqs) }

// Finish returns the batch with its encoded records, whose reference it takes over.
func (w *Builder) Finish(records *wire.Batch) *Batch {
	b := w.b
	w.b = nil
	if records.Len() != len(b.Seqs) {
		panic("flow: batch has not as many records as origins")
	}
	b.Records = records
	b.left = len(b.Seqs)
	for i := range b.left {
		b.sizes = append(b.sizes, uint32(records.Size(i)))
	}
	return b
}

// Part returns a batch of the records from..to-1 of b, which it replaces together with other parts: b's origins hear of the parts' records.
// b itself must not be used any more. The encoded records are shared or copied.
func (b *Batch) Part(from, to int) *Batch {
	var w wire.Builder
	w.AppendRun(b.Records, from, to)
	return b.pick(w.Finish(), [][2]int{{from, to}})
}

// Reclaim takes the batch back from whoever works on it, as Abandon does, and returns a batch of the records that had not settled, to be
// handed to somebody else; nil when all had. The caller lends encoded records, since the batch may have dropped its own: those of all
// records, or, in order, those whose indexes it names.
func (b *Batch) Reclaim(records *wire.Batch, indexes []int) *Batch {
	open := b.Abandon()
	if len(open) == 0 {
		return nil
	}
	var w wire.Builder
	var runs [][2]int
	at := 0
	for _, i := range open {
		if indexes == nil {
			at = i
		}
		for indexes != nil && indexes[at] != i {
			at++
		}
		w.AppendEncoded(records.Record(at))
		if n := len(runs); n > 0 && runs[n-1][1] == i {
			runs[n-1][1]++
		} else {
			runs = append(runs, [2]int{i, i + 1})
		}
	}
	return b.pick(w.Finish(), runs)
}

// pick returns a batch of runs of b's records that has b's own origins and credit.
func (b *Batch) pick(records *wire.Batch, runs [][2]int) *Batch {
	p := &Batch{Lane: b.Lane, Records: records, From: b.From, credit: b.credit, detached: b.detached}
	for _, run := range runs {
		from, to := run[0], run[1]
		p.Seqs = append(p.Seqs, b.Seqs[from:to]...)
		p.sizes = append(p.sizes, b.sizes[from:to]...)
		if b.Keys != nil {
			p.Keys = append(p.Keys, b.Keys[from:to]...)
		}
		for k := find(b.origins, from); from < to; k++ {
			o := b.origins[k]
			offset := from - o.at
			n := min(to-from, o.n-offset)
			o.at, o.n = len(p.Seqs)-(to-from), n
			if !o.same {
				o.idx += offset
				o.first += uint64(offset)
			}
			p.origins = append(p.origins, o)
			from += n
		}
	}
	p.left = len(p.Seqs)
	return p
}
