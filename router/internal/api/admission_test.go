package api_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conveyor-etl/conveyor/router/internal/api"
)

// mustBeBusy checks a refusal and returns when to come again.
func mustBeBusy(t *testing.T, err error) time.Duration {
	t.Helper()
	var reason string
	var again time.Duration
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.RetryInfo:
			again = d.GetRetryDelay().AsDuration()
		}
	}
	if status.Code(err) != codes.ResourceExhausted || reason != "BUSY" || again < time.Second || again > 3*time.Second {
		t.Errorf("got %v, reason %s, again in %v", err, reason, again)
	}
	return again
}

func TestAdmission_LetsSoManyInAndSomeWaitAndTheOthersComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := api.NewAdmission("calls", 1, 100, 2*time.Second)
		leave, err := a.Enter(t.Context(), 60)
		if err != nil {
			t.Fatal(err)
		}
		waited := make(chan func())
		go func() {
			second, err := a.Enter(t.Context(), 60)
			if err != nil {
				t.Errorf("who waits in the queue: %v", err)
			}
			waited <- second
		}()
		synctest.Wait()
		began := time.Now()
		_, err = a.Enter(t.Context(), 60)
		mustBeBusy(t, err)
		if time.Since(began) > 0 {
			t.Error("who finds the queue full waits")
		}
		leave()
		second := <-waited
		// Nobody leaves.
		_, err = a.Enter(t.Context(), 60)
		mustBeBusy(t, err)
		if got := time.Since(began); got != 2*time.Second {
			t.Errorf("it waited for %v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.Enter(ctx, 60); status.Code(err) != codes.Canceled {
			t.Errorf("who is gone: %v", err)
		}
		second()
		if leave, err = a.Enter(t.Context(), 60); err != nil || a.Waiting() != 0 {
			t.Errorf("afterwards %d bytes wait, %v", a.Waiting(), err)
		}
		leave()
	})
}

// unheard is a context that wakes nobody when it ends, as if it ended in the moment in which something else does.
type unheard struct{ context.Context }

func (unheard) Done() <-chan struct{} { return nil }

func TestAdmission_WhoIsGoneWhenItsTurnComesIsNotLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := api.NewAdmission("calls", 1, 100, 2*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.Enter(ctx, 60); status.Code(err) != codes.Canceled {
			t.Errorf("with a place free: %v", err)
		}
		leave, err := a.Enter(t.Context(), 60)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		refused := make(chan error)
		go func() {
			_, err := a.Enter(unheard{ctx}, 60)
			refused <- err
		}()
		synctest.Wait()
		cancel()
		leave()
		if err := <-refused; status.Code(err) != codes.Canceled {
			t.Errorf("who waited: %v", err)
		}
		if leave, err = a.Enter(t.Context(), 60); err != nil {
			t.Fatalf("the place is not free: %v", err)
		}
		leave()
	})
}

func TestCheckpointPause_GrowsWithTheSidecars(t *testing.T) {
	for sidecars, want := range map[int]time.Duration{
		0: 250 * time.Millisecond, 1: 250 * time.Millisecond, 125: 250 * time.Millisecond, 500: time.Second, 1000: 2 * time.Second, 10_000: 5 * time.Second,
	} {
		if got := api.CheckpointPause(sidecars); got != want {
			t.Errorf("%d sidecars: %v, want %v", sidecars, got, want)
		}
	}
}
