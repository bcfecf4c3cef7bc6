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
