package sdk

import (
	"context"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// Writer stores the records of one stream. Its methods are called by one goroutine at a time. It may also implement [Syncer] and
// [Completer]. Their contexts end when the stream does, with cause [ErrFenced] when the stage has a newer owner: that one waits until the
// Writer is closed, so that nothing of the older owner is written beside or behind it.
type Writer interface {
	// Write stores a batch, durably unless the Writer is a Syncer. An error is that of the whole batch, unless it is a Partial. The
	// batch is valid until Write returns.
	Write(ctx context.Context, batch []Record) error
	// Close releases what the writer holds. It is called once, at the end of the stream.
	Close() error
}

// Syncer is a Writer that makes several batches durable at once, for example with one fsync.
type Syncer interface {
	// Sync makes everything written since the last call durable. When it errs, all records written since then are answered with the
	// error, and the writer must have taken them back or bear to be given them again.
	Sync(ctx context.Context) error
}

// Completer is a Writer that has something to finish when the pipeline's sources are exhausted, for example to rename a file into place.
type Completer interface {
	// Complete is called when everything written is durable. It may be called again when it erred, or after a restart.
	Complete(ctx context.Context) error
}

// Sink makes a sink of a function that stores a batch durably. A returned error is that of the whole batch, unless it is a [Partial].
func Sink[C any](typ string, write func(ctx context.Context, cfg C, batch []Record) error, options ...AbilityOption) Ability {
	return OpenSink(typ, func(_ context.Context, _ Opening, cfg C) (Writer, error) {
		return writerFunc(func(ctx context.Context, batch []Record) error { return write(ctx, cfg, batch) }), nil
	}, options...)
}

// SinkEach makes a sink of a function that stores one record durably.
func SinkEach[C any](typ string, write func(ctx context.Context, cfg C, record Record) error, options ...AbilityOption) Ability {
	var ordered bool
	a := OpenSink(typ, func(_ context.Context, _ Opening, cfg C) (Writer, error) {
		return writerFunc(func(ctx context.Context, batch []Record) error {
			return eachOf(batch, ordered, func(r Record) error { return write(ctx, cfg, r) })
		}), nil
	}, options...)
	ordered = a.info.GetOrdered()
	return a
}

// Each calls write with the records of a batch in order and returns what failed as a [Partial], or nil. The later records of a key that
// failed are left out, so that the order of the key is kept.
func Each(batch []Record, write func(Record) error) error { return eachOf(batch, true, write) }

func eachOf(batch []Record, ordered bool, write func(Record) error) error {
	var partial Partial
	var failed failedKeys
	for i := range batch {
		err := error(errNotTried)
		if !failed.has(batch[i].Key) {
			err = write(batch[i])
		}
		if err == nil {
			continue
		}
		if partial == nil {
			partial = Partial{}
		}
		partial[i] = err
		if ordered && !isAlready(err) {
			failed.add(batch[i].Key)
		}
	}
	if partial == nil {
		return nil
	}
	return partial
}

// OpenSink makes a sink of a function that opens a writer for each stream. An error refuses the opening. Several streams may be open at
// once, of several stages and also of one; see [OneWriter] for a sink that can have only one writer. The streams of an owner of a stage end
// when a newer one opens it, and its later ones are refused. So a sidecar that was replaced, and does not know it, writes nothing more.
// Stages are told apart by pipeline and name: clusters that share a service must not have pipelines of one name.
func OpenSink[C any](typ string, open func(ctx context.Context, o Opening, cfg C) (Writer, error), options ...AbilityOption) Ability {
	a := newAbility[C](conveyorv1.ServiceKind_SERVICE_KIND_SINK, typ, options)
	a.sink = func(ctx context.Context, o Opening, config []byte) (Writer, error) {
		cfg, err := DecodeConfig[C](config)
		if err != nil {
			return nil, err
		}
		return open(ctx, o, cfg)
	}
	return a
}

type writerFunc func(ctx context.Context, batch []Record) error

func (f writerFunc) Write(ctx context.Context, batch []Record) error { return f(ctx, batch) }
func (writerFunc) Close() error                                      { return nil }
