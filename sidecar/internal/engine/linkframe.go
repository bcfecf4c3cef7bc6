package engine

import (
	linkv1 "github.com/conveyor-etl/conveyor/protos/conveyor/link/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// maxFrame bounds the records of one frame, one record excepted.
const maxFrame = 1 << 20

// frame returns the next message, or nil when there is nothing to send or no credit.
func (l *linkOut) frame(lanes map[*flow.Lane]uint32) *wire.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if e.last() <= l.sent {
			continue
		}
		from := 0
		if e.first <= l.sent {
			from = int(l.sent + 1 - e.first)
		}
		return l.cut(e, from, lanes)
	}
	if l.ended && !l.endSent {
		l.endSent = true
		return &wire.Message{Head: &linkv1.LinkRequest{Request: &linkv1.LinkRequest_End{End: &linkv1.LinkEnd{Completed: l.completed}}}}
	}
	return nil
}

// cut makes a frame of as many records of an entry, from index from on, as credit and the size of a frame allow. Called with the lock.
func (l *linkOut) cut(e *sending, from int, lanes map[*flow.Lane]uint32) *wire.Message {
	b := e.batch
	to, size := from, int64(0)
	for to < b.Len() {
		n := b.Bytes(to, to+1)
		if l.sent+uint64(to-from)+1 > l.limit.Records || l.sentBytes+uint64(size+n) > l.limit.Bytes || to > from && size+n > maxFrame {
			break
		}
		size += n
		to++
	}
	if to == from {
		if !l.rest() {
			return nil
		}
		to, size = from+1, b.Bytes(from, from+1) // one record may overdraw when nothing else is out
	}
	head := &linkv1.LinkRequest{}
	lane, known := lanes[b.Lane]
	if !known {
		if len(lanes) == maxLanes/2 {
			clear(lanes) // the indexes begin anew: whoever introduced them last has them
		}
		lane = uint32(len(lanes))
		lanes[b.Lane] = lane
		intro := &linkv1.Lane{
			Index: lane, Source: b.Lane.Source, SourceStage: b.Lane.Stage, Partition: b.Lane.Partition, Generation: b.Lane.Generation,
			Epoch: epochProto(b.Lane.Epoch),
		}
		if b.Lane.Replay != nil {
			intro.Replays = b.Lane.Replay.Count
		}
		head.Lanes = []*linkv1.Lane{intro}
	}
	head.Header = &linkv1.FrameHeader{
		First: e.first + uint64(from), Records: uint32(to - from), Bytes: uint64(size), Lane: lane, Origins: origins(b.Seqs[from:to]),
	}
	if b.Keys != nil {
		head.Header.KeyHashes = b.Keys[from:to]
	}
	l.sent += uint64(to - from)
	l.sentBytes += uint64(size)
	return &wire.Message{Head: head, Batch: e.records.Slice(from, to)}
}

// rest reports whether everything sent has settled. Called with the lock.
func (l *linkOut) rest() bool {
	return len(l.entries) == 0 || l.entries[0].first > l.sent || l.entries[0].last() > l.sent && l.entries[0].left == l.entries[0].batch.Len()-int(l.sent+1-l.entries[0].first)
}

// origins writes sequences as runs.
func origins(seqs []uint64) []*linkv1.OriginRun {
	n := 0
	eachRun(seqs, func(uint64, int, bool) { n++ })
	// One piece of memory for all of them: filters leave a run for every few records.
	memory, runs := make([]linkv1.OriginRun, n), make([]*linkv1.OriginRun, 0, n)
	eachRun(seqs, func(first uint64, count int, same bool) {
		run := &memory[len(runs)]
		run.First, run.Count, run.Same = first, uint32(count), same
		runs = append(runs, run)
	})
	return runs
}

// eachRun calls f for each run of sequences that follow each other, or are the same.
func eachRun(seqs []uint64, f func(first uint64, count int, same bool)) {
	for at := 0; at < len(seqs); {
		first, n := seqs[at], 1
		same := at+1 < len(seqs) && seqs[at+1] == first
		for at+n < len(seqs) && (same && seqs[at+n] == first || !same && seqs[at+n] == first+uint64(n)) {
			n++
		}
		f(first, n, same)
		at += n
	}
}
