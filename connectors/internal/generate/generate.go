// Package generate is the source that makes records up.
package generate

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/connectors/internal/jsontext"
	"github.com/conveyor-etl/conveyor/sdk"
)

const placeholder = "${seq}"

// Config says what is made, how fast, and how much.
type Config struct {
	Rate     float64 `doc:"records per second; 0 is as fast as they are taken"`
	Count    int64   `doc:"number of records; 0 is without end"`
	Template string  `default:"{\"seq\":${seq}}" doc:"JSON text of a record, in which ${seq} stands for its number, counted from 1"`
}

// Validate checks that the template makes JSON.
func (c Config) Validate() error {
	e := &sdk.ConfigError{}
	fault := func(field, message string) {
		e.Faults = append(e.Faults, sdk.ConfigFault{Field: field, Message: message})
	}
	if c.Rate < 0 {
		fault("rate", "must not be negative")
	}
	if c.Count < 0 {
		fault("count", "must not be negative")
	}
	if valid, _ := jsontext.Valid([]byte(strings.ReplaceAll(c.Template, placeholder, "1"))); !valid {
		fault("template", "is not JSON when "+placeholder+" is replaced by 1")
	}
	if len(e.Faults) > 0 {
		return e
	}
	return nil
}

// Source returns the ability "generate".
func Source() sdk.Ability { return sdk.Source("generate", generate) }

func generate(ctx context.Context, cfg Config, from sdk.Position) iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		first := int64(0)
		if len(from) > 0 {
			n, err := strconv.ParseInt(string(from), 10, 64)
			if err != nil || n < 0 {
				yield(sdk.Record{}, fmt.Errorf("%w: %q is not a number of records", sdk.ErrPositionGone, from))
				return
			}
			first = n
		}
		parts := strings.Split(cfg.Template, placeholder)
		pace := newPacer(cfg.Rate)
		defer pace.stop()
		var position, payload []byte
		for seq := first + 1; (cfg.Count == 0 || seq <= cfg.Count) && pace.wait(ctx); seq++ {
			position = strconv.AppendInt(position[:0], seq, 10)
			payload = append(payload[:0], parts[0]...)
			for _, part := range parts[1:] {
				payload = append(append(payload, position...), part...)
			}
			if !yield(sdk.Record{Position: position, Payload: payload, ContentType: "application/json"}, nil) {
				return
			}
		}
	}
}

// pacer spaces records evenly. It does not make up for time in which nobody took records, beyond a tenth of a second.
type pacer struct {
	gap   time.Duration
	next  time.Time
	timer *time.Timer
	calls int
}

const (
	maxCatchUp = 100 * time.Millisecond
	// minSleep gathers the records of a fast pace to small groups.
	minSleep = time.Millisecond
)

func newPacer(rate float64) *pacer {
	if rate == 0 {
		return &pacer{}
	}
	return &pacer{gap: time.Duration(float64(time.Second) / rate), next: time.Now()}
}

// wait blocks until the next record is due. It reports false when ctx is done.
func (p *pacer) wait(ctx context.Context) bool {
	if p.gap == 0 {
		p.calls++
		return p.calls%64 != 0 || ctx.Err() == nil
	}
	now := time.Now()
	if late := now.Add(-maxCatchUp); p.next.Before(late) {
		p.next = late
	}
	ahead := p.next.Sub(now)
	p.next = p.next.Add(p.gap)
	if ahead < minSleep {
		return ctx.Err() == nil
	}
	if p.timer == nil {
		p.timer = time.NewTimer(ahead)
	} else {
		p.timer.Reset(ahead)
	}
	select {
	case <-p.timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *pacer) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}
