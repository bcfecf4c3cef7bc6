package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// A SignalError is the cause of a context that a signal ended.
type SignalError struct{ Signal os.Signal }

// Error names the signal.
func (e *SignalError) Error() string { return fmt.Sprintf("received signal: %v", e.Signal) }

// ExitCode is what a process ended by the signal reports: 128 and the signal's number.
func (e *SignalError) ExitCode() int {
	if s, ok := e.Signal.(syscall.Signal); ok {
		return 128 + int(s)
	}
	return 1
}

// Signals returns a context that ends, with a [*SignalError] as its cause, at the first SIGINT or
// SIGTERM: the time to drain. A second one calls exit with 128 and its number: the user does not want
// to wait. stop gives the signals back to the system and waits for the goroutine behind this; it is
// idempotent and must be called.
func Signals(parent context.Context, exit func(code int)) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for first := true; ; first = false {
			select {
			case s := <-signals:
				err := &SignalError{Signal: s}
				if first {
					cancel(err)
				} else {
					exit(err.ExitCode())
				}
			case <-quit:
				return
			}
		}
	})
	return ctx, sync.OnceFunc(func() {
		signal.Stop(signals)
		close(quit)
		wg.Wait()
		cancel(context.Canceled)
	})
}

// SignalExitCode returns 128 and the signal's number if a signal ended ctx, else 0.
func SignalExitCode(ctx context.Context) int {
	var err *SignalError
	if errors.As(context.Cause(ctx), &err) {
		return err.ExitCode()
	}
	return 0
}
