package dsl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/conveyor-etl/conveyor/dsl/internal/yamlsrc"
)

var shapeA = []string{"source", "sources", "steps", "sink", "sinks"}

func (d *decoder) checkPipeline(s *PipelineSpec) {
	if d.place.has("spec.stages") {
		for _, f := range shapeA {
			if d.place.has("spec." + f) {
				diag := d.reportKey(CodeExclusive, "spec."+f, fmt.Sprintf("spec has stages and %s, which exclude each other", f))
				diag.Suggestion = "write the whole pipeline as stages, or none of it"
			}
		}
		d.checkStages(s)
	} else if !d.guessed["spec.stages"] {
		d.checkShapeA(s)
	}
	d.checkOptions(s)
}

func (d *decoder) checkShapeA(s *PipelineSpec) {
	d.oneOf("spec", []string{"source", "sources"})
	d.oneOf("spec", []string{"sink", "sinks"})
	d.checkName("spec.source", s.Source)
	d.checkName("spec.sink", s.Sink)
	for _, f := range []string{"sources", "sinks"} {
		if n := d.place.values["spec."+f]; n != nil && n.Kind == yamlsrc.List && len(n.Items) == 0 {
			d.report(CodeNoValue, "spec."+f, fmt.Sprintf("spec.%s is empty", f)).Suggestion = "name at least one"
		}
	}
	d.checkNames("spec.sources", s.Sources, true)
	d.checkNames("spec.steps", s.Steps, false)
	first := map[string]string{}
	for i, sink := range s.Sinks {
		path := fmt.Sprintf("spec.sinks[%d]", i)
		if !d.place.has(path+".name") && d.isMap(path) {
			d.missing(path+".name", "the sink has no name")
		}
		d.checkName(path+".name", sink.Name)
		d.checkTwice(first, path+".name", sink.Name, "sink")
	}
	if len(s.Sinks) > 0 && !slices.ContainsFunc(s.Sinks, func(r SinkRef) bool { return r.Delivery != DeliveryBestEffort }) {
		d.report(CodeMisplaced, "spec.sinks", "every sink is best-effort, so nothing would be delivered for sure").Suggestion = "leave one of them required"
	}
}

func (d *decoder) isMap(path string) bool {
	n := d.place.values[path]
	return n != nil && n.Kind == yamlsrc.Map
}

func (d *decoder) checkNames(path string, names []string, unique bool) {
	first := map[string]string{}
	for i, name := range names {
		p := fmt.Sprintf("%s[%d]", path, i)
		d.checkName(p, name)
		if unique {
			d.checkTwice(first, p, name, strings.TrimSuffix(lastField(path), "s"))
		}
	}
}

// checkTwice reports a name that stands in a list for the second time.
func (d *decoder) checkTwice(first map[string]string, path, name, what string) {
	if name == "" {
		return
	}
	if before, dup := first[name]; dup {
		s := d.place.span(before)
		diag := d.report(CodeDuplicateEntry, path, fmt.Sprintf("the %s %q stands here twice", what, name))
		diag.Related = []Related{{File: d.place.file, Line: s.Line, Column: s.Column, Message: "the first one is here"}}
		return
	}
	first[name] = path
}

func (d *decoder) checkOptions(s *PipelineSpec) {
	if s.ShareStages != nil && *s.ShareStages {
		d.notAvailable("spec.shareStages", "shareStages: true", false)
	}
	if dl := s.Delivery; dl != nil {
		d.checkRange("spec.delivery.batchSize", &dl.BatchSize, 0, 100_000)
		d.checkRange("spec.delivery.inFlight", &dl.InFlight, 0, 10_000_000)
		d.checkRange("spec.delivery.maxSpan", &dl.MaxSpan, 0, 100_000_000)
	}
	q := s.DLQ
	if q == nil {
		return
	}
	d.checkName("spec.dlq.sink", q.Sink)
	d.checkRange("spec.dlq.maxRetries", q.MaxRetries, 0, 1000)
	const day = 24 * 60 * 60 * 1000
	low := d.checkRange("spec.dlq.retryBackoffMs", q.RetryBackoffMs, 0, day)
	high := d.checkRange("spec.dlq.maxRetryBackoffMs", q.MaxRetryBackoffMs, 0, day)
	if low && high && *q.MaxRetryBackoffMs < *q.RetryBackoffMs {
		d.report(CodeOutOfRange, "spec.dlq.maxRetryBackoffMs",
			fmt.Sprintf("maxRetryBackoffMs (%d) is less than retryBackoffMs (%d)", *q.MaxRetryBackoffMs, *q.RetryBackoffMs))
	}
}

// checkRange reports whether the number is there and within its bounds.
func (d *decoder) checkRange(path string, n *int, low, high int) bool {
	if n == nil {
		return false
	}
	if *n >= low && *n <= high {
		return true
	}
	d.report(CodeOutOfRange, path, fmt.Sprintf("%s is %d", lastField(path), *n)).Label = fmt.Sprintf("want %d to %d", low, high)
	return false
}
