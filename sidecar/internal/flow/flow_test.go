package flow_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

var lane = &flow.Lane{Pipeline: "default/p", Stage: "in"}

// root notes how each record ended.
type root struct {
	mu    sync.Mutex
	ended map[uint64]flow.Outcome
}

func (r *root) Settle(first uint64, n int, o flow.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range uint64(n) {
		if before, twice := r.ended[first+i]; twice {
			panic(fmt.Sprintf("record %d told twice: %d, %d", first+i, before, o))
		}
		r.ended[first+i] = o
	}
}

// credit notes what a batch occupies, and checks that its origins know before it is given back.
type credit struct {
	mu      sync.Mutex
	records int
	bytes   int64
	last    map[*flow.Batch]bool
}

func (c *credit) charge(b *flow.Batch) {
	c.mu.Lock()
	c.records += b.Len()
	c.bytes += b.Bytes(0, b.Len())
	c.mu.Unlock()
	b.Charge(c)
}

func (c *credit) Release(b *flow.Batch, records int, bytes int64, left int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if records <= 0 {
		panic("nothing released")
	}
	c.records -= records
	c.bytes -= bytes
	if left == 0 {
		c.last[b] = true
	}
}

func records(ids []string) *wire.Batch {
	var w wire.Builder
	for i, id := range ids {
		if err := w.AppendRecord(&conveyorv1.Record{Id: id, Payload: make([]byte, i%40)}); err != nil {
			panic(err)
		}
	}
	return w.Finish()
}

// forest grows settlement trees at the whim of rapid and remembers, beside them, what each root record should end with.
type forest struct {
	t      *rapid.T
	root   *root
	credit *credit
	next   uint64
	work   []*open // batches that somebody works on
	want   map[uint64]flow.Outcome
	nodes  int
}

// open is a batch at a stage, with the records of which branches are open there.
type open struct {
	b    *flow.Batch
	todo []int
}

func (f *forest) add(b *flow.Batch) {
	f.credit.charge(b)
	f.adopt(b)
}

func (f *forest) adopt(b *flow.Batch) {
	f.nodes++
	todo := make([]int, b.Len())
	for i := range todo {
		todo[i] = i
	}
	f.work = append(f.work, &open{b: b, todo: todo})
}

func (f *forest) plant() {
	n := rapid.IntRange(1, 12).Draw(f.t, "planted")
	ids := make([]string, n)
	seqs := make([]uint64, n)
	for i := range seqs {
		seqs[i] = f.next + uint64(i)
		ids[i] = fmt.Sprint(seqs[i])
	}
	f.add(flow.FromRoot(lane, records(ids), f.root, f.next, seqs, nil))
	f.next += uint64(n)
}

// settle ends one branch of each of some records of a batch.
func (f *forest) settle(o *open) {
	n := rapid.IntRange(1, len(o.todo)).Draw(f.t, "settled")
	outcome := flow.Outcome(rapid.IntRange(1, int(flow.Outcomes)-1).Draw(f.t, "outcome"))
	for _, i := range o.todo[:n] {
		f.want[o.b.Seqs[i]] = max(f.want[o.b.Seqs[i]], outcome)
	}
	for at := 0; at < n; {
		to := at + 1
		for to < n && o.todo[to] == o.todo[to-1]+1 && rapid.Bool().Draw(f.t, "together") {
			to++
		}
		o.b.Settle(o.todo[at], o.todo[to-1]+1, outcome)
		at = to
	}
	o.todo = o.todo[n:]
}

// branch offers records to several edges.
func (f *forest) branch(o *open) {
	edges := rapid.IntRange(1, 3).Draw(f.t, "edges")
	all := o.todo
	o.todo = nil
	for _, i := range all {
		if edges > 1 {
			o.b.Branch(i, edges-1)
		}
	}
	for range edges {
		w := flow.NewBuilder(lane, len(all))
		var ids []string
		for _, i := range all {
			w.Same(o.b, i, i+1)
			ids = append(ids, fmt.Sprint(o.b.Seqs[i]))
		}
		f.add(w.Finish(records(ids)))
	}
}

// children makes several records of some.
func (f *forest) children(o *open) {
	w := flow.NewBuilder(lane, len(o.todo))
	var ids []string
	for _, i := range o.todo {
		n := rapid.IntRange(1, 3).Draw(f.t, "children")
		w.Children(o.b, i, n)
		for range n {
			ids = append(ids, fmt.Sprint(o.b.Seqs[i]))
		}
	}
	o.todo = nil
	f.add(w.Finish(records(ids)))
}

// check looks whether the records of a batch are those that its sequences name.
func (f *forest) check(b *flow.Batch) {
	for i := range b.Len() {
		got, err := wire.Scan(b.Records.Record(i))
		if err != nil || string(got.ID) != fmt.Sprint(b.Seqs[i]) {
			f.t.Fatalf("record %d of a batch is %s (%v), its sequence %d", i, got.ID, err, b.Seqs[i])
		}
	}
}

// reclaim gives what has not settled to somebody else, as an edge does whose target is gone. Nobody has split these records further.
func (f *forest) reclaim(o *open) *open {
	kept := o.b.Records
	kept.Ref()
	var indexes []int
	lent := kept
	if rapid.Bool().Draw(f.t, "thinned") {
		indexes = o.b.Unsettled()
		var w wire.Builder
		for _, i := range indexes {
			w.AppendEncoded(kept.Record(i))
		}
		lent = w.Finish()
	}
	b := o.b.Reclaim(lent, indexes)
	o.b.Settle(o.todo[0], o.todo[0]+1, flow.Dead) // from one who does not know yet; it must count for nothing
	f.check(b)
	return &open{b: b}
}

func (f *forest) step() {
	if len(f.work) == 0 || len(f.work) < 8 && rapid.IntRange(0, 3).Draw(f.t, "plant") == 0 && f.next < 200 {
		f.plant()
		return
	}
	k := rapid.IntRange(0, len(f.work)-1).Draw(f.t, "batch")
	o := f.work[k]
	f.work = slices.Delete(f.work, k, k+1)
	whole := len(o.todo) == o.b.Len()
	action := rapid.IntRange(0, 5).Draw(f.t, "action")
	if f.nodes > 120 {
		action = 0
	}
	switch {
	case action == 1 && whole:
		f.branch(o)
	case action == 2 && whole:
		f.children(o)
	case action == 3 && whole && o.b.Len() > 1:
		// Part comes before credit is taken: it is given back by the parts alone.
		at := rapid.IntRange(1, o.b.Len()-1).Draw(f.t, "cut")
		for _, part := range []*flow.Batch{o.b.Part(0, at), o.b.Part(at, o.b.Len())} {
			f.check(part)
			f.adopt(part)
		}
		return
	case action == 4:
		again := f.reclaim(o)
		if again.b.Len() != len(o.todo) {
			f.t.Fatalf("%d records reclaimed, %d were open", again.b.Len(), len(o.todo))
		}
		f.adopt(again.b)
		return
	default:
		f.settle(o)
	}
	if len(o.todo) > 0 {
		f.work = append(f.work, o)
	}
}

func TestEveryRecordIsToldOnceWithItsWorstOutcomeAndItsCreditReturns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &forest{t: t, root: &root{ended: map[uint64]flow.Outcome{}}, credit: &credit{last: map[*flow.Batch]bool{}}, next: 1, want: map[uint64]flow.Outcome{}}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			f.step()
		}
		for len(f.work) > 0 {
			o := f.work[0]
			f.work = f.work[1:]
			f.settle(o)
			if len(o.todo) > 0 {
				f.work = append(f.work, o)
			}
		}
		if len(f.root.ended) != int(f.next-1) {
			t.Fatalf("%d of %d records were told", len(f.root.ended), f.next-1)
		}
		for seq, o := range f.root.ended {
			if o != f.want[seq] {
				t.Fatalf("record %d ended as %d, the worst of its branches was %d", seq, o, f.want[seq])
			}
		}
		if f.credit.records != 0 || f.credit.bytes != 0 {
			t.Fatalf("%d records and %d bytes of credit were not given back", f.credit.records, f.credit.bytes)
		}
	})
}

// knowing is a credit that looks at what the root knows when it is given back.
type knowing struct {
	root *root
	t    *testing.T
}

func (k knowing) Release(_ *flow.Batch, records int, _ int64, _ int) {
	k.root.mu.Lock()
	defer k.root.mu.Unlock()
	if len(k.root.ended) < records {
		k.t.Errorf("credit for %d records came back when the root knew of %d", records, len(k.root.ended))
	}
}

func TestTheOriginsKnowBeforeTheCreditIsBack(t *testing.T) {
	r := &root{ended: map[uint64]flow.Outcome{}}
	b := flow.FromRoot(lane, records([]string{"1", "2", "3"}), r, 1, []uint64{1, 2, 3}, nil)
	b.Charge(knowing{r, t})
	b.Settle(1, 2, flow.Dead)
	b.Settle(0, 1, flow.Filtered)
	b.Settle(2, 3, flow.Acknowledged)
}

func TestDetachedRecordsHoldTheirCreditButNotTheirOrigin(t *testing.T) {
	r := &root{ended: map[uint64]flow.Outcome{}}
	c := &credit{last: map[*flow.Batch]bool{}}
	b := flow.FromRoot(lane, records([]string{"1", "2", "3"}), r, 1, []uint64{1, 2, 3}, nil)
	c.charge(b)
	b.Settle(1, 2, flow.Acknowledged)
	if n := b.Detach(flow.Shed); n != 2 {
		t.Errorf("%d detached, want 2", n)
	}
	if r.ended[1] != flow.Shed || r.ended[2] != flow.Acknowledged || r.ended[3] != flow.Shed {
		t.Errorf("ended as %v", r.ended)
	}
	if c.records != 2 {
		t.Errorf("credit for %d records is out, want 2", c.records)
	}
	b.Detach(flow.Dead)
	b.Settle(0, 1, flow.Acknowledged)
	again := b.Reclaim(records([]string{"1", "2", "3"}), nil)
	again.Settle(0, 1, flow.Dead)
	if c.records != 0 {
		t.Errorf("credit for %d records is out at the end", c.records)
	}
}

func TestBranchesThatEndAtOnceFromSeveralGoroutinesAreCounted(t *testing.T) {
	const n, branches = 64, 8
	r := &root{ended: map[uint64]flow.Outcome{}}
	c := &credit{last: map[*flow.Batch]bool{}}
	ids, seqs := make([]string, n), make([]uint64, n)
	for i := range n {
		seqs[i] = uint64(i + 1)
	}
	b := flow.FromRoot(lane, records(ids), r, 1, seqs, nil)
	c.charge(b)
	for i := range n {
		b.Branch(i, branches-1)
	}
	var wg sync.WaitGroup
	for k := range branches {
		wg.Go(func() {
			for i := range n {
				o := flow.Acknowledged
				if i%branches == k {
					o = flow.Dead
				}
				b.Settle((i+k)%n, (i+k)%n+1, o)
			}
		})
	}
	wg.Wait()
	if len(r.ended) != n || c.records != 0 || b.Left() != 0 {
		t.Errorf("%d of %d ended, credit %d, left %d", len(r.ended), n, c.records, b.Left())
	}
}

func TestABatchIsLetGoWithTheLastRecordThatIsNeeded(t *testing.T) {
	r := &root{ended: map[uint64]flow.Outcome{}}
	b := flow.FromRoot(lane, records([]string{"1", "2", "3"}), r, 1, []uint64{1, 2, 3}, nil)
	b.Done(2)
	if b.Records == nil {
		t.Fatal("let go too early")
	}
	b.Done(1)
	if b.Records != nil {
		t.Fatal("not let go")
	}
	b.Settle(0, 3, flow.Acknowledged)
	if len(r.ended) != 3 {
		t.Error("settlement needs the records")
	}
}

func TestSettlingTwiceIsAFaultAndPanics(t *testing.T) {
	for name, settle := range map[string]func(*flow.Batch){
		"whole":   func(b *flow.Batch) { b.Settle(0, 2, flow.Dead); b.Settle(0, 2, flow.Dead) },
		"a part":  func(b *flow.Batch) { b.Settle(0, 1, flow.Dead); b.Settle(0, 2, flow.Dead) },
		"the end": func(b *flow.Batch) { b.Settle(0, 2, flow.Dead); b.Settle(1, 2, flow.Dead) },
	} {
		t.Run(name, func(t *testing.T) {
			b := flow.FromRoot(lane, records([]string{"1", "2"}), &root{ended: map[uint64]flow.Outcome{}}, 1, []uint64{1, 2}, nil)
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			settle(b)
		})
	}
}
