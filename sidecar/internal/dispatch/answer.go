package dispatch

import (
	"container/heap"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrMismatch is returned for results that do not answer each input of a known request exactly once. Nothing was changed; the stream on
// which they came is not to be trusted any more.
var ErrMismatch = errors.New("results do not match the request")

// Answer takes in the results of a request and returns what follows. Results are applied in the order of the requests, so that what is
// returned may also concern later requests that were answered before.
func (d *Dispatcher) Answer(sequence uint64, results []Result, response any, now time.Time) ([]Step, error) {
	k := slices.IndexFunc(d.sent, func(r *Request) bool { return r.Sequence == sequence })
	if k < 0 {
		return nil, fmt.Errorf("answer to request %d, which is not open: %w", sequence, ErrMismatch)
	}
	r := d.sent[k]
	if r.answered {
		return nil, fmt.Errorf("second answer to request %d: %w", sequence, ErrMismatch)
	}
	// I18: exactly, or not at all.
	at := 0
	for _, res := range results {
		if res.From != at || res.To <= res.From || res.To > r.Records {
			return nil, fmt.Errorf("request %d has %d records, its answer a run %d..%d after %d: %w", sequence, r.Records, res.From, res.To, at, ErrMismatch)
		}
		at = res.To
	}
	if at != r.Records {
		return nil, fmt.Errorf("request %d has %d records, its answer %d: %w", sequence, r.Records, at, ErrMismatch)
	}
	r.answered, r.results, r.Response = true, results, response
	d.records -= r.Records
	d.bytes -= r.Bytes
	var steps []Step
	if d.cfg.Ordering == None {
		d.sent = slices.Delete(d.sent, k, k+1)
		return d.apply(steps, r, now), nil
	}
	for len(d.sent) > 0 && d.sent[0].answered {
		r := d.sent[0]
		d.sent[0] = nil
		d.sent = d.sent[1:]
		steps = d.unbar(d.apply(steps, r, now))
	}
	return steps, nil
}

// unbar lets go on the lines whose buried head waited for requests that have been answered.
func (d *Dispatcher) unbar(steps []Step) []Step {
	barred := d.barred
	d.barred = nil
	for _, l := range barred {
		steps = d.advance(steps, l)
	}
	return steps
}

// finish adds a step for inputs of a request that are done, to the last step where they follow on.
func (d *Dispatcher) finish(steps []Step, r *Request, from, to int) []Step {
	r.open -= to - from
	d.total -= to - from
	if n := len(steps); n > 0 {
		if last := &steps[n-1]; last.Kind == Finish && last.Request == r && last.To == from {
			last.To = to
			return steps
		}
	}
	return append(steps, Step{Kind: Finish, Request: r, From: from, To: to})
}

func (d *Dispatcher) apply(steps []Step, r *Request, now time.Time) []Step {
	if d.nlines == 0 && len(r.results) == 1 && r.results[0].Failure == nil {
		for _, in := range r.Inputs {
			if in.Item == nil {
				in.Batch.Done(in.Len())
			}
		}
		return d.finish(steps, r, 0, r.Records)
	}
	var touched []*line
	in, offset := 0, 0 // of the record at hand: its input, its index therein
	for _, res := range r.results {
		for i := res.From; i < res.To; i++ {
			for offset >= r.Inputs[in].Len() {
				in, offset = in+1, 0
			}
			input := &r.Inputs[in]
			if input.Item != nil {
				steps = d.answered(steps, r, i, input.Item, res.Failure, now)
				touched = appendLine(touched, input.Item.line)
			} else if l := (*line)(nil); res.Failure == nil {
				if key := d.key(input.Batch, input.From+offset); key != 0 && d.nlines > 0 && d.cfg.HoldResults {
					l = d.lines[key]
				}
				if l != nil {
					it := d.insert(l, input.Batch, input.From+offset, input.order+uint64(offset))
					it.state, it.request, it.input = done, r, i
					touched = appendLine(touched, l)
				} else {
					input.Batch.Done(1)
					steps = d.finish(steps, r, i, i+1)
				}
			} else {
				key := d.key(input.Batch, input.From+offset)
				if key != 0 {
					l = d.lines[key]
				}
				if l == nil {
					l = d.newLine(key)
				}
				it := d.insert(l, input.Batch, input.From+offset, input.order+uint64(offset))
				it.state = sent
				steps = d.answered(steps, r, i, it, res.Failure, now)
				touched = appendLine(touched, l)
			}
			offset++
		}
	}
	for _, l := range touched {
		steps = d.advance(steps, l)
	}
	return steps
}

func appendLine(lines []*line, l *line) []*line {
	if n := len(lines); n > 0 && lines[n-1] == l {
		return lines
	}
	return append(lines, l)
}

// answered applies the result of record i of a request to an item.
func (d *Dispatcher) answered(steps []Step, r *Request, i int, it *Item, f *Failure, now time.Time) []Step {
	if f == nil {
		it.failed = false
		if it == it.line.items[0] || !d.cfg.HoldResults {
			it.state = gone
			return d.finish(steps, r, i, i+1)
		}
		it.state, it.request, it.input = done, r, i
		return steps
	}
	r.open--
	it.state = waiting
	it.barrier = d.next - 1
	switch f.Class {
	case NotTried:
		// Its turn comes behind the one that failed. If that is no longer in the line, at once, but not in a tight loop.
		it.due = now
		if it == it.line.items[0] {
			it.waits++
			it.due = now.Add(d.backoff(it.waits))
		}
		return steps
	case Unavailable:
		it.waits++
		it.failed = true
		it.due = now.Add(d.backoff(it.waits))
		return steps
	}
	it.failed = true
	it.Tries++
	if len(it.Attempts) == maxAttempts {
		it.Attempts = slices.Delete(it.Attempts, 0, 1)
	}
	it.Attempts = append(it.Attempts, Attempt{At: now, Code: f.Code, Message: f.Message})
	if f.Class == Permanent || it.Tries > d.cfg.Retry.MaxRetries {
		it.state = dying
		return append(steps, Step{Kind: Bury, Item: it, Failure: *f})
	}
	it.due = now.Add(d.backoff(it.Tries))
	return steps
}

// backoff returns the wait before the try that follows n failures.
func (d *Dispatcher) backoff(n int) time.Duration {
	limit := d.cfg.Retry.Backoff << min(n-1, 20)
	if limit <= 0 || limit > d.cfg.Retry.MaxBackoff {
		limit = d.cfg.Retry.MaxBackoff
	}
	return time.Duration(d.cfg.Jitter() * float64(limit))
}

// Buried takes in that an item is durable in the dead letters; the caller settles it. The records behind it go on.
func (d *Dispatcher) Buried(it *Item) []Step {
	it.state = buried
	d.total--
	return d.advance(nil, it.line)
}

// advance ends what has come to the head of a line, and puts the line in its place among those that wait for a time.
func (d *Dispatcher) advance(steps []Step, l *line) []Step {
	for len(l.items) > 0 {
		it := l.items[0]
		switch it.state {
		case gone:
		case done:
			steps = d.finish(steps, it.request, it.input, it.input+1)
		case buried:
			if d.cfg.Ordered && l.key != 0 && d.barredBy(it) {
				d.unschedule(l)
				d.barred = append(d.barred, l)
				return steps
			}
			if it.failed && l.key != 0 {
				steps = append(steps, Step{Kind: Release, Item: it})
			}
		default:
			d.schedule(l)
			return steps
		}
		l.items[0] = nil
		l.items = l.items[1:]
	}
	d.unschedule(l)
	if d.lines[l.key] == l {
		delete(d.lines, l.key)
		d.nlines--
	} else if l.key == 0 {
		l.key = ^uint64(0) // a line without a key ends once
		d.nlines--
	}
	return steps
}

// schedule puts a line where its head says.
func (d *Dispatcher) schedule(l *line) {
	head := l.items[0]
	if head.state != waiting {
		d.unschedule(l)
		return
	}
	l.due = head.due
	if l.at < 0 {
		heap.Push(&d.due, l)
	} else {
		heap.Fix(&d.due, l.at)
	}
}

func (d *Dispatcher) unschedule(l *line) {
	if l.at >= 0 {
		heap.Remove(&d.due, l.at)
	}
}

// Lost takes in that the service will not answer what was sent: its stream broke. Nothing of it counts as a try. What a sink had answered
// for single records is kept; everything else is sent again, in order.
func (d *Dispatcher) Lost(now time.Time) []Step {
	var steps []Step
	var again []Input
	var touched []*line
	lost := d.sent
	d.sent = nil
	for _, r := range lost {
		if !r.answered {
			d.records -= r.Records
			d.bytes -= r.Bytes
		}
		i := 0
		for _, in := range r.Inputs {
			n := in.Len()
			if r.answered && !d.cfg.HoldResults {
				steps, again, touched = d.salvage(steps, again, touched, r, in, i, now)
			} else {
				r.open -= n
				if in.Item != nil {
					in.Item.state, in.Item.due = waiting, now
					touched = appendLine(touched, in.Item.line)
				} else {
					again = appendInput(again, in)
				}
			}
			i += n
		}
	}
	again, touched = d.behindLines(again, touched)
	d.queue = append(again, d.queue...)
	for _, l := range touched {
		steps = d.advance(steps, l)
	}
	return d.unbar(steps)
}

// salvage keeps what a sink answered for an input, whose first record is record i of its request, and sends the rest again.
func (d *Dispatcher) salvage(steps []Step, again []Input, touched []*line, r *Request, in Input, i int, now time.Time) ([]Step, []Input, []*line) {
	for k := range in.Len() {
		ok := false
		for _, res := range r.results {
			if i+k >= res.From && i+k < res.To {
				ok = res.Failure == nil
			}
		}
		switch {
		case ok && in.Item != nil:
			steps = d.answered(steps, r, i, in.Item, nil, now)
			touched = appendLine(touched, in.Item.line)
		case ok:
			in.Batch.Done(1)
			steps = d.finish(steps, r, i+k, i+k+1)
		case in.Item != nil:
			r.open--
			in.Item.state, in.Item.due = waiting, now
			touched = appendLine(touched, in.Item.line)
		default:
			r.open--
			again = appendInput(again, Input{Batch: in.Batch, From: in.From + k, To: in.From + k + 1, order: in.order + uint64(k)})
		}
	}
	return steps, again, touched
}

// behindLines moves the records whose key has a line into it, and returns the others: a line may hold later records already, which must
// not overtake them.
func (d *Dispatcher) behindLines(ins []Input, touched []*line) ([]Input, []*line) {
	if d.nlines == 0 {
		return ins, touched
	}
	var rest []Input
	for _, in := range ins {
		for ; in.From < in.To; in.skip(1) {
			key := d.key(in.Batch, in.From)
			if l := d.lines[key]; l != nil && key != 0 {
				d.insert(l, in.Batch, in.From, in.order)
				touched = appendLine(touched, l)
			} else {
				rest = appendInput(rest, Input{Batch: in.Batch, From: in.From, To: in.From + 1, order: in.order})
			}
		}
	}
	return rest, touched
}

func appendInput(ins []Input, in Input) []Input {
	if n := len(ins); n > 0 && ins[n-1].Batch == in.Batch && ins[n-1].To == in.From {
		ins[n-1].To = in.To
		return ins
	}
	return append(ins, in)
}

// lineHeap orders lines by when their heads are due.
type lineHeap []*line

func (h lineHeap) Len() int           { return len(h) }
func (h lineHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h lineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

func (h *lineHeap) Push(x any) {
	l := x.(*line)
	l.at = len(*h)
	*h = append(*h, l)
}

func (h *lineHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	l.at = -1
	*h = old[:len(old)-1]
	return l
}
