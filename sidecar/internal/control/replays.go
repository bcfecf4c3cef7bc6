package control

import (
	"context"
	"errors"
	"sync"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// maxReplays is how many letters are replayed at once; further ones wait in the stream.
const maxReplays = 64

// replays takes letters to be replayed for as long as the session lives.
func (w *work) replays(ctx context.Context) {
	var again backoff
	for {
		err := w.serveReplays(ctx, again.reset)
		if errors.Is(err, client.ErrSessionEnded) {
			w.end(w.session, err)
		}
		if ctx.Err() == nil {
			w.log.Debug("stream of replays broke off, opening it again", "sidecar", w.cfg.SidecarID, "err", err)
		}
		if !again.pause(ctx) {
			return
		}
	}
}

// serveReplays works on one stream until it breaks. Letters without an outcome are handed out again on the next one.
func (w *work) serveReplays(ctx context.Context, received func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.client.OpenReplays(ctx, w.session)
	if err != nil {
		return err
	}
	var (
		wg   sync.WaitGroup
		send sync.Mutex
		room = make(chan struct{}, maxReplays)
	)
	defer wg.Wait()
	defer stream.Close()
	defer cancel()
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		letter, err := stream.Recv()
		if err != nil {
			return err
		}
		received()
		wg.Go(func() {
			defer func() { <-room }()
			outcome := w.replay(ctx, letter)
			if ctx.Err() != nil {
				return // the outcome may only say that the stream broke
			}
			send.Lock()
			defer send.Unlock()
			if err := stream.Send(outcome); err != nil {
				w.log.Debug("outcome of a replay is not reported", "letter", letter.GetId(), "err", err)
			}
		})
	}
}

func (w *work) replay(ctx context.Context, letter *controlv1.Letter) *controlv1.ReplayOutcome {
	outcome, again, err := w.engine.Inject(ctx, letter)
	if err != nil {
		return &controlv1.ReplayOutcome{LetterId: letter.GetId(), Problem: err.Error()}
	}
	return &controlv1.ReplayOutcome{LetterId: letter.GetId(), Outcome: outcome, FailedAgain: again}
}
