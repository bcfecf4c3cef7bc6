package lifecycle_test

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/internal/lifecycle"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("os/signal.loop")) }

func TestSignals_FirstDrainsSecondExits(t *testing.T) {
	exits := make(chan int, 1)
	ctx, stop := lifecycle.Signals(t.Context(), func(code int) { exits <- code })
	defer stop()
	if got := lifecycle.SignalExitCode(ctx); got != 0 {
		t.Errorf("exit code before any signal = %d", got)
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Minute):
		t.Fatal("the first signal did not end the context")
	}
	var cause *lifecycle.SignalError
	if !errors.As(context.Cause(ctx), &cause) || cause.Signal != os.Interrupt {
		t.Errorf("cause = %v", context.Cause(ctx))
	}
	if got := lifecycle.SignalExitCode(ctx); got != 130 {
		t.Errorf("exit code = %d, want 130", got)
	}
	if len(exits) != 0 {
		t.Fatal("the first signal exited")
	}
	if err := self.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-exits:
		if code != 143 {
			t.Errorf("exit(%d), want 143", code)
		}
	case <-time.After(time.Minute):
		t.Fatal("the second signal did not exit")
	}
}

func TestSignals_StopEndsQuietly(t *testing.T) {
	ctx, stop := lifecycle.Signals(t.Context(), func(int) { t.Error("exit called") })
	stop()
	stop()
	if ctx.Err() == nil || lifecycle.SignalExitCode(ctx) != 0 {
		t.Errorf("after stop: %v", context.Cause(ctx))
	}
}
