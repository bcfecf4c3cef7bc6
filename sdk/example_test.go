package sdk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/conveyor-etl/conveyor/sdk"
)

type webhook struct {
	URL     string        `conveyor:"required" doc:"endpoint to post to"`
	Timeout time.Duration `default:"5s"`
}

// A sink in 20 lines. As a program of its own, post is called from func main() { sdk.Main(webhookSink) }.
func ExampleSinkEach() {
	webhookSink := sdk.SinkEach("webhook", func(ctx context.Context, cfg webhook, r sdk.Record) error {
		ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, cfg.URL, bytes.NewReader(r.Payload))
		if err != nil {
			return sdk.Permanent(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return sdk.Unavailable(err)
		}
		defer response.Body.Close()
		if response.StatusCode >= 400 {
			return sdk.Code("HTTP_"+strconv.Itoa(response.StatusCode), errors.New(response.Status))
		}
		return nil
	}, sdk.Idempotent(sdk.Upsert))
	fmt.Println(webhookSink.Kind(), webhookSink.Type())
	// Output: sink webhook
}

// A source yields what comes after a position.
func ExampleSource() {
	type config struct {
		Count int `default:"3"`
	}
	squares := sdk.Source("squares", func(_ context.Context, cfg config, from sdk.Position) iter.Seq2[sdk.Record, error] {
		return func(yield func(sdk.Record, error) bool) {
			n, err := strconv.Atoi(string(append([]byte("0"), from...)))
			if err != nil {
				yield(sdk.Record{}, fmt.Errorf("%w: %q", sdk.ErrPositionGone, from))
				return
			}
			for n++; n <= cfg.Count; n++ {
				record := sdk.Record{Position: sdk.Position(strconv.Itoa(n)), Payload: []byte(strconv.Itoa(n * n))}
				if !yield(record, nil) {
					return
				}
			}
		}
	})
	fmt.Println(squares.Kind(), squares.Type())
	// Output: source squares
}

// A transform turns one record into any number of records; none drops it.
func ExampleTransform() {
	type config struct {
		Separator string `default:" "`
	}
	words := sdk.Transform("words", func(_ context.Context, cfg config, r sdk.Record) ([]sdk.Record, error) {
		var children []sdk.Record
		for word := range bytes.SplitSeq(r.Payload, []byte(cfg.Separator)) {
			child := r
			child.Payload = word
			children = append(children, child)
		}
		return children, nil
	})
	fmt.Println(words.Kind(), words.Type())
	// Output: transform words
}

func ExampleDecodeConfig() {
	_, err := sdk.DecodeConfig[webhook]([]byte(`{"ulr": "http://localhost", "timeout": "5"}`))
	fmt.Println(err)
	// Output: config: url: is required; timeout: must be a duration like "10s", not "5"; ulr: unknown field, did you mean "url"?
}

func ExampleFailureOf() {
	err := sdk.Permanent(sdk.Code("DUPLICATE_ROW", errors.New("row 7 is there already")))
	fmt.Printf("%+v\n", sdk.FailureOf(fmt.Errorf("insert: %w", err)))
	// Output: {Class:2 Code:DUPLICATE_ROW Message:insert: row 7 is there already}
}

func ExampleSchema() {
	fmt.Println(string(sdk.Schema[struct {
		Path string `conveyor:"required" doc:"the file"`
	}]()))
	// Output: {"$schema":"https://json-schema.org/draft/2020-12/schema","additionalProperties":false,"properties":{"path":{"description":"the file","type":"string"}},"required":["path"],"type":"object"}
}
