package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/embed"
	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/internal/lifecycle"
)

const (
	defaultData  = "./.conveyor"
	lookEvery    = 200 * time.Millisecond
	probeTimeout = 2 * time.Second
)

type runFlags struct {
	files        fileFlags
	data         string
	fromStart    bool
	stallTimeout time.Duration
	drainTimeout time.Duration
	failOnDead   bool
	format       output.Format
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:     "run -f FILE|DIR|-",
		GroupID: groupHere,
		Short:   "Run the pipelines of manifests here, until their sources end",
		Long: `Run the pipelines of manifests in this process until their sources are exhausted
and every record is settled: written, filtered, or in the dead letters. The
state is kept, so that the next run goes on where this one stopped, also after a
crash.

The first Ctrl-C finishes what is in flight (exit code 130), the second ends at
once.`,
		Example: `  conveyor run -f pipelines/
  conveyor run -f pipelines/ --data ./state --fail-on-dead
  conveyor run -f pipelines/ --from-start -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd, &f) },
	}
	f.files.add(cmd)
	addOutput(cmd, &f.format)
	cmd.Flags().StringVar(&f.data, "data", defaultData, "`DIR` of the state; used by one process at a time")
	cmd.Flags().BoolVar(&f.fromStart, "from-start", false, "begin anew instead of going on; sinks forget what they wrote for these pipelines")
	cmd.Flags().DurationVar(&f.stallTimeout, "stall-timeout", time.Minute, "end when a pipeline makes no progress for so long")
	cmd.Flags().DurationVar(&f.drainTimeout, "drain-timeout", 20*time.Second, "at the end, wait so long for records in flight")
	cmd.Flags().BoolVar(&f.failOnDead, "fail-on-dead", false, "exit code 1 when records went to the dead letters")
	return cmd
}

func (a *app) run(cmd *cobra.Command, f *runFlags) (err error) {
	if f.stallTimeout <= 0 {
		return usage(cmd, "--stall-timeout must be positive")
	}
	set, err := a.load(cmd, f.files, dsl.Error)
	if err != nil {
		return err
	}
	if len(set.Pipelines()) == 0 {
		return &fault{exit: exitInvalid, code: "NO_PIPELINES", err: errors.New("there is no Pipeline in the manifests")}
	}
	if err := a.stdinOnce(f.files, set); err != nil {
		return err
	}
	ctx := cmd.Context()
	sys, err := embed.Open(ctx, embed.Config{DataDir: f.data, DrainTimeout: f.drainTimeout, Stdin: a.env.Stdin, Stdout: a.env.Stdout, Logger: a.logger()})
	if err != nil {
		return fmt.Errorf("start in %s: %w", f.data, err)
	}
	defer func() { err = first(err, sys.Close()) }()

	r := &runner{app: a, client: sys.Client(), data: f.data}
	if err := r.takeUp(ctx, set); err != nil {
		return err
	}
	if err := r.reopen(ctx, f.fromStart); err != nil {
		return err
	}
	w := newWatch(r, f.stallTimeout)
	if err := sys.StartData(ctx); err != nil {
		return err
	}
	ended := a.watch(ctx, sys, w)
	if ended != nil && ctx.Err() == nil {
		// It may take a while, and the cause is known now.
		cause, _, _ := strings.Cut(ended.Error(), "\n")
		a.warn("%s", cause)
		say(a.env.Stderr, "stopping; what is in flight has %v to finish", f.drainTimeout)
	}
	stopped := sys.StopData()
	// What was still in flight has settled meanwhile.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	counted := w.recount(last)
	if err := a.printSummary(w, f); err != nil {
		return err
	}
	for _, p := range w.pipelines {
		if n := p.counts.InFlight; n > 0 {
			a.warn("pipeline %s: %s not settled; the next run reads them again", p.name, plural(int(n), "record"))
		}
	}
	return first(a.verdict(ctx, w, ended, f), stopped, counted)
}

// watch shows the progress until all pipelines are done, one of them stalls, a part fails or ctx ends.
func (a *app) watch(ctx context.Context, sys *embed.System, w *watch) error {
	p := a.newProgress()
	defer p.end()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		// An interrupt may come at any moment of a look, too.
		if err := w.look(ctx); ctx.Err() != nil {
			p.end()
			say(a.env.Stderr, "finishing what is in flight; Ctrl-C again ends at once")
			return context.Cause(ctx)
		} else if err != nil {
			return err
		}
		if w.done() {
			return nil
		}
		if i := w.stalled(); i >= 0 {
			return a.stallFault(ctx, w, i)
		}
		p.show(w.lines()...)
		select {
		case <-ctx.Done(): // the next look says so
		case err := <-sys.Failed():
			return err
		case <-tick.C:
		}
	}
}

// verdict is the error that the run ends with.
func (a *app) verdict(ctx context.Context, w *watch, ended error, f *runFlags) error {
	if code := lifecycle.SignalExitCode(ctx); code != 0 {
		return quiet{code}
	}
	if ctx.Err() != nil {
		return quiet{exitInterrupted}
	}
	if ended != nil {
		return ended
	}
	dead := uint64(0)
	for _, p := range w.pipelines {
		dead += p.counts.DeadLettered
	}
	hint := fmt.Sprintf("`conveyor dlq ls --data %s` shows why", f.data)
	if dead > 0 && f.failOnDead {
		return &fault{exit: exitFailed, code: "DEAD_LETTERS", err: fmt.Errorf("%s went to the dead letters", plural(int(dead), "record")), fix: hint}
	}
	if dead > 0 {
		a.warn("%s went to the dead letters; %s", plural(int(dead), "record"), hint)
	}
	return nil
}

// stallFault says which stage a pipeline waits for, and whether that is because a service cannot be reached.
func (a *app) stallFault(ctx context.Context, w *watch, i int) error {
	p := w.pipelines[i]
	f := &fault{
		exit: exitFailed, code: "STALLED",
		err: fmt.Errorf("pipeline %s made no progress for %v%s", p.name, w.stallTimeout, output.Clean(why(p.status))),
		fix: "run again to go on where it stopped; --stall-timeout waits longer",
	}
	var silent []string
	for _, at := range w.endpoints[i] {
		if err := reach(ctx, at.address); err != nil {
			f.exit, f.code = exitUnreachable, "UNREACHABLE"
			f.err = fmt.Errorf("%w\nthe service of stage %s cannot be reached: %w", f.err, at.stage, err)
			silent = append(silent, at.address)
		}
	}
	if len(silent) > 0 {
		f.fix = fmt.Sprintf("start the service at %s; run again to go on", strings.Join(silent, " and the one at "))
	}
	return f
}

// reach reports why nothing can be connected to at an address.
func reach(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// endpoint is the address of a stage's own service.
type endpoint struct{ stage, address string }

// endpointsOf lists the services that are not ours.
func endpointsOf(set *dsl.Set, p *dsl.Resource) []endpoint {
	g, diags := dsl.Compile(set.Lookup, p)
	if g == nil || dsl.HasErrors(diags) {
		return nil
	}
	nodes := slices.Clone(g.Nodes)
	if g.DeadLetter != nil {
		nodes = append(nodes, *g.DeadLetter)
	}
	var out []endpoint
	for _, n := range nodes {
		if n.Service != nil && n.Service.Endpoint != "" {
			out = append(out, endpoint{n.Name, n.Service.Endpoint})
		}
	}
	return out
}
