package router_test

import (
	"context"
	"testing"
	"time"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// beat keeps the session until the returned function is called, and tells whom the sidecar does not reach.
func (s *sidecar) beat(every time.Duration, unreachable ...string) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			// What goes wrong shows in what the test waits for.
			_, _ = s.coord.Heartbeat(ctx, &controlv1.HeartbeatRequest{Session: s.session, Unreachable: unreachable})
			select {
			case <-time.After(every):
			case <-ctx.Done():
			}
		}
	}()
	return func() { cancel(); <-done }
}

func TestSession_OfManyThatFallSilentOnlyThoseAreEndedThatOthersMissToo(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SessionTTL, cfg.Heartbeat = 500*time.Millisecond, 100*time.Millisecond
	n := start(t, cfg)
	defer n.register("a").beat(cfg.Heartbeat, "c")()
	defer n.register("b").beat(cfg.Heartbeat)()
	began := time.Now()
	c, d, e := n.register("c"), n.register("d"), n.register("e")
	<-c.done
	select {
	case <-d.done:
		t.Error("the session of a sidecar that nobody misses was ended no later than that of one that is missed")
	case <-e.done:
		t.Error("the session of a sidecar that nobody misses was ended no later than that of one that is missed")
	default:
	}
	<-d.done
	<-e.done
	if took := time.Since(began); took < 3*cfg.SessionTTL {
		t.Errorf("the sessions of sidecars that nobody misses were ended %v after their beginning", took)
	}
	for _, s := range []*sidecar{c, d, e} {
		mustRefuse(t, s.watched, "SESSION_ENDED")
	}
}
