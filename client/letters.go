package client

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"google.golang.org/grpc"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// Letters yields the dead letters that a filter selects, in the order of their ids; limit 0 yields all. After a break it goes on behind the last letter. An
// error is the last thing it yields.
func (c *Client) Letters(ctx context.Context, filter *controlv1.LetterFilter, limit uint32) iter.Seq2[*controlv1.Letter, error] {
	return c.LettersAfter(ctx, filter, 0, limit)
}

// LettersAfter is Letters from the first letter on whose id is above after.
func (c *Client) LettersAfter(ctx context.Context, filter *controlv1.LetterFilter, after uint64, limit uint32) iter.Seq2[*controlv1.Letter, error] {
	return func(yield func(*controlv1.Letter, error) bool) {
		after := after // a second use of the sequence begins again
		left, stopped := limit, false
		err := follow(ctx, c, false, func(ctx context.Context, conn grpc.ClientConnInterface) (grpc.ServerStreamingClient[controlv1.ListLettersResponse], error) {
			return controlv1.NewDeadLetterServiceClient(conn).ListLetters(ctx, &controlv1.ListLettersRequest{Filter: filter, After: after, Limit: left})
		}, func(m *controlv1.ListLettersResponse) bool {
			after = m.GetLetter().GetId()
			if stopped = !yield(m.GetLetter(), nil); stopped {
				return false
			}
			if limit > 0 {
				left--
			}
			return limit == 0 || left > 0
		})
		if err != nil && !stopped {
			yield(nil, fmt.Errorf("list dead letters: %w", err))
		}
	}
}

// Letter returns one dead letter by its id in the store.
func (c *Client) Letter(ctx context.Context, id uint64) (*controlv1.Letter, error) {
	resp, err := call(ctx, c, whenUnanswered, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.GetLetterResponse, error) {
		return controlv1.NewDeadLetterServiceClient(conn).GetLetter(ctx, &controlv1.GetLetterRequest{Id: id})
	})
	if err != nil {
		return nil, fmt.Errorf("get dead letter %d: %w", id, err)
	}
	return resp.GetLetter(), nil
}

// DiscardLetters removes the letters that a filter selects, for good, and returns how many. It is not repeated once a router may have it, so that the number
// is true.
func (c *Client) DiscardLetters(ctx context.Context, filter *controlv1.LetterFilter) (uint64, error) {
	resp, err := call(ctx, c, whenUnsent, func(ctx context.Context, conn grpc.ClientConnInterface) (*controlv1.DiscardLettersResponse, error) {
		return controlv1.NewDeadLetterServiceClient(conn).DiscardLetters(ctx, &controlv1.DiscardLettersRequest{Filter: filter})
	})
	if err != nil {
		return 0, fmt.Errorf("discard dead letters: %w", err)
	}
	return resp.GetDiscarded(), nil
}

// ReplayLetters puts the records of the selected letters back into the stages at which they failed. It yields the progress until all have settled; the last
// progress says Done, or an error is the last thing it yields. A replay that broke off may be started again: a letter goes only when its record settled.
func (c *Client) ReplayLetters(ctx context.Context, filter *controlv1.LetterFilter) iter.Seq2[*controlv1.ReplayLettersResponse, error] {
	return func(yield func(*controlv1.ReplayLettersResponse, error) bool) {
		begun, stopped, done := false, false, false
		err := follow(ctx, c, false, func(ctx context.Context, conn grpc.ClientConnInterface) (grpc.ServerStreamingClient[controlv1.ReplayLettersResponse], error) {
			if begun {
				// The counts of a second stream would not be those of this replay.
				return nil, errBrokeOff
			}
			return controlv1.NewDeadLetterServiceClient(conn).ReplayLetters(ctx, &controlv1.ReplayLettersRequest{Filter: filter})
		}, func(m *controlv1.ReplayLettersResponse) bool {
			begun, done = true, m.GetDone()
			stopped = !yield(m, nil)
			return !stopped && !done
		})
		if err == nil && !done && !stopped {
			err = errBrokeOff
		}
		if err != nil && !stopped {
			yield(nil, fmt.Errorf("replay dead letters: %w", err))
		}
	}
}

var errBrokeOff = errors.New("the connection broke before all records had settled; letters that are still stored can be replayed again")
