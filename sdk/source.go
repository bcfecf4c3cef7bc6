package sdk

import (
	"context"
	"iter"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// Reader reads one partition on behalf of one opening. It may also implement [Committer] and [Starter].
type Reader interface {
	// Read yields the records after the position of the opening, in order. It is called once. The sequence ends when the partition
	// does, or soon after ctx is done, which is when the sidecar wants no more or is gone. A yielded *BadRecord takes its place among
	// the records; any other error ends the stream, and the sidecar opens it again later. Yielding blocks while there is no credit.
	// The memory of a record may be used again when yield returns.
	Read(ctx context.Context) iter.Seq2[Record, error]
	// Close releases what the reader holds. It is called once, after the sequence ended and no other method runs.
	Close() error
}

// Committer is a Reader that wants to know what is settled, for example to acknowledge a queue's messages.
type Committer interface {
	// Commit says that everything up to the position is settled and will not be asked for again. It may be repeated, and it is called
	// while Read runs. An error ends the stream.
	Commit(ctx context.Context, position Position) error
}

// Starter is a Reader that can tell where it begins when it was given no position.
type Starter interface {
	// Start returns the position at which reading begins, for example the end of a log. It is made durable before the first record
	// is used.
	Start() Position
}

// Source makes a source of a function that yields the records after a position, which is empty at the first opening; see [Reader] for
// what it may yield.
func Source[C any](typ string, read func(ctx context.Context, cfg C, from Position) iter.Seq2[Record, error], options ...AbilityOption) Ability {
	return OpenSource(typ, func(_ context.Context, o SourceOpening, cfg C) (Reader, error) {
		return readerFunc(func(ctx context.Context) iter.Seq2[Record, error] { return read(ctx, cfg, o.From) }), nil
	}, options...)
}

type readerFunc func(ctx context.Context) iter.Seq2[Record, error]

func (f readerFunc) Read(ctx context.Context) iter.Seq2[Record, error] { return f(ctx) }
func (readerFunc) Close() error                                        { return nil }

// OpenSource makes a source of a function that opens a reader. A second opening of the same pipeline, stage and partition with the same
// or a newer epoch closes the reader of the first; one with an older epoch is refused.
//
// ctx ends with the stream; an error refuses the opening.
func OpenSource[C any](typ string, open func(ctx context.Context, o SourceOpening, cfg C) (Reader, error), options ...AbilityOption) Ability {
	a := newAbility[C](conveyorv1.ServiceKind_SERVICE_KIND_SOURCE, typ, options)
	a.source = func(ctx context.Context, o SourceOpening, config []byte) (Reader, error) {
		cfg, err := DecodeConfig[C](config)
		if err != nil {
			return nil, err
		}
		return open(ctx, o, cfg)
	}
	return a
}
