package control_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/sidecar/internal/control"
	"github.com/conveyor-etl/conveyor/sidecar/internal/routertest"
)

// kept is a journal in memory.
type kept struct {
	mu  sync.Mutex
	all control.Remembered
}

func (k *kept) Record(r *controlv1.RegisterResponse, d *controlv1.WatchAssignmentsResponse) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = control.Remembered{Registration: r, Desired: d}
	return nil
}

func (k *kept) remembered() *control.Remembered {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all.Desired == nil {
		return nil
	}
	return &control.Remembered{Registration: k.all.Registration, Desired: k.all.Desired}
}

// restarted runs the session of a process that remembers what an earlier one was told.
func restarted(t *testing.T, r *routertest.Router, k *kept, e *engine) (s *control.Session, kill func()) {
	t.Helper()
	c, err := client.Dial(t.Context(), []string{r.Address()}, client.WithRetryFor(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	s = control.New(control.Config{SidecarID: "s1", Address: "127.0.0.1:1", Client: c, Journal: k, Remembered: k.remembered()})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, e) }()
	kill = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		_ = c.Close()
	})
	t.Cleanup(kill)
	return s, kill
}

func TestSession_GoesOnAfterARestartWithoutARouter(t *testing.T) {
	for _, known := range []bool{true, false} {
		name := "and the router still has it"
		if !known {
			name = "and the router has ended it"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, k := routertest.Start(t), &kept{}
			r.Change(desire(3, assignment("in", 7)))
			before := newEngine()
			_, kill := restarted(t, r, k, before)
			before.next(t)
			r.Until(t, "it is acknowledged", func(s *routertest.State) bool { return len(s.Acks) > 0 })
			kill()
			r.Stop()
			after := newEngine()
			s, _ := restarted(t, r, k, after)
			if got := after.next(t); len(got) != 1 || got[0].GetEpoch().GetIndex() != 7 {
				t.Fatalf("without a router it runs %v", got)
			}
			if st := s.Status(); !st.Registered || st.Problem == nil || !st.LastAnswer.IsZero() || st.Registrations != 0 {
				t.Errorf("without a router its status is %+v", st)
			}
			if !known {
				r.EndSessions()
			}
			// Meanwhile the stage was given to it under another epoch.
			r.Change(desire(4, assignment("in", 9)))
			r.Serve(t, r.Address())
			for after.next(t)[0].GetEpoch().GetIndex() != 9 {
			}
			if got := s.Status().Registrations; (got == 0) != known {
				t.Errorf("it registered %d times", got)
			}
		})
	}
}

func TestSession_IsMadeAnewAfterARestartWhenARouterAnswers(t *testing.T) {
	r, k := routertest.Start(t), &kept{}
	r.Change(desire(3, assignment("in", 7)))
	before := newEngine()
	_, kill := restarted(t, r, k, before)
	before.next(t)
	for k.remembered() == nil {
		<-time.After(time.Millisecond)
	}
	kill()
	r.Change(desire(4, assignment("in", 9)))
	after := newEngine()
	s, _ := restarted(t, r, k, after)
	if got := after.next(t); got[0].GetEpoch().GetIndex() != 9 {
		t.Errorf("it runs %v", got)
	}
	if s.Status().Registrations != 1 {
		t.Errorf("its status is %+v", s.Status())
	}
}
