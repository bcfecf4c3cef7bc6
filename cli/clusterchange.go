package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

// catchUpPoll is how often is asked whether a new router has caught up.
const catchUpPoll = 250 * time.Millisecond

func (a *app) clusterAddCommand() *cobra.Command {
	var server serverFlags
	var learner bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "add HOST:PORT",
		Short: "Add a router that runs with an empty data directory",
		Long: `Add a router. Start it first, with an empty data directory, a RAFT_NODE_ID of
its own, and RAFT_PEERS listing the cluster and itself, as NUMBER=HOST:PORT,...
where numbers are left out. It becomes a learner, which receives the state, and
gets its vote when it has caught up. The command ends when the dead letters have
all their copies again.

A router whose disk was replaced is a new one: remove the old one, then add it.`,
		Example: `  conveyor cluster add router-4.example:50051`,
		Args:    exactlyOne("the address of the new router"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if host, port, err := net.SplitHostPort(args[0]); err != nil || host == "" {
				return usage(cmd, "%q is not an address: want HOST:PORT, such as router-4.example:50051", args[0])
			} else if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
				return usage(cmd, "%q is not an address: the port must be a number from 1 to 65535", args[0])
			}
			c, err := a.dial(cmd.Context(), server)
			if err != nil {
				return err
			}
			defer c.Close()
			before, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			added, err := c.AddRouter(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			member := func(s *controlv1.ClusterServer) bool { return s.GetId() == added.GetId() }
			switch {
			case added.GetVoter():
			case slices.ContainsFunc(before.GetServers(), member):
				say(a.env.Stdout, "router/%s is a learner already", added.GetId())
			default:
				say(a.env.Stdout, "router/%s added as a learner", added.GetId())
			}
			if learner {
				return nil
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err := a.promote(ctx, c, added.GetId()); err != nil {
				if cmd.Context().Err() == nil && ctx.Err() != nil {
					return &fault{
						exit: exitFailed, code: "TIMEOUT", err: fmt.Errorf("router %s has not caught up within %v and stays a learner: %w", added.GetId(), timeout, err),
						fix: "run the same command again to go on waiting",
					}
				}
				return err
			}
			say(a.env.Stdout, "router/%s votes", added.GetId())
			return a.awaitCopies(ctx, c, timeout)
		},
	}
	server.add(cmd)
	cmd.Flags().BoolVar(&learner, "learner", false, "leave it a learner, without a vote")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait until it has caught up")
	return cmd
}

// promote gives a learner its vote as soon as it has caught up. The error is the last answer.
func (a *app) promote(ctx context.Context, c *client.Client, id string) error {
	p := a.newProgress()
	defer p.end()
	for {
		err := c.PromoteRouter(ctx, id)
		// Another change to the members may have come first; the next try is made of the new list.
		if err == nil || !errors.Is(err, client.ErrLagging) && !errors.Is(err, client.ErrConflict) {
			return err
		}
		p.show(fmt.Sprintf("waiting until router/%s has caught up: %s", id, output.Clean(err.Error())))
		select {
		case <-ctx.Done():
			return err
		case <-time.After(catchUpPoll):
		}
	}
}

// awaitCopies waits until every dead letter has all its copies at members: until then one router more can be lost only with letters.
func (a *app) awaitCopies(ctx context.Context, c *client.Client, timeout time.Duration) error {
	p := a.newProgress()
	defer p.end()
	for problem := ""; ; {
		info, err := c.Cluster(ctx)
		if err == nil && info.GetLetterCopiesProblem() == "" {
			return nil
		}
		why := err
		if err == nil {
			problem = info.GetLetterCopiesProblem()
			why = errors.New(problem)
		}
		p.show(fmt.Sprintf("waiting until the dead letters have all their copies: %s", output.Clean(why.Error())))
		select {
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) || problem == "" {
				return cmp.Or(err, ctx.Err())
			}
			return &fault{
				exit: exitFailed, code: "TIMEOUT", err: fmt.Errorf("the members are changed, but not all dead letters have their copies after %v: %s", timeout, problem),
				fix: "lose no other router until `conveyor cluster status` shows no problem with the copies",
			}
		case <-time.After(catchUpPoll):
		}
	}
}

func (a *app) clusterRemoveCommand() *cobra.Command {
	var server serverFlags
	var force bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a router for good",
		Long: `Remove a router. ID is its id or its RAFT_NODE_ID. It is refused while those
that would be left are no majority that answers. A leader hands over first. The
command ends when the dead letters have all their copies at those left. With
its data directory a removed router does not come back; with an empty one it can
be added anew.`,
		Example: `  conveyor cluster remove 4`,
		Args:    exactlyOne("the id of a router"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(cmd.Context(), server)
			if err != nil {
				return err
			}
			defer c.Close()
			info, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			s, err := findRouter(info, args[0])
			if err != nil {
				return err
			}
			if err := c.RemoveRouter(cmd.Context(), s.GetId(), force); err != nil {
				return err
			}
			say(a.env.Stdout, "router/%s removed", s.GetId())
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			err = a.awaitCopies(ctx, c, timeout)
			say(a.env.Stderr, "stop the router at %s and empty its data directory: with what it holds it cannot come back", s.GetAddress())
			return err
		},
	}
	server.add(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "also when those that are left are no majority that answers")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait until the dead letters have all their copies")
	return cmd
}

func (a *app) clusterTransferCommand() *cobra.Command {
	var server serverFlags
	cmd := &cobra.Command{
		Use:   "transfer-leader [ID]",
		Short: "Let another router lead",
		Long: `Let another router lead: the one with this id or RAFT_NODE_ID, or the one that
is best up to date.`,
		Example: `  conveyor cluster transfer-leader
  conveyor cluster transfer-leader 2`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, "want at most one id, got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(cmd.Context(), server)
			if err != nil {
				return err
			}
			defer c.Close()
			to := ""
			if len(args) == 1 {
				info, err := c.Cluster(cmd.Context())
				if err != nil {
					return err
				}
				s, err := findRouter(info, args[0])
				if err != nil {
					return err
				}
				if !s.GetVoter() {
					return &fault{
						exit: exitFailed, code: "CONFLICT", err: fmt.Errorf("router %s is a learner, and only a router with a vote can lead", s.GetId()),
						fix: fmt.Sprintf("`conveyor cluster add %s` gives it its vote", s.GetAddress()),
					}
				}
				to = s.GetId()
			}
			leader, err := c.TransferLeadership(cmd.Context(), to)
			if err != nil {
				return err
			}
			say(a.env.Stdout, "router/%s leads", leader)
			return nil
		},
	}
	server.add(cmd)
	return cmd
}
