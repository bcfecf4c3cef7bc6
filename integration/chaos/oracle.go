package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"iter"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/conveyor-etl/conveyor/sdk"
)

// SourceConfig is the config of the oracle source.
type SourceConfig struct {
	// Ledger of the source, and the one of the sink, whose size tells what it had when a commit came.
	Ledger     string `conveyor:"required"`
	SinkLedger string `conveyor:"required"`
	// Stop is a file whose existence ends the source.
	Stop string `conveyor:"required"`
	Keys int    `default:"17"`
	Rate int    `default:"1000" doc:"records per second"`
}

// SinkConfig is the config of the oracle sink.
type SinkConfig struct {
	Ledger string `conveyor:"required"`
}

// Key is the key of a record.
func Key(seq, keys int) string { return "key-" + strconv.Itoa(seq%keys) }

// Payload is the payload of a record: JSON of a length that varies, so that batches do.
func Payload(seq, keys int) []byte {
	pad := strings.Repeat(string(rune('a'+seq%26)), seq*7919%300)
	return fmt.Appendf(nil, `{"seq":%d,"key":%q,"pad":%q}`, seq, Key(seq, keys), pad)
}

// fingerprint is what the sink notes of a payload.
func fingerprint(key, payload []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(key), crc32.IEEETable, payload)
}

// Source is the oracle source. It emits the records 1, 2, 3 and so on until it is told to stop. Its positions are their numbers.
func Source() sdk.Ability {
	return sdk.OpenSource("oracle", func(_ context.Context, o sdk.SourceOpening, cfg SourceConfig) (sdk.Reader, error) {
		from := 0
		if len(o.From) > 0 {
			n, err := strconv.Atoi(string(o.From))
			if err != nil {
				return nil, fmt.Errorf("%w: %q is not one of this source's", sdk.ErrPositionGone, o.From)
			}
			from = n
		}
		l, err := openLedger(cfg.Ledger)
		if err != nil {
			return nil, err
		}
		return &reader{cfg: cfg, ledger: l, from: from}, nil
	})
}

type reader struct {
	cfg    SourceConfig
	ledger *ledger
	from   int
}

const (
	// ahead is how many records are written down before the first of them is emitted.
	ahead = 100
	// burst is how many records are emitted at once.
	burst = 10
)

// Read emits records at the pace of the config.
func (r *reader) Read(ctx context.Context) iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		pace := time.NewTicker(time.Second * burst / time.Duration(r.cfg.Rate))
		defer pace.Stop()
		promised := r.from
		for seq := r.from + 1; ; seq++ {
			if seq > promised {
				if _, err := os.Stat(r.cfg.Stop); err == nil {
					if err := r.ledger.write(fmt.Appendf(nil, "end %d\n", seq-1)); err != nil {
						yield(sdk.Record{}, err)
					}
					return
				}
				promised += ahead
				if err := r.ledger.write(fmt.Appendf(nil, "emit %d\n", promised)); err != nil {
					yield(sdk.Record{}, err)
					return
				}
			}
			if seq%burst == 0 {
				select {
				case <-pace.C:
				case <-ctx.Done():
					return
				}
			}
			record := sdk.Record{
				Key: []byte(Key(seq, r.cfg.Keys)), Position: []byte(strconv.Itoa(seq)), Payload: Payload(seq, r.cfg.Keys), ContentType: "application/json",
			}
			if !yield(record, nil) {
				return
			}
		}
	}
}

// Commit writes down what is committed, and how much the sink had by then.
func (r *reader) Commit(_ context.Context, position sdk.Position) error {
	size, err := ledgerSize(r.cfg.SinkLedger)
	if err != nil {
		return err
	}
	return r.ledger.write(fmt.Appendf(nil, "commit %s %d\n", position, size))
}

// Close gives the ledger back.
func (r *reader) Close() error { return r.ledger.close() }

// Sink is the oracle sink. It writes down every record that it is given before it acknowledges it.
func Sink() sdk.Ability {
	return sdk.OpenSink("oracle", func(_ context.Context, _ sdk.Opening, cfg SinkConfig) (sdk.Writer, error) {
		l, err := openLedger(cfg.Ledger)
		if err != nil {
			return nil, err
		}
		return &writer{l}, nil
	})
}

type writer struct{ ledger *ledger }

// Write makes a batch durable.
func (w *writer) Write(_ context.Context, batch []sdk.Record) error {
	var lines []byte
	for _, r := range batch {
		var value struct{ Seq int }
		if err := json.Unmarshal(r.Payload, &value); err != nil {
			value.Seq = 0 // the checker finds the fingerprint wrong
		}
		lines = fmt.Appendf(lines, "got %d %08x %s %s\n", value.Seq, fingerprint(r.Key, r.Payload), r.Key, r.ID)
	}
	return w.ledger.write(lines)
}

// Close gives the ledger back.
func (w *writer) Close() error { return w.ledger.close() }

// Echo is a transform that changes nothing: one more hop.
func Echo() sdk.Ability {
	return sdk.Map("echo", func(_ context.Context, _ struct{}, r sdk.Record) (sdk.Record, error) { return r, nil })
}
