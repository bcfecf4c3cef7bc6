package router_test

import (
	"context"
	"fmt"
	"strings"
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

func TestSession_WhenAMachineIsLostItsStagesGoToNoOtherSidecarOfIt(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SessionTTL, cfg.Heartbeat = 500*time.Millisecond, 100*time.Millisecond
	n := start(t, cfg)
	n.apply(simple...)
	first := n.registerOn("lost", "m", both...)
	first.awaitStages("in keep out")
	var lost []*sidecar
	for _, id := range []string{"a", "b", "c", "d", "x", "y", "z"} {
		lost = append(lost, n.registerOn("lost", id, both...))
	}
	other := n.register("other", both...)
	defer other.beat(cfg.Heartbeat)()
	other.awaitStages("in keep out")
	for _, s := range lost {
		<-s.done
		if got := s.stages(); got != "" {
			t.Errorf("sidecar %s was given %s a moment before its session ended", s.id, got)
		}
	}
}

func TestSession_TwoSidecarsOfOneIDEndInOne(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	n.apply(simple...)
	register := func(address string) error {
		_, err := n.coord.Register(t.Context(), &controlv1.RegisterRequest{SidecarId: "a", Address: address, HostName: "host-of-" + address, Endpoints: both})
		return err
	}
	// Each is told that its session has ended when the other one comes, and comes back.
	holder, other := "10.0.0.1:9091", "10.0.0.2:9091"
	for turns := 0; ; turns++ {
		if turns == 20 {
			t.Fatal("they take over from each other for ever")
		}
		if err := register(holder); err != nil {
			if reason(err) != "DUPLICATE_ID" || !strings.Contains(err.Error(), other) {
				t.Fatal(err)
			}
			break
		}
		holder, other = other, holder
	}
	// Who has the id keeps it, also when it is started again at once.
	for range 10 {
		if err := register(other); err != nil {
			t.Fatalf("the one that is known: %v", err)
		}
		if err := register(holder); reason(err) != "DUPLICATE_ID" {
			t.Fatalf("the one that was refused: %v", err)
		}
	}
}

func TestSession_TwoSidecarsOfOneIDAndOneAddressEndInOne(t *testing.T) {
	n := start(t, testConfig(t.TempDir()))
	// A process registers. The copy of a machine has the name of the machine, and so the address that it tells.
	register := func(instance string) error {
		_, err := n.coord.Register(t.Context(), &controlv1.RegisterRequest{SidecarId: "a", Address: "host:9091", HostName: "host", Instance: instance, Endpoints: both})
		return err
	}
	mustRegister := func(instance, why string) {
		t.Helper()
		if err := register(instance); err != nil {
			t.Fatalf("%s: %v", why, err)
		}
	}
	mustRegister("one", "the first")
	mustRegister("two", "a process that was started anew, for all that is known")
	if err := register("one"); reason(err) != "DUPLICATE_ID" || !strings.Contains(err.Error(), "give one of them another SIDECAR_ID") {
		t.Fatalf("the first comes back while the other one is alive: %v", err)
	}
	mustRegister("two", "who has the id, whose session ended")
	for i := range 5 {
		mustRegister(fmt.Sprint("start", i), "who is started again and again")
	}
	if err := register("two"); reason(err) != "DUPLICATE_ID" {
		t.Fatalf("one that was superseded long ago: %v", err)
	}
}

func TestSession_ASidecarWhoseIDAnotherOneTookHasItAgainWhenThatOneIsSilent(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SessionTTL, cfg.Heartbeat = 5*time.Second, 500*time.Millisecond
	n := start(t, cfg)
	register := func(instance string) error {
		_, err := n.coord.Register(t.Context(), &controlv1.RegisterRequest{SidecarId: "a", Address: instance + ":9091", HostName: "host", Instance: instance, Endpoints: both})
		return err
	}
	for _, instance := range []string{"one", "two"} {
		if err := register(instance); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() string {
		if err := register("one"); err != nil {
			return err.Error()
		}
		return ""
	})
	if err := register("two"); reason(err) != "DUPLICATE_ID" {
		t.Errorf("the other one comes back now: %v", err)
	}
}
