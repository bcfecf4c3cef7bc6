package sdk

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

// Epoch tells which of two owners of a stage is the newer one.
type Epoch struct {
	Incarnation, Index uint64
}

// Compare returns -1, 0 or +1 as e is older than, the same as or newer than other.
func (e Epoch) Compare(other Epoch) int {
	return cmp.Or(cmp.Compare(e.Incarnation, other.Incarnation), cmp.Compare(e.Index, other.Index))
}

func (e Epoch) String() string { return fmt.Sprintf("%d.%d", e.Incarnation, e.Index) }

// Opening is on whose behalf a stream is opened.
type Opening struct {
	// Pipeline is namespace/name.
	Pipeline string
	Stage    string
	// Generation is the revision of the pipeline's spec.
	Generation uint64
	// Type of the ability that is opened.
	Type string
	// UID is the namespace/name of the manifest of the service.
	UID string
	// Epoch of the owner that opens.
	Epoch Epoch
	// FromStart asks a sink to forget what an earlier life of the pipeline left with it.
	FromStart bool
	// Logger has the pipeline and the stage as attributes.
	Logger *slog.Logger
}

// SourceOpening is on whose behalf a partition is read, and from where.
type SourceOpening struct {
	Opening
	// Partition is one of those that the source listed; empty when it is not divided.
	Partition string
	// From is the position after which to read; empty on the first opening of the lane.
	From Position
	// Beginning says that the partition appeared later than the pipeline: without a position it is read from its start.
	Beginning bool
}

func openingOf(o *conveyorv1.Opening, typ string, log *slog.Logger) Opening {
	return Opening{
		Pipeline: o.GetPipeline(), Stage: o.GetStage(), Generation: o.GetGeneration(), Type: typ, UID: o.GetUid(),
		Epoch:     Epoch{o.GetEpoch().GetIncarnation(), o.GetEpoch().GetIndex()},
		FromStart: o.GetFromStart(),
		Logger:    log.With("pipeline", o.GetPipeline(), "stage", o.GetStage()),
	}
}

// Idempotency is what a sink does with a record that it is given a second time.
type Idempotency int32

// The kinds of idempotency.
const (
	// NotIdempotent: it is written again.
	NotIdempotent = Idempotency(conveyorv1.Idempotency_IDEMPOTENCY_UNSPECIFIED)
	// Upsert: the second write overwrites the first.
	Upsert = Idempotency(conveyorv1.Idempotency_IDEMPOTENCY_UPSERT)
	// ByRecordID: the sink knows the record's id and writes it once.
	ByRecordID = Idempotency(conveyorv1.Idempotency_IDEMPOTENCY_RECORD_ID)
)

// Ability is one thing that a service offers: a source, a transform or a sink of some type. It is an [Option] of a server.
type Ability struct {
	info         *conveyorv1.Ability
	distinctKeys bool
	oneWriter    bool

	check      func(config []byte) error
	partitions func(ctx context.Context, o Opening, config []byte) ([]string, error)
	source     func(ctx context.Context, o SourceOpening, config []byte) (Reader, error)
	transform  func(ctx context.Context, o Opening, config []byte) (Processor, error)
	sink       func(ctx context.Context, o Opening, config []byte) (Writer, error)
}

func (a Ability) apply(s *settings) { s.abilities = append(s.abilities, a) }

// Type returns the type that the ability was made with.
func (a Ability) Type() string { return a.info.GetType() }

// CheckConfig reports what is wrong with a config, as an opening with it would: nil, or a *ConfigError.
func (a Ability) CheckConfig(config []byte) error { return a.check(config) }

// Kind returns "source", "transform" or "sink".
func (a Ability) Kind() string { return kindName(a.info.GetKind()) }

func kindName(k conveyorv1.ServiceKind) string {
	switch k {
	case conveyorv1.ServiceKind_SERVICE_KIND_SOURCE:
		return "source"
	case conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM:
		return "transform"
	case conveyorv1.ServiceKind_SERVICE_KIND_SINK:
		return "sink"
	}
	return k.String()
}

// AbilityOption says more about an ability. One that makes no sense for the kind of the ability panics, since the program is wrong.
type AbilityOption struct {
	name  string
	kinds []conveyorv1.ServiceKind
	apply func(*Ability)
}

var (
	sources = []conveyorv1.ServiceKind{conveyorv1.ServiceKind_SERVICE_KIND_SOURCE}
	sinks   = []conveyorv1.ServiceKind{conveyorv1.ServiceKind_SERVICE_KIND_SINK}
	takers  = []conveyorv1.ServiceKind{
		conveyorv1.ServiceKind_SERVICE_KIND_TRANSFORM, conveyorv1.ServiceKind_SERVICE_KIND_SINK,
	}
)

// NotReplayable says of a source that it cannot go back to an older position, for example since it reads a pipe.
func NotReplayable() AbilityOption {
	return AbilityOption{"NotReplayable", sources, func(a *Ability) { a.info.Replayable = false }}
}

// SharedReader says of a source that two openings of one partition disturb each other.
func SharedReader() AbilityOption {
	return AbilityOption{"SharedReader", sources, func(a *Ability) { a.info.IndependentReaders = false }}
}

// Partitions has a source divided: list returns the names of the partitions under a config, each of which is read by itself. C must be
// the config type of the source.
func Partitions[C any](list func(ctx context.Context, cfg C) ([]string, error)) AbilityOption {
	return AbilityOption{"Partitions", sources, func(a *Ability) {
		a.info.Partitions = true
		a.partitions = func(ctx context.Context, _ Opening, config []byte) ([]string, error) {
			cfg, err := DecodeConfig[C](config)
			if err != nil {
				return nil, err
			}
			return list(ctx, cfg)
		}
	}}
}

// Unordered says of a transform or a sink that a failed record does not hold back later records of its key.
func Unordered() AbilityOption {
	return AbilityOption{"Unordered", takers, func(a *Ability) { a.info.Ordered = false }}
}

// DistinctKeys has a sink's batches cut so that no two records in one have the same key. It is for services that write each record of a
// batch whatever happens to the others, and keeps the order of keys also there.
func DistinctKeys() AbilityOption {
	return AbilityOption{"DistinctKeys", sinks, func(a *Ability) { a.distinctKeys = true }}
}

// Idempotent says what a sink does with a record that it is given again.
func Idempotent(how Idempotency) AbilityOption {
	return AbilityOption{"Idempotent", sinks, func(a *Ability) { a.info.Idempotency = conveyorv1.Idempotency(how) }}
}

// OneWriter says of a sink that it can have one stream of a stage at a time, for example since it appends to a file. A stream that its owner
// opens after a break ends the one before, whose break the service may not have noticed, and waits until its Writer is closed.
func OneWriter() AbilityOption {
	return AbilityOption{"OneWriter", sinks, func(a *Ability) { a.oneWriter = true }}
}

// MaxBatch is the most records that a transform or a sink is given in one call.
func MaxBatch(records int) AbilityOption {
	return AbilityOption{"MaxBatch", takers, func(a *Ability) { a.info.MaxBatch = uint32(max(records, 1)) }}
}

func newAbility[C any](kind conveyorv1.ServiceKind, typ string, options []AbilityOption) Ability {
	a := Ability{
		info:  &conveyorv1.Ability{Kind: kind, Type: typ, ConfigSchema: Schema[C]()},
		check: func(config []byte) error { _, err := DecodeConfig[C](config); return err },
	}
	switch kind {
	case conveyorv1.ServiceKind_SERVICE_KIND_SOURCE:
		a.info.Replayable, a.info.IndependentReaders, a.info.Fences = true, true, true
	case conveyorv1.ServiceKind_SERVICE_KIND_SINK:
		a.info.Ordered, a.info.Fences = true, true
	default:
		a.info.Ordered = true
	}
	for _, o := range options {
		if !slices.Contains(o.kinds, kind) {
			panic("sdk: " + o.name + " makes no sense for a " + kindName(kind))
		}
		o.apply(&a)
	}
	return a
}
