package dispatch_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/dispatch"
	"github.com/conveyor-etl/conveyor/sidecar/internal/flow"
)

// root notes how each record of a lane ended.
type root struct{ ended map[uint64]flow.Outcome }

func (r *root) Settle(first uint64, n int, o flow.Outcome) {
	for i := range uint64(n) {
		if _, twice := r.ended[first+i]; twice {
			panic(fmt.Sprintf("record %d settled twice", first+i))
		}
		r.ended[first+i] = o
	}
}

var lane = &flow.Lane{Pipeline: "default/p", Stage: "in"}

// batch makes records first, first+1, ... with the given keys (0 for none).
func batch(r *root, first uint64, keys []uint64) *flow.Batch {
	var w wire.Builder
	seqs := make([]uint64, len(keys))
	for i := range keys {
		seqs[i] = first + uint64(i)
		if err := w.AppendRecord(&conveyorv1.Record{Id: fmt.Sprint(seqs[i]), Payload: make([]byte, int(seqs[i])%50)}); err != nil {
			panic(err)
		}
	}
	return flow.FromRoot(lane, w.Finish(), r, first, seqs, keys)
}

// world plays a service, a dead-letter store and a clock around a dispatcher, all at the whim of a random source.
type world struct {
	t       *rapid.T
	d       *dispatch.Dispatcher
	cfg     dispatch.Config
	root    *root
	now     time.Time
	open    []*dispatch.Request
	last    uint64 // sequence of the last request sent
	burying []*dispatch.Item
	keys    map[uint64]uint64 // by sequence
	out     []uint64          // sequences in the order in which they left, without dead ones
	dead    map[uint64]bool
	failing map[uint64]uint64 // the record for which an ordered service refuses a key
	// released keys, by the request before which the service reads of it: it reads its stream in order.
	released map[uint64]uint64
}

func (w *world) records(r *dispatch.Request) []uint64 {
	var seqs []uint64
	for _, in := range r.Inputs {
		if in.Item != nil {
			seqs = append(seqs, in.Item.Batch.Seqs[in.Item.Index])
			continue
		}
		seqs = append(seqs, in.Batch.Seqs[in.From:in.To]...)
	}
	return seqs
}

func (w *world) do(steps []dispatch.Step) {
	for _, s := range steps {
		switch s.Kind {
		case dispatch.Finish:
			at := 0
			for _, in := range s.Request.Inputs {
				for k := range in.Len() {
					if at >= s.From && at < s.To {
						b, i := in.Batch, in.From+k
						if in.Item != nil {
							b, i = in.Item.Batch, in.Item.Index
						}
						w.out = append(w.out, b.Seqs[i])
						b.Settle(i, i+1, flow.Acknowledged)
					}
					at++
				}
			}
		case dispatch.Bury:
			w.burying = append(w.burying, s.Item)
		case dispatch.Release:
			w.released[w.keys[s.Item.Batch.Seqs[s.Item.Index]]] = w.last + 1
		}
	}
}

func (w *world) bury(i int) {
	it := w.burying[i]
	w.burying = append(w.burying[:i], w.burying[i+1:]...)
	w.dead[it.Batch.Seqs[it.Index]] = true
	it.Batch.Settle(it.Index, it.Index+1, flow.Dead)
	w.do(w.d.Buried(it))
}

func (w *world) send() {
	r := w.d.Next(w.now)
	if r == nil {
		return
	}
	if r.Records > w.cfg.MaxRecords {
		w.t.Fatalf("request of %d records, at most %d", r.Records, w.cfg.MaxRecords)
	}
	w.open = append(w.open, r)
	w.last = r.Sequence
	n := 0
	byKey := map[uint64]int{}
	for _, o := range w.open {
		n += o.Records
		for _, seq := range w.records(o) {
			if k := w.keys[seq]; k != 0 {
				byKey[k]++
				if w.cfg.Ordering == dispatch.KeyStrict && byKey[k] > 1 {
					w.t.Fatalf("two records of key %d at the service", k)
				}
			}
		}
	}
	if n > w.cfg.WindowRecords && len(w.open) > 1 {
		w.t.Fatalf("%d records at the service, window %d", n, w.cfg.WindowRecords)
	}
}

func (w *world) answer(i int, fail bool) {
	r := w.open[i]
	w.open = append(w.open[:i], w.open[i+1:]...)
	for key, before := range w.released {
		if before <= r.Sequence {
			delete(w.failing, key)
			delete(w.released, key)
		}
	}
	var results []dispatch.Result
	for at, seq := range w.records(r) {
		res := dispatch.Result{From: at, To: at + 1}
		key := w.keys[seq]
		if blocker, ok := w.failing[key]; ok && blocker != seq && w.cfg.Ordered && key != 0 {
			res.Failure = &dispatch.Failure{Class: dispatch.NotTried}
		} else if fail {
			switch rapid.IntRange(0, 9).Draw(w.t, "result") {
			case 0:
				res.Failure = &dispatch.Failure{Class: dispatch.Permanent, Code: "BAD"}
			case 1, 2:
				res.Failure = &dispatch.Failure{Class: dispatch.Retryable, Code: "AGAIN"}
			case 3:
				res.Failure = &dispatch.Failure{Class: dispatch.Unavailable, Code: "DOWN"}
			}
			if res.Failure != nil {
				w.failing[key] = seq
			} else {
				delete(w.failing, key)
			}
		} else {
			delete(w.failing, key)
		}
		results = append(results, res)
	}
	steps, err := w.d.Answer(r.Sequence, results, nil, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	w.do(steps)
}

func TestEveryRecordEndsOnceAndInTheOrderOfItsKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := dispatch.Config{
			Ordering:    dispatch.Ordering(rapid.IntRange(0, 3).Draw(t, "ordering")),
			HoldResults: rapid.Bool().Draw(t, "hold"),
			Ordered:     rapid.Bool().Draw(t, "ordered"),
			MaxRecords:  rapid.IntRange(1, 8).Draw(t, "max"), MaxBytes: 400,
			WindowRecords: rapid.IntRange(1, 20).Draw(t, "window"), WindowBytes: 2000,
			Retry:  dispatch.Policy{MaxRetries: rapid.IntRange(0, 3).Draw(t, "retries"), Backoff: time.Second, MaxBackoff: 8 * time.Second},
			Jitter: func() float64 { return 0.5 },
		}
		w := &world{
			t: t, cfg: cfg, d: dispatch.New(cfg), root: &root{ended: map[uint64]flow.Outcome{}}, now: time.Unix(1000, 0),
			keys: map[uint64]uint64{}, dead: map[uint64]bool{}, failing: map[uint64]uint64{}, released: map[uint64]uint64{},
		}
		next := uint64(1)
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0, 1, 2:
				keys := rapid.SliceOfN(rapid.Uint64Range(0, 3), 1, 9).Draw(t, "keys")
				for i, k := range keys {
					switch cfg.Ordering {
					case dispatch.Lane:
						k = 1
					case dispatch.None:
						k = 0
					}
					w.keys[next+uint64(i)] = k
				}
				w.d.Add(batch(w.root, next, keys))
				next += uint64(len(keys))
			case 3, 4:
				w.send()
			case 5, 6:
				if n := len(w.open); n > 0 {
					i := 0
					if !cfg.Ordered { // an ordered service answers in order
						i = rapid.IntRange(0, n-1).Draw(t, "which")
					}
					w.answer(i, true)
				}
			case 7:
				w.now = w.now.Add(3 * time.Second)
			case 8:
				if n := len(w.burying); n > 0 {
					w.bury(rapid.IntRange(0, n-1).Draw(t, "letter"))
				}
			case 9:
				w.open, w.failing, w.released = nil, map[uint64]uint64{}, map[uint64]uint64{}
				w.do(w.d.Lost(w.now))
			}
		}
		// From here on the world is kind: everything must end.
		for rounds := 0; !w.d.Idle(); rounds++ {
			if rounds > 10000 {
				t.Fatalf("does not come to rest: %d in flight", w.d.InFlight())
			}
			w.now = w.now.Add(10 * time.Second)
			w.send()
			if len(w.open) > 0 {
				w.answer(0, false)
			}
			if len(w.burying) > 0 {
				w.bury(0)
			}
		}
		if got := len(w.root.ended); got != int(next-1) {
			t.Fatalf("%d of %d records ended", got, next-1)
		}
		if w.d.InFlight() != 0 {
			t.Fatalf("idle with %d in flight", w.d.InFlight())
		}
		if cfg.HoldResults || cfg.Ordered || cfg.Ordering == dispatch.KeyStrict {
			last := map[uint64]uint64{}
			for _, seq := range w.out {
				k := w.keys[seq]
				if k != 0 && seq < last[k] {
					t.Fatalf("record %d of key %d left after %d", seq, k, last[k])
				}
				last[k] = max(last[k], seq)
			}
		}
	})
}

func TestAnswerThatDoesNotMatchIsRefused(t *testing.T) {
	newDispatcher := func() (*dispatch.Dispatcher, *dispatch.Request) {
		d := dispatch.New(dispatch.Config{MaxRecords: 10, MaxBytes: 1000, WindowRecords: 10, WindowBytes: 1000, Jitter: func() float64 { return 0 }})
		d.Add(batch(&root{ended: map[uint64]flow.Outcome{}}, 1, []uint64{0, 0, 0}))
		return d, d.Next(time.Unix(0, 0))
	}
	for name, results := range map[string][]dispatch.Result{
		"too few":     {{From: 0, To: 2}},
		"too many":    {{From: 0, To: 4}},
		"a hole":      {{From: 0, To: 1}, {From: 2, To: 3}},
		"an overlap":  {{From: 0, To: 2}, {From: 1, To: 3}},
		"an empty":    {{From: 0, To: 0}, {From: 0, To: 3}},
		"out of turn": {{From: 1, To: 3}, {From: 0, To: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			d, r := newDispatcher()
			if _, err := d.Answer(r.Sequence, results, nil, time.Unix(0, 0)); !errors.Is(err, dispatch.ErrMismatch) {
				t.Errorf("got %v, want ErrMismatch", err)
			}
		})
	}
	d, r := newDispatcher()
	if _, err := d.Answer(r.Sequence+1, []dispatch.Result{{From: 0, To: 3}}, nil, time.Unix(0, 0)); !errors.Is(err, dispatch.ErrMismatch) {
		t.Errorf("unknown request: got %v, want ErrMismatch", err)
	}
}

func TestARequestThatIsHalfFullLeavesTheNextInputWhole(t *testing.T) {
	for name, c := range map[string]struct {
		cfg    dispatch.Config
		inputs []int // records of each batch
		want   []int // records of each request
	}{
		"small ones are joined":         {dispatch.Config{MaxRecords: 10}, []int{2, 2, 2, 2, 2, 2}, []int{10, 2}},
		"one that does not fit waits":   {dispatch.Config{MaxRecords: 10}, []int{7, 7, 7}, []int{7, 7, 7}},
		"less than half is filled up":   {dispatch.Config{MaxRecords: 10}, []int{4, 9}, []int{10, 3}},
		"one that is too large is cut":  {dispatch.Config{MaxRecords: 10}, []int{25, 3}, []int{10, 10, 8}},
		"a limit of one record is kept": {dispatch.Config{MaxRecords: 1}, []int{2, 1}, []int{1, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := c.cfg
			cfg.MaxBytes, cfg.WindowRecords, cfg.WindowBytes = 1<<20, 100, 1<<20
			d := dispatch.New(cfg)
			r := &root{ended: map[uint64]flow.Outcome{}}
			first := uint64(1)
			for _, n := range c.inputs {
				d.Add(batch(r, first, make([]uint64, n)))
				first += uint64(n)
			}
			var got []int
			for req := d.Next(time.Time{}); req != nil; req = d.Next(time.Time{}) {
				got = append(got, req.Records)
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("requests of %v records, want %v", got, c.want)
			}
		})
	}
}
