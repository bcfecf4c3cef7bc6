package cli

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/router"
)

func (a *app) clusterRecoverCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "recover DIR",
		Short: "Make a new cluster of one router when the majority is lost for good",
		Long: `Make a new cluster of what one router has, when so many of the others are lost
for good that no majority can come back. Run it on the machine of the router
that has come furthest, while that router does not run; DIR is its data
directory. It shows how far that is, and asks: of several routers, take the one
of the highest term, and among those of one term the one of the highest index.
Nothing is sent anywhere.

What only the lost routers had is gone: changes of the last moments, and dead
letters of which this router has no copy. Sidecars take their stages anew, and
records since the last checkpoint that it knows of are written again. The old
log stays beside the new one.

Start the router afterwards as before, and give it others, which begin with
empty data directories, by ` + "`conveyor cluster add`" + `: with what they hold the
routers of the lost cluster never come back.`,
		Example: `  conveyor cluster recover /var/lib/conveyor`,
		Args:    exactlyOne("the data directory of a router"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := a.canConfirm(cmd, yes, "what only the other routers have is given up for good"); err != nil {
				return err
			}
			lost, err := router.OpenLost(cmd.Context(), args[0])
			if errors.Is(err, router.ErrNoRouter) {
				return &fault{exit: exitFailed, code: "NO_DATA", err: err, fix: "name the DATA_DIR of the router that is left"}
			}
			if errors.Is(err, router.ErrNotLost) {
				return &fault{exit: exitFailed, code: "NOT_LOST", err: err, fix: "start it"}
			}
			if err != nil {
				return err
			}
			defer func() { err = first(err, lost.Close()) }()
			describeLost(a.env.Stderr, lost)
			if !yes {
				otherwise := "nothing was changed"
				if lost.Begun {
					otherwise = "nothing more was changed; the router does not start before the recovery has ended"
				}
				if err := a.confirm(cmd.Context(), "Give up what only the others have, for good?", otherwise); err != nil {
					return err
				}
			}
			if err := lost.Recover(cmd.Context()); err != nil {
				return err
			}
			say(a.env.Stdout, "recovered: the router at %s is a cluster of its own when it starts; the old log is in %s", lost.Address, lost.Kept)
			return nil
		},
	}
	addYes(cmd, &yes)
	return cmd
}

func describeLost(w io.Writer, lost *router.Lost) {
	if lost.Begun {
		say(w, "a recovery of router %s of cluster %s was interrupted, and is to be finished", lost.Router, lost.Cluster)
		return
	}
	say(w, "router %s has cluster %s up to term %d, index %d, with %s", lost.Router, lost.Cluster, lost.Term, lost.Index, plural(lost.Pipelines, "pipeline"))
	if !lost.Letters {
		say(w, "it has no copy of the dead letters: all of them are lost here, unless there were none")
	}
	for _, m := range lost.Members {
		if m.ID != lost.Router {
			say(w, "router %s at %s must be lost, and never start again with what it holds", output.Clean(m.ID), output.Clean(m.Address))
		}
	}
}
