// Package lifecycle starts the parts of a process in order and stops them in reverse, on a signal or
// when one of them fails.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// DefaultStopTimeout is how long a component may take to stop unless it says otherwise.
const DefaultStopTimeout = 10 * time.Second

// A Component is one part of a process.
type Component struct {
	// Name says in errors and logs who it was.
	Name string
	// Start, if set, gets the component ready and returns; the next component starts after that. Its
	// context ends when the group is asked to stop.
	Start func(ctx context.Context) error
	// Run, if set, works until ctx ends, then stops gracefully and returns nil. An error stops the
	// group. Returning nil before that only says that the component has finished its work. An error
	// that is the cause of ctx's end counts as nil.
	Run func(ctx context.Context) error
	// Stop, if set, releases what Start made, after Run has returned. Its context ends with StopTimeout.
	Stop func(ctx context.Context) error
	// StopTimeout bounds the time from being asked to stop to the end of Run and Stop. Zero means
	// [DefaultStopTimeout]. A component that takes longer is named in the error and left behind.
	StopTimeout time.Duration
	// EndsGroup makes the end of Run, also without an error, stop the group: the work is done.
	EndsGroup bool
}

// A Group is an ordered list of components. The zero value is empty and ready to use; it is not safe
// for concurrent use.
type Group struct {
	// Logger receives a line at debug level for each start and stop; nil discards them.
	Logger     *slog.Logger
	components []Component
}

// Add appends components: they start after those already there and stop before them.
func (g *Group) Add(components ...Component) { g.components = append(g.components, components...) }

// running is a started component.
type running struct {
	Component
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when Run has returned
	err    error         // of Run, valid after done
}

// Run starts the components in order, and blocks until ctx ends, one of them fails, one that ends the
// group finishes, or all have finished. Then it stops those that were started in reverse order, each
// fully before the next, and returns all errors, with the names of the components, joined. A stop
// that was asked for through ctx is no error. Run may be called once.
func (g *Group) Run(ctx context.Context) error {
	log := g.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// Components get their own contexts, not descendants of ctx: they must stop one after the other,
	// not all at once.
	base := context.WithoutCancel(ctx)
	ended := make(chan *running, len(g.components))
	var started []*running
	var errs []error
	for _, c := range g.components {
		if len(errs) > 0 || ctx.Err() != nil || stopNow(started) {
			break
		}
		log.Debug("component starting", "component", c.Name)
		if c.Start != nil {
			if err := c.Start(ctx); err != nil {
				if !isCause(ctx, err) {
					errs = append(errs, fmt.Errorf("start %s: %w", c.Name, err))
				}
				break
			}
		}
		started = append(started, launch(base, c, ended))
	}
	if len(errs) == 0 && len(started) == len(g.components) {
		await(ctx, ended, started)
	}
	cause := context.Cause(ctx)
	for i := len(started) - 1; i >= 0; i-- {
		r := started[i]
		log.Debug("component stopping", "component", r.Name)
		if err := r.stop(base, cause); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func launch(base context.Context, c Component, ended chan<- *running) *running {
	ctx, cancel := context.WithCancelCause(base)
	r := &running{Component: c, cancel: cancel, done: make(chan struct{})}
	if c.Run == nil {
		close(r.done)
		return r
	}
	go func() { // ends with Run; stop waits for it
		defer func() { ended <- r }()
		defer close(r.done)
		if err := c.Run(ctx); err != nil && !isCause(ctx, err) {
			r.err = fmt.Errorf("%s: %w", c.Name, err)
		}
	}()
	return r
}

// ends reports whether the end of this component's Run is the end of the group.
func (r *running) ends() bool { return r.err != nil || r.EndsGroup }

// stopNow reports whether a component that has already ended stops the group.
func stopNow(started []*running) bool {
	for _, r := range started {
		select {
		case <-r.done:
			if r.Run != nil && r.ends() {
				return true
			}
		default:
		}
	}
	return false
}

// await blocks until the group has a reason to stop.
func await(ctx context.Context, ended <-chan *running, started []*running) {
	left := 0
	for _, r := range started {
		if r.Run != nil {
			left++
		}
	}
	for ; left > 0; left-- {
		select {
		case r := <-ended:
			if r.ends() {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// stop ends Run and then calls Stop, both within the time allowed.
func (r *running) stop(base context.Context, cause error) error {
	timeout := r.StopTimeout
	if timeout == 0 {
		timeout = DefaultStopTimeout
	}
	ctx, cancel := context.WithTimeout(base, timeout)
	defer cancel()
	r.cancel(cause)
	select {
	case <-r.done:
	case <-ctx.Done():
		return fmt.Errorf("stop %s: still running after %v", r.Name, timeout)
	}
	if r.Stop == nil {
		return r.err
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.Stop(ctx) }()
	select {
	case err := <-stopped:
		if err != nil {
			err = fmt.Errorf("stop %s: %w", r.Name, err)
		}
		return errors.Join(r.err, err)
	case <-ctx.Done():
		return errors.Join(r.err, fmt.Errorf("stop %s: still stopping after %v", r.Name, timeout))
	}
}

// isCause reports whether err only says that ctx ended.
func isCause(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx)))
}
