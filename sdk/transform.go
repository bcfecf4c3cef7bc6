package sdk

import (
	"context"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// Result is what became of one input of a transform. The zero Result says that the input is filtered: dropped, and that is final.
type Result struct {
	// Records that the input became. One record keeps the id of its input, several get ids made from it, unless they bring their own.
	// Positions are ignored.
	Records []Record
	// Route, if not empty, names the only stages behind this one that are offered the records; see also the function Route.
	Route []string
	// Err is why the input failed; the records are ignored then.
	Err error

	same   bool // the input itself, unchanged
	single bool // one, in place of Records
	one    [1]Record
}

// Processor transforms the records of one stream. Its methods are called by one goroutine at a time.
type Processor interface {
	// Process sets the result of every record of the batch; the results are zero when it is called. A returned error is that of the
	// whole batch. Records and results are valid until Process returns, except that the results' own memory must stay unchanged until
	// the next call.
	Process(ctx context.Context, batch []Record, results []Result) error
	// Close releases what the processor holds. It is called once, at the end of the stream.
	Close() error
}

// Transform makes a transform of a function from one record to any number of records; none drops the record.
func Transform[C any](typ string, transform func(ctx context.Context, cfg C, record Record) ([]Record, error), options ...AbilityOption) Ability {
	return each(typ, func(ctx context.Context, cfg C, record Record, result *Result) {
		result.Records, result.Err = transform(ctx, cfg, record)
	}, options)
}

// Map makes a transform of a function from one record to one record.
func Map[C any](typ string, change func(ctx context.Context, cfg C, record Record) (Record, error), options ...AbilityOption) Ability {
	return each(typ, func(ctx context.Context, cfg C, record Record, result *Result) {
		result.one[0], result.Err = change(ctx, cfg, record)
		result.single = true
	}, options)
}

// Filter makes a transform of a function that says which records are kept; they go on unchanged.
func Filter[C any](typ string, keep func(ctx context.Context, cfg C, record Record) (bool, error), options ...AbilityOption) Ability {
	return each(typ, func(ctx context.Context, cfg C, record Record, result *Result) {
		result.same, result.Err = keep(ctx, cfg, record)
	}, options)
}

// TransformBatch makes a transform of a function that returns one result for each record of a batch, in order.
func TransformBatch[C any](typ string, transform func(ctx context.Context, cfg C, batch []Record) ([]Result, error), options ...AbilityOption) Ability {
	return OpenTransform(typ, func(_ context.Context, _ Opening, cfg C) (Processor, error) {
		return processorFunc(func(ctx context.Context, batch []Record, results []Result) error {
			got, err := transform(ctx, cfg, batch)
			if err != nil {
				return err
			}
			if len(got) != len(batch) {
				return Permanent(Code(CodeHandlerError, errWrongCount(len(got), len(batch))))
			}
			copy(results, got)
			return nil
		}), nil
	}, options...)
}

// OpenTransform makes a transform of a function that opens a processor for each stream. An error refuses the opening.
func OpenTransform[C any](typ string, open func(ctx context.Context, o Opening, cfg C) (Processor, error), options ...AbilityOption) Ability {
	a := newAbility[C](conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM, typ, options)
	a.transform = func(ctx context.Context, o Opening, config []byte) (Processor, error) {
		cfg, err := DecodeConfig[C](config)
		if err != nil {
			return nil, err
		}
		return open(ctx, o, cfg)
	}
	return a
}

type processorFunc func(ctx context.Context, batch []Record, results []Result) error

func (f processorFunc) Process(ctx context.Context, batch []Record, results []Result) error {
	return f(ctx, batch, results)
}
func (processorFunc) Close() error { return nil }

// each calls a function record by record and, where the order of keys is kept, does not try the later records of a key that failed.
func each[C any](typ string, one func(ctx context.Context, cfg C, record Record, result *Result), options []AbilityOption) Ability {
	var ordered bool
	a := OpenTransform(typ, func(_ context.Context, _ Opening, cfg C) (Processor, error) {
		var failed failedKeys
		return processorFunc(func(ctx context.Context, batch []Record, results []Result) error {
			failed.reset()
			for i := range batch {
				if failed.has(batch[i].Key) {
					results[i].Err = errNotTried
					continue
				}
				one(ctx, cfg, batch[i], &results[i])
				if results[i].Err != nil && ordered {
					failed.add(batch[i].Key)
				}
			}
			return nil
		}), nil
	}, options...)
	ordered = a.info.GetOrdered()
	return a
}
