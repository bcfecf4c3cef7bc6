package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// ReplayResult says what became of the letters of a replay.
type ReplayResult struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Selected   uint64 `json:"selected"`
	// Settled records took their way, and their letters are gone.
	Settled uint64 `json:"settled"`
	// FailedAgain records have newer letters.
	FailedAgain uint64          `json:"failedAgain"`
	Problems    []ReplayProblem `json:"problems"`
}

// ReplayProblem is a letter that could not be replayed and stays.
type ReplayProblem struct {
	ID      uint64 `json:"id"`
	Message string `json:"message"`
}

func (a *app) dlqReplayCommand() *cobra.Command {
	var store letterStore
	var filter letterFilter
	var files fileFlags
	var format output.Format
	var all bool
	cmd := &cobra.Command{
		Use:   "replay ID... | -p PIPELINE | --all",
		Short: "Put the records of dead letters back into the stages at which they failed",
		Long: `Put the records of dead letters back into the stages at which they failed. A
letter goes only when its record has settled; a record that fails again has a
new letter. With --data the pipelines of -f run here for as long as that takes.`,
		Example: `  conveyor dlq replay 7 8
  conveyor dlq replay -p orders
  conveyor dlq replay --all --data ./.conveyor -f pipelines/`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			want, err := filter.selection(cmd, args, all)
			if err != nil {
				return err
			}
			c, r, closeStore, err := a.openForReplay(cmd, store, files)
			if err != nil {
				return err
			}
			defer func() { err = first(err, closeStore()) }()
			return a.replay(cmd.Context(), c, want, r, &format)
		},
	}
	store.add(cmd)
	filter.add(cmd)
	files.add(cmd)
	addOutput(cmd, &format)
	cmd.Flags().BoolVar(&all, "all", false, "all letters of the namespace, or with -A of all namespaces")
	return cmd
}

// openForReplay returns the client, the runner of the pipelines here (nil on a server), and what ends it all.
func (a *app) openForReplay(cmd *cobra.Command, store letterStore, files fileFlags) (c *client.Client, r *runner, end func() error, err error) {
	if store.data == "" {
		if len(files.paths) > 0 {
			return nil, nil, nil, usage(cmd, "-f belongs to --data; a server has its own manifests")
		}
		c, end, err = a.openStore(cmd.Context(), store)
		return c, nil, end, err
	}
	if len(files.paths) == 0 {
		err := usage(cmd, "a replay from a data directory runs the pipelines here, and needs their manifests")
		err.fix = "add -f with the manifests of the run"
		return nil, nil, nil, err
	}
	set, err := a.load(cmd, files, dsl.Error)
	if err != nil {
		return nil, nil, nil, err
	}
	sys, err := a.openData(cmd.Context(), store.data)
	if err != nil {
		return nil, nil, nil, err
	}
	r = &runner{app: a, client: sys.Client(), data: store.data}
	if err = r.takeUp(cmd.Context(), set); err == nil {
		err = sys.StartData(cmd.Context())
	}
	if err != nil {
		return nil, nil, nil, errors.Join(err, sys.Close())
	}
	return sys.Client(), r, func() error {
		// Sinks finish their files when the pipelines complete once more.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), finishTimeout)
		defer cancel()
		return errors.Join(r.awaitCompleted(ctx), sys.Close())
	}, nil
}

const (
	// finishTimeout bounds how long a replay waits for pipelines to complete once more.
	finishTimeout = time.Minute
	// chaseFor is how long letters are tried again whose pipeline had completed, or had not begun, when they had their turn.
	chaseFor = 15 * time.Second
	// chasePause is between two such tries.
	chasePause = 50 * time.Millisecond
)

// replay replays the letters. Where the pipelines run here, they complete as soon as their sources have nothing more, perhaps before all letters had
// their turn: r opens them again then.
func (a *app) replay(ctx context.Context, c *client.Client, want *controlv1.LetterFilter, r *runner, format *output.Format) error {
	res := ReplayResult{APIVersion: dsl.APIVersion, Kind: "ReplayResult"}
	selection, begun := want, time.Now()
	for round := 0; ; round++ {
		if r != nil {
			if err := r.reopen(ctx, false); err != nil {
				return err
			}
		}
		once, err := a.replayOnce(ctx, c, selection)
		if err != nil {
			return err
		}
		if round == 0 {
			res.Selected = once.Selected
		}
		res.Settled += once.Settled
		res.FailedAgain += once.FailedAgain
		res.Problems = append(res.Problems, once.Problems...)
		if r == nil || time.Since(begun) > chaseFor {
			break
		}
		if selection, res.Problems, err = r.again(ctx, res.Problems); err != nil {
			return err
		}
		if len(selection.GetIds()) == 0 {
			break
		}
		select {
		case <-time.After(chasePause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return a.reportReplay(&res, len(want.GetIds()), format)
}

func (a *app) replayOnce(ctx context.Context, c *client.Client, want *controlv1.LetterFilter) (*ReplayResult, error) {
	res := &ReplayResult{}
	p := a.newProgress()
	defer p.end()
	seen := map[uint64]bool{}
	for r, err := range c.ReplayLetters(ctx, want) {
		if err != nil {
			return nil, err
		}
		res.Selected, res.Settled, res.FailedAgain = r.GetSelected(), r.GetSettled(), r.GetFailedAgain()
		for _, problem := range r.GetProblems() {
			if !seen[problem.GetLetterId()] {
				seen[problem.GetLetterId()] = true
				res.Problems = append(res.Problems, ReplayProblem{ID: problem.GetLetterId(), Message: problem.GetMessage()})
			}
		}
		p.show(fmt.Sprintf("replaying: %d of %d settled, %d failed again", res.Settled, res.Selected, res.FailedAgain))
	}
	return res, nil
}

func (a *app) reportReplay(res *ReplayResult, named int, format *output.Format) error {
	for _, problem := range res.Problems {
		a.warn("dead letter %d stays: %s", problem.ID, output.Clean(problem.Message))
	}
	if format.Table() {
		say(a.env.Stdout, "%d of %d replayed, %d failed again, %d not tried", res.Settled, res.Selected, res.FailedAgain, len(res.Problems))
	} else {
		if res.Problems == nil {
			res.Problems = []ReplayProblem{}
		}
		if err := format.Print(a.env.Stdout, res, nil); err != nil {
			return err
		}
	}
	switch absent := named - int(res.Selected); {
	case absent > 0:
		return &fault{exit: exitFailed, code: "NOT_FOUND", err: fmt.Errorf("%d of the %d letters do not exist", absent, named)}
	case res.FailedAgain > 0:
		return &fault{
			exit: exitFailed, code: "FAILED_AGAIN", err: fmt.Errorf("%s failed again, with a new letter each", plural(int(res.FailedAgain), "record")),
			fix: "`conveyor dlq ls` shows why",
		}
	case len(res.Problems) > 0:
		return &fault{exit: exitFailed, code: "NOT_REPLAYED", err: fmt.Errorf("%s could not be replayed", plural(len(res.Problems), "letter"))}
	}
	return nil
}

// DiscardResult says how many letters are gone.
type DiscardResult struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Discarded  uint64 `json:"discarded"`
}

func (a *app) dlqDiscardCommand() *cobra.Command {
	var store letterStore
	var filter letterFilter
	var format output.Format
	var all, yes bool
	cmd := &cobra.Command{
		Use:   "discard ID... | -p PIPELINE | --all",
		Short: "Remove dead letters for good",
		Example: `  conveyor dlq discard 7 8
  conveyor dlq discard -p orders --code INVALID_JSON --yes`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			want, err := filter.selection(cmd, args, all)
			if err != nil {
				return err
			}
			if err := a.canConfirm(cmd, yes, "dead letters are removed for good"); err != nil {
				return err
			}
			c, closeStore, err := a.openStore(cmd.Context(), store)
			if err != nil {
				return err
			}
			defer func() { err = first(err, closeStore()) }()
			if !yes {
				if err := a.confirmDiscard(cmd.Context(), c, want); err != nil {
					return err
				}
			}
			n, err := c.DiscardLetters(cmd.Context(), want)
			if err != nil {
				return err
			}
			if format.Table() {
				say(a.env.Stdout, "%s discarded", plural(int(n), "dead letter"))
			} else if err := format.Print(a.env.Stdout, DiscardResult{dsl.APIVersion, "DiscardResult", n}, nil); err != nil {
				return err
			}
			if absent := len(want.GetIds()) - int(n); absent > 0 {
				return &fault{exit: exitFailed, code: "NOT_FOUND", err: fmt.Errorf("%d of the %d letters do not exist", absent, len(want.GetIds()))}
			}
			return nil
		},
	}
	store.add(cmd)
	filter.add(cmd)
	addOutput(cmd, &format)
	cmd.Flags().BoolVar(&all, "all", false, "all letters of the namespace, or with -A of all namespaces")
	addYes(cmd, &yes)
	return cmd
}

func (a *app) confirmDiscard(ctx context.Context, c *client.Client, want *controlv1.LetterFilter) error {
	n := len(want.GetIds())
	if n == 0 {
		for _, err := range c.Letters(ctx, want, 0) {
			if err != nil {
				return err
			}
			n++
		}
	}
	return a.confirm(ctx, fmt.Sprintf("Remove %s for good?", plural(n, "dead letter")), "nothing was removed")
}
