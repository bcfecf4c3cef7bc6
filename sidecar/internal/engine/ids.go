package engine

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/conveyor-etl/conveyor/protos/wire"
	"github.com/conveyor-etl/conveyor/sidecar/internal/dispatch"
)

// idTag is the tag of Record.id.
const idTag = 1<<3 | 2

// hasID reports at a glance that an encoded record begins with an id, as records do that are encoded in the order of their fields.
func hasID(record []byte) bool { return len(record) > 1 && record[0] == idTag && record[1] != 0 }

// withoutID returns an encoded record without its id: the same memory where the id comes first, else a copy.
func withoutID(record []byte) []byte {
	if len(record) > 0 && record[0] == idTag {
		if _, n := protowire.ConsumeBytes(record[1:]); n > 0 {
			record = record[1+n:]
		}
	}
	var rest []byte
	copied := false
	for at := 0; at < len(record); {
		number, _, n := protowire.ConsumeField(record[at:])
		if n < 0 {
			break // malformed records are refused where they came in
		}
		if number == 1 && !copied {
			rest, copied = append(rest, record[:at]...), true
		} else if number != 1 && copied {
			rest = append(rest, record[at:at+n]...)
		}
		at += n
	}
	if copied {
		return rest
	}
	return record
}

// renamed returns a copy of records with other ids.
func renamed(records *wire.Batch, id func(i int, old []byte) (string, error)) (*wire.Batch, error) {
	var w wire.Builder
	for i := range records.Len() {
		record := records.Record(i)
		f, err := wire.Scan(record)
		if err == nil {
			var name string
			if name, err = id(i, f.ID); err == nil {
				w.AppendWithID(withoutID(record), name)
			}
		}
		if err != nil {
			if b := w.Finish(); b != nil {
				b.Free()
			}
			return nil, err
		}
	}
	return w.Finish(), nil
}

// giveIDs names the records of an answer that the transform left unnamed, and the children to which it gave the id of their parent: a
// record keeps its id through the stages, children add the stage and their index to it.
func (w *service) giveIDs(a *answer) error {
	if a.batch == nil {
		return nil
	}
	complete := true
	for _, o := range a.outs {
		complete = complete && (o.each == 1 || o.filtered)
	}
	for i := 0; complete && i < a.batch.Len(); i++ {
		complete = hasID(a.batch.Record(i))
	}
	if complete {
		return nil
	}
	r := w.d.Request(a.sequence + w.before)
	if r == nil {
		return nil // the dispatcher refuses the answer
	}
	parents := parentsOf(a, r)
	if len(parents) != a.batch.Len() {
		return nil // as above
	}
	records, err := renamed(a.batch, func(i int, id []byte) (string, error) {
		p := parents[i]
		parent, err := wire.Scan(p.record)
		switch {
		case err != nil:
			return "", err
		case len(id) > 0 && (p.of == 1 || string(id) != string(parent.ID)):
			return string(id), nil
		case p.of > 1:
			return wire.ChildID(string(parent.ID), w.s.key.stage, p.index), nil
		}
		return string(parent.ID), nil
	})
	if err != nil {
		return err
	}
	a.batch.Free()
	a.batch = records
	return nil
}

// parentage is the input that an output came from, and which of how many it is.
type parentage struct {
	record    []byte
	index, of int
}

// parentsOf returns the parentage of all outputs of an answer.
func parentsOf(a *answer, r *dispatch.Request) []parentage {
	var inputs [][]byte
	for _, in := range r.Inputs {
		if in.Item != nil {
			inputs = append(inputs, in.Item.Record)
			continue
		}
		for i := in.From; i < in.To; i++ {
			inputs = append(inputs, in.Batch.Records.Record(i))
		}
	}
	var parents []parentage
	for _, o := range a.outs {
		if o.filtered {
			continue
		}
		if o.to > len(inputs) || (o.to-o.from)*o.each > a.batch.Len()-len(parents) {
			return nil
		}
		for i := o.from; i < o.to; i++ {
			for k := range o.each {
				parents = append(parents, parentage{inputs[i], k, o.each})
			}
		}
	}
	return parents
}
