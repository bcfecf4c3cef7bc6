package dsl

import "time"

// PipelineSpec is the spec of a Pipeline. It has one of two shapes: source or sources, steps, and sink or sinks; or stages, which spells out any DAG.
type PipelineSpec struct {
	// Source is the name of the Source that the records come from.
	Source string `json:"source,omitempty"`
	// Sources are the names of several Sources whose records take the same way. Instead of Source.
	Sources []string `json:"sources,omitempty"`
	// Steps are the names of the Transforms that every record passes, in this order.
	Steps []string `json:"steps,omitempty"`
	// Sink is the name of the Sink that the records go to.
	Sink string `json:"sink,omitempty"`
	// Sinks are several Sinks, each with a condition of its own. Instead of Sink.
	Sinks []SinkRef `json:"sinks,omitempty"`
	// Stages spell out a DAG. Instead of Source, Sources, Steps, Sink and Sinks.
	Stages []Stage `json:"stages,omitempty"`
	// Delivery says how records are ordered and bounded on their way.
	Delivery *Delivery `json:"delivery,omitempty"`
	// DLQ says how often a record is retried, and what happens to those that failed for good.
	DLQ *DLQ `json:"dlq,omitempty"`
	// Enabled false drains the pipeline and pauses it; its checkpoints stay. The default is true.
	Enabled *bool `json:"enabled,omitempty"`
	// OnRouterLoss says what a sidecar does when it reaches no router: continue (the default) goes on and catches up its checkpoints later; pause reads nothing more after
	// half of the time that its session lives, so that less is read twice if somebody else goes on meanwhile.
	OnRouterLoss string `json:"onRouterLoss,omitempty" enum:"continue|pause"`
	// UpdatePolicy says how a changed pipeline replaces the running one: drain (the default) lets what is in flight end first.
	UpdatePolicy string `json:"updatePolicy,omitempty" enum:"drain"`
	// DeletionPolicy says how a deleted pipeline ends: drain (the default) lets what is in flight end first.
	DeletionPolicy string `json:"deletionPolicy,omitempty" enum:"drain"`
	// ShareStages is false: this version gives every pipeline stages of its own.
	ShareStages *bool `json:"shareStages,omitempty"`
}

// SinkRef is one of several sinks of a pipeline.
type SinkRef struct {
	// Name is the name of the Sink.
	Name string `json:"name"`
	// When is a CEL condition over the records that arrive at the sink; those for which it is false do not go there.
	When string `json:"when,omitempty"`
	// Delivery is required (the default) or best-effort: a best-effort sink sheds records instead of slowing the others down.
	Delivery string `json:"delivery,omitempty" enum:"required|best-effort"`
}

// Stage is one node of a pipeline's DAG: exactly one of Source, Transform, Sink and CEL.
type Stage struct {
	// Name is unique within the pipeline: a DNS-1123 label of at most 63 characters.
	Name string `json:"name"`
	// Source is the name of the Source that this stage reads.
	Source string `json:"source,omitempty"`
	// Transform is the name of the Transform that this stage runs.
	Transform string `json:"transform,omitempty"`
	// Sink is the name of the Sink that this stage writes.
	Sink string `json:"sink,omitempty"`
	// CEL is a transform written in place.
	CEL *CELSpec `json:"cel,omitempty"`
	// From are the names of the stages whose results arrive here. A source has none.
	From []string `json:"from,omitempty"`
	// When is a CEL condition over the records that arrive here; those for which it is false do not take this way.
	When string `json:"when,omitempty"`
	// Delivery is required (the default) or best-effort. Only a sink may be best-effort.
	Delivery string `json:"delivery,omitempty" enum:"required|best-effort"`
	// Parallelism is the number of sidecars that run the stage: 1 in this version.
	Parallelism *int `json:"parallelism,omitempty"`
}

// Delivery says how records are ordered and bounded on their way.
type Delivery struct {
	// Ordering is what keeps its order: key (the default) the records of one key, key-strict the same with at most one unsettled record per key before
	// a service that is not ordered, lane all records of a source's partition, none nothing.
	Ordering string `json:"ordering,omitempty" enum:"key|key-strict|lane|none"`
	// BatchSize is the largest number of records in one batch; 0 leaves it to the sidecar.
	BatchSize int `json:"batchSize,omitempty"`
	// InFlight is the number of records that may be under way on one edge; 0 leaves it to the sidecar.
	InFlight int `json:"inFlight,omitempty"`
	// MaxSpan is the number of records that a lane may run past its oldest unsettled one; 0 leaves it to the sidecar.
	MaxSpan int `json:"maxSpan,omitempty"`
}

// DLQ says how often a record is retried, and where it goes when it failed for good. Such records are always kept in the dead-letter store.
type DLQ struct {
	// Sink is the name of a Sink to which dead letters are delivered in addition.
	Sink string `json:"sink,omitempty"`
	// MaxRetries is how often a record is tried again after its first failure. The default is 3; 0 means one attempt.
	MaxRetries *int `json:"maxRetries,omitempty"`
	// RetryBackoffMs is the pause before the first retry in milliseconds, doubled for each further one and jittered. The default is 100.
	RetryBackoffMs *int `json:"retryBackoffMs,omitempty"`
	// MaxRetryBackoffMs bounds the pause in milliseconds. The default is 30000.
	MaxRetryBackoffMs *int `json:"maxRetryBackoffMs,omitempty"`
}

// Values of the enumerations.
const (
	OrderingKey       = "key"
	OrderingKeyStrict = "key-strict"
	OrderingLane      = "lane"
	OrderingNone      = "none"

	DeliveryRequired   = "required"
	DeliveryBestEffort = "best-effort"

	OnRouterLossContinue = "continue"
	OnRouterLossPause    = "pause"
	PolicyDrain          = "drain"
)

// Defaults of a pipeline's retries.
const (
	DefaultMaxRetries        = 3
	DefaultRetryBackoffMs    = 100
	DefaultMaxRetryBackoffMs = 30000
)

// Retries is the retry policy of a pipeline with its defaults applied.
type Retries struct {
	// Max is how often a record is tried again after its first failure.
	Max int
	// Backoff is the pause before the first retry, before jitter.
	Backoff time.Duration
	// MaxBackoff bounds the pause.
	MaxBackoff time.Duration
}

// Retries returns the retry policy. It is safe on a spec that was built by hand and not defaulted.
func (s *PipelineSpec) Retries() Retries {
	d := s.DLQ
	if d == nil {
		d = &DLQ{}
	}
	return Retries{
		Max:        or(d.MaxRetries, DefaultMaxRetries),
		Backoff:    time.Duration(or(d.RetryBackoffMs, DefaultRetryBackoffMs)) * time.Millisecond,
		MaxBackoff: time.Duration(or(d.MaxRetryBackoffMs, DefaultMaxRetryBackoffMs)) * time.Millisecond,
	}
}

// IsEnabled reports whether the pipeline should run.
func (s *PipelineSpec) IsEnabled() bool { return or(s.Enabled, true) }

// DeliveryOptions returns the delivery options with the default ordering filled in.
func (s *PipelineSpec) DeliveryOptions() Delivery {
	var d Delivery
	if s.Delivery != nil {
		d = *s.Delivery
	}
	if d.Ordering == "" {
		d.Ordering = OrderingKey
	}
	return d
}

// DeadLetterSink is the name of the sink to which dead letters are delivered in addition, or "".
func (s *PipelineSpec) DeadLetterSink() string {
	if s.DLQ == nil {
		return ""
	}
	return s.DLQ.Sink
}

func or[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}
