// Package flow holds records on their way through a sidecar and tells whoever handed them over how each one ended.
//
// A [Batch] is a run of encoded records of one lane and, at once, a node of the settlement tree: every record of a batch waits for its
// branches, and when the last branch has ended, the batch tells the node that the record came from. Nothing is stored on the way: the
// roots of the trees, a lane that reads a source or a link from another sidecar, acknowledge upstream what has settled.
package flow

import (
	"slices"
	"sync/atomic"

	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
)

// Outcome is how a record ended. When the branches of a record end differently the greatest one wins.
type Outcome uint8

// The outcomes, in the order of their weight.
const (
	Open         Outcome = iota // it has not ended
	Filtered                    // a transform dropped it
	Acknowledged                // every required sink has it
	Unrouted                    // no edge took it
	Shed                        // a best-effort edge had no room for it
	Dead                        // it is in the dead letters
	Outcomes                    // how many there are
)

// Proto returns the outcome as links write it.
func (o Outcome) Proto() linkv1.Outcome { return linkv1.Outcome(o) }

// FromProto reads an outcome of a link; ok is false for one that no record can end with.
func FromProto(o linkv1.Outcome) (outcome Outcome, ok bool) {
	if o <= linkv1.Outcome_OUTCOME_UNSPECIFIED || o >= linkv1.Outcome(Outcomes) {
		return Open, false
	}
	return Outcome(o), true
}

// Lane identifies the lane that records belong to: a partition of a source as one generation of a pipeline reads it.
type Lane struct {
	Pipeline   string // namespace/name
	Generation uint64
	Source     string // namespace/name of the source's manifest
	Stage      string // the stage that reads it
	Partition  string
	Epoch      Epoch // of the reader
	// Replay is set on the lane that a dead letter makes when it is replayed.
	Replay *Replay
}

// Replay is what is known of a dead letter's way through the pipeline after it was put back.
type Replay struct {
	// Count is how often the record was replayed, this time included.
	Count uint32
	// Letter is the id of the letter that it became again, or 0.
	Letter atomic.Uint64
}

// Epoch orders the owners of an assignment: by incarnation, then by index.
type Epoch struct{ Incarnation, Index uint64 }

// Less reports whether e is older than o.
func (e Epoch) Less(o Epoch) bool {
	if e.Incarnation != o.Incarnation {
		return e.Incarnation < o.Incarnation
	}
	return e.Index < o.Index
}

// Root is where a settlement tree ends: something outside of the sidecar waits to hear of the records.
//
// Settle tells that n records from number first on, in the root's own numbering, ended with o. It is called from many goroutines, once
// for each record, and must not block.
type Root interface {
	Settle(first uint64, n int, o Outcome)
}

// Credit takes back what records of a batch occupied, as they settle. With the last of them left is 0. It is called once for each
// record, without order, and must not block.
type Credit interface {
	Release(b *Batch, records int, bytes int64, left int)
}

// origin says where a run of a batch's records came from: n records from index at on, which are either the consecutive records idx,
// idx+1, ... of the parent, or, when same is set, all children of record idx. A root instead of a parent ends the tree.
type origin struct {
	at, n  int
	parent *Batch
	idx    int
	same   bool
	root   Root
	first  uint64
}

// find returns the index of the origin that holds record i.
func find(origins []origin, i int) int {
	if len(origins) == 1 {
		return 0
	}
	k, ok := slices.BinarySearchFunc(origins, i, func(o origin, i int) int { return o.at - i })
	if !ok {
		k--
	}
	return k
}
