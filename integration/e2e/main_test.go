package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	"github.com/conveyor-etl/conveyor/sdk"
)

func TestMain(m *testing.M) {
	os.Exit(proc.Main(m, map[string]proc.Child{
		"numbers": service(sdk.Source("numbers", numbers)),
		"mark":    service(sdk.Map("mark", mark)),
		"collect": service(sdk.OpenSink("collect", openCollect)),
	}))
}

// service is a user's program with one ability, at SERVICE_LISTEN.
func service(a sdk.Ability) proc.Child {
	return func(ctx context.Context) int { return sdk.Run(ctx, nil, os.Getenv, os.Stdout, os.Stderr, a) }
}

type numbersConfig struct {
	Count int `default:"1000"`
	Rate  int `default:"0" doc:"records per second, 0 is as fast as they are taken"`
}

// numbers yields {"seq":1}, {"seq":2} and so on.
func numbers(ctx context.Context, cfg numbersConfig, from sdk.Position) iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		first := 0
		if len(from) > 0 {
			first, _ = strconv.Atoi(string(from))
		}
		pace := time.NewTicker(max(time.Second/time.Duration(max(cfg.Rate, 1)), time.Microsecond))
		defer pace.Stop()
		for n := first + 1; n <= cfg.Count; n++ {
			if cfg.Rate > 0 {
				select {
				case <-pace.C:
				case <-ctx.Done():
					return
				}
			}
			position := strconv.Itoa(n)
			if !yield(sdk.Record{Position: sdk.Position(position), Payload: []byte(`{"seq":` + position + `}`), ContentType: "application/json"}, nil) {
				return
			}
		}
	}
}

type markConfig struct {
	Field string `default:"marked"`
}

// mark adds one to a field of the payload, so that each passage is seen.
func mark(_ context.Context, cfg markConfig, r sdk.Record) (sdk.Record, error) {
	var value map[string]any
	if err := json.Unmarshal(r.Payload, &value); err != nil {
		return r, sdk.Permanent(err)
	}
	n, _ := value[cfg.Field].(float64)
	value[cfg.Field] = n + 1
	payload, err := json.Marshal(value)
	r.Payload = payload
	return r, err
}

type collectConfig struct {
	Path string `conveyor:"required"`
	// Refuse is a file whose existence makes every tenth record fail for good.
	Refuse string
}

// collect appends each record with its id to a file and syncs it.
type collect struct {
	file   *os.File
	refuse string
}

func openCollect(_ context.Context, _ sdk.Opening, cfg collectConfig) (sdk.Writer, error) {
	f, err := os.OpenFile(cfg.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &collect{f, cfg.Refuse}, nil
}

func (c *collect) Write(_ context.Context, batch []sdk.Record) error {
	_, err := os.Stat(c.refuse)
	refuse := c.refuse != "" && err == nil
	failed := sdk.Each(batch, func(r sdk.Record) error {
		var value map[string]any
		if err := json.Unmarshal(r.Payload, &value); err != nil {
			return sdk.Permanent(err)
		}
		if n, _ := value["seq"].(float64); refuse && int(n)%10 == 0 {
			return sdk.Permanent(sdk.Code("REFUSED", fmt.Errorf("record %v is refused", n)))
		}
		value["id"] = r.ID
		line, err := json.Marshal(value)
		if err != nil {
			return err
		}
		_, err = c.file.Write(append(line, '\n'))
		return err
	})
	if err := c.file.Sync(); err != nil {
		return err
	}
	return failed
}

func (c *collect) Close() error { return c.file.Close() }
