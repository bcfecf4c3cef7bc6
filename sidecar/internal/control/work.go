package control

import (
	"context"
	"errors"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// beatSpacing is how close heartbeats may follow each other when something changed.
const beatSpacing = 100 * time.Millisecond

// answer looks at what came of a call under the session: true means that it succeeded.
func (w *work) answer(err error) bool {
	if errors.Is(err, client.ErrSessionEnded) {
		w.end(w.session, err)
	}
	return err == nil
}

// heartbeats keeps the session and tells what goes on: at the pace of the router, and soon when something changed.
func (w *work) heartbeats(ctx context.Context, every, ttl time.Duration, contact *contact) {
	silent := w.resumed
	defer contact.lost()
	// A session was renewed when it was opened; one that goes on after a restart may be about to end.
	rhythm := newRhythm(every, ttl, time.Now())
	if !silent && !w.rest(ctx, rhythm.wait(time.Now())) {
		return
	}
	for {
		sent := time.Now()
		try, cancel := context.WithTimeout(ctx, max(ttl/2, every))
		resp, err := w.client.Heartbeat(try, heartbeat(w.session, w.engine))
		cancel()
		if ctx.Err() != nil {
			return
		}
		w.answered(err)
		switch ok := w.answer(err); {
		case !ok && !silent:
			w.log.Warn("no answer to a heartbeat, still trying; what is assigned goes on", "sidecar", w.cfg.SidecarID, "err", err)
		case ok && silent:
			w.log.Info("heartbeats are answered again", "sidecar", w.cfg.SidecarID)
		}
		if err == nil {
			contact.made(sent)
		}
		rhythm.tried(err == nil, time.Now())
		silent = err != nil
		if pause := resp.GetCheckpointMillis(); err == nil && pause > 0 {
			w.engine.PaceCheckpoints(time.Duration(pause) * time.Millisecond)
		}
		if !sleep(ctx, min(beatSpacing, every)) || !w.rest(ctx, rhythm.wait(time.Now())) {
			return
		}
	}
}

// heartbeat tells what goes on.
func heartbeat(session *controlv1.Session, engine Engine) *controlv1.HeartbeatRequest {
	stages, lanes := engine.Reports()
	return &controlv1.HeartbeatRequest{Session: session, Stages: cleanAll(stages), Lanes: cleanAll(lanes), Unreachable: engine.Unreachable()}
}

// rest waits until it is time for a heartbeat, or there is something to tell.
func (w *work) rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.beat:
		return true
	case <-ctx.Done():
		return false
	}
}

// watch hands every desired state to the engine.
func (w *work) watch(ctx context.Context) {
	var again backoff
	for {
		for desired, err := range w.client.WatchAssignments(ctx, w.session) {
			if err != nil {
				if !w.answer(err) && ctx.Err() == nil {
					w.log.Warn("assignments are not watched, trying again", "sidecar", w.cfg.SidecarID, "err", err)
				}
				break
			}
			again.reset()
			w.take(desired)
		}
		if !again.pause(ctx) {
			return
		}
	}
}

func (w *work) take(desired *controlv1.WatchAssignmentsResponse) {
	if before, ok := w.effective(); ok && desired.GetRevision() < before {
		w.log.Warn("desired state is older than the one in effect, left alone", "sidecar", w.cfg.SidecarID, "revision", desired.GetRevision(), "effective", before)
		return
	}
	if err := CheckSigned(w.cfg.Signed, w.registration, desired); err != nil {
		w.log.Error("assignments are refused, what is in effect goes on", "sidecar", w.cfg.SidecarID, "revision", desired.GetRevision(), "err", err)
		return
	}
	w.engine.Apply(w.registration.GetAssignmentKey(), desired.GetAssignments())
	w.applied(w.session, desired.GetRevision())
	w.log.Info("assignments applied", "sidecar", w.cfg.SidecarID, "revision", desired.GetRevision(), "stages", len(desired.GetAssignments()))
	if w.cfg.Journal != nil {
		if err := w.cfg.Journal.Record(w.registration, desired); err != nil {
			w.log.Error("assignments are not remembered", "sidecar", w.cfg.SidecarID, "err", err)
		}
	}
	signal(w.news)
	signal(w.beat)
}

// ending identifies an assignment that has ended.
type ending struct {
	pipeline, stage            string
	incarnation, index, number uint64
	completed                  bool
}

func endingOf(e *controlv1.EndedAssignment) ending {
	return ending{e.GetPipeline(), e.GetStage(), e.GetEpoch().GetIncarnation(), e.GetEpoch().GetIndex(), e.GetGeneration(), e.GetCompleted()}
}

// acknowledge says which desired state is in effect and which assignments have ended, until a router took it.
func (w *work) acknowledge(ctx context.Context) {
	var again backoff
	var told uint64 // revision that was acknowledged
	toldOnce := false
	pending := map[ending]*controlv1.EndedAssignment{}
	done := map[ending]bool{}
	for {
		listed := map[ending]bool{}
		for _, e := range w.engine.Ended() {
			key := endingOf(e)
			listed[key] = true
			if !done[key] {
				pending[key] = e
			}
		}
		for key := range done {
			if !listed[key] {
				delete(done, key)
			}
		}
		revision, ok := w.effective()
		if ok && (!toldOnce || revision != told || len(pending) > 0) {
			req := &controlv1.AcknowledgeAssignmentsRequest{Session: w.session, Revision: revision}
			for _, e := range pending {
				req.Ended = append(req.Ended, e)
			}
			if len(pending) > 0 {
				// What was counted last must be told before the router forgets who counted it.
				if _, err := w.client.Heartbeat(ctx, heartbeat(w.session, w.engine)); !w.answer(err) {
					if !again.pause(ctx) {
						return
					}
					continue
				}
			}
			if err := w.client.AcknowledgeAssignments(ctx, req); !w.answer(err) {
				if ctx.Err() == nil {
					w.log.Debug("assignments are not acknowledged, trying again", "sidecar", w.cfg.SidecarID, "err", err)
				}
				if !again.pause(ctx) {
					return
				}
				continue
			}
			again.reset()
			told, toldOnce = revision, true
			for key := range pending {
				done[key] = listed[key]
			}
			clear(pending)
		}
		select {
		case <-w.news:
		case <-w.engine.Changes():
			signal(w.beat)
		case <-ctx.Done():
			return
		}
	}
}

// report tells of the services beside the sidecar whenever they change; the registration told of the first edition.
func (w *work) report(ctx context.Context, told uint64) {
	var again backoff
	for {
		if endpoints, edition := w.snapshot(); edition != told {
			if err := w.client.ReportEndpoints(ctx, w.session, endpoints); !w.answer(err) {
				if ctx.Err() == nil {
					w.log.Debug("services are not reported, trying again", "sidecar", w.cfg.SidecarID, "err", err)
				}
				if !again.pause(ctx) {
					return
				}
				continue
			}
			again.reset()
			told = edition
		}
		select {
		case <-w.moved:
		case <-ctx.Done():
			return
		}
	}
}
