package ops

import (
	"context"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"
)

// checkTimeout bounds one answer of /readyz.
const checkTimeout = 5 * time.Second

// A Check reports whether one thing that the process needs works; nil means yes. It must end with
// ctx, runs in a goroutine of its own, at most once at a time, and its error is shown to whoever asks.
type Check func(ctx context.Context) error

// Checks are named checks. /readyz answers 200 when all of them pass.
type Checks map[string]Check

// readiness evaluates checks for one asker after the other.
type readiness struct {
	turn   chan struct{} // holds a token while an evaluation is under way
	probes []*probe
}

type probe struct {
	name  string
	check Check
	busy  atomic.Bool // still running, perhaps from an earlier evaluation
}

// report is the body of /healthz and /readyz.
type report struct {
	Status  string            `json:"status"` // ok or failing
	Failing map[string]string `json:"failing,omitempty"`
}

func newReadiness(checks Checks) *readiness {
	r := &readiness{turn: make(chan struct{}, 1)}
	for name, check := range checks {
		r.probes = append(r.probes, &probe{name: name, check: check})
	}
	return r
}

// report runs all checks at the same time, so that one that hangs does not hide the others. One that
// hangs on is not started again: askers must not be able to pile up goroutines.
func (r *readiness) report(ctx context.Context) report {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	failing := map[string]string{}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return report{Status: "failing", Failing: map[string]string{"readyz": "busy with earlier requests"}}
	}
	type result struct {
		name string
		err  error
	}
	results := make(chan result, len(r.probes))
	pending := map[string]bool{}
	for _, p := range r.probes {
		pending[p.name] = true
		if !p.busy.CompareAndSwap(false, true) {
			continue
		}
		go func() { // ends with ctx, by contract of Check
			err := p.check(ctx)
			p.busy.Store(false)
			results <- result{p.name, err}
		}()
	}
	for len(pending) > 0 {
		select {
		case res := <-results:
			delete(pending, res.name)
			if res.err != nil {
				failing[res.name] = res.err.Error()
			}
		case <-ctx.Done():
			for name := range pending {
				failing[name] = "no answer in time"
			}
			clear(pending)
		}
	}
	if len(failing) == 0 {
		return report{Status: "ok"}
	}
	return report{Status: "failing", Failing: failing}
}

func reply(w http.ResponseWriter, r report) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if r.Status != "ok" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(r) //nolint:errchkjson // an error only says that the client has gone
}
