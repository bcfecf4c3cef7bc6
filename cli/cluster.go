package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/cli/internal/view"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

func (a *app) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cluster",
		GroupID: groupServer,
		Short:   "Look at the routers, add and remove them",
		Long: `Several routers keep the pipelines together: while a majority of them runs and
reaches each other, any of them may be lost.`,
		Example: `  conveyor cluster status
  conveyor cluster add router-4.example:50051`,
		Args: groupArgs,
		RunE: showHelp,
	}
	cmd.AddCommand(a.clusterInitCommand(), a.clusterStatusCommand(), a.clusterMembersCommand(), a.clusterAddCommand(), a.clusterRemoveCommand(), a.clusterTransferCommand(), a.clusterRecoverCommand())
	return cmd
}

func (a *app) clusterStatusCommand() *cobra.Command {
	var server serverFlags
	var format output.Format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the routers do",
		Long: `Show how the routers do, as the leader sees it. Without a leader there is no
answer; --stale shows what the router that is reached knows by itself.`,
		Example: `  conveyor cluster status
  conveyor cluster status --stale`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.cluster(cmd.Context(), &server)
			if err != nil {
				return err
			}
			if !format.Table() {
				return format.Print(a.env.Stdout, o, []string{o.TypeName()})
			}
			describeCluster(a.env.Stdout, o)
			return routerTable(a.env.Stdout, o, format.Wide())
		},
	}
	server.addReading(cmd)
	addOutput(cmd, &format)
	return cmd
}

func (a *app) clusterMembersCommand() *cobra.Command {
	var server serverFlags
	var format output.Format
	cmd := &cobra.Command{
		Use:     "members",
		Short:   "List the routers of the cluster",
		Example: `  conveyor cluster members -o json`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.cluster(cmd.Context(), &server)
			if err != nil {
				return err
			}
			if format.Table() {
				return routerTable(a.env.Stdout, o, format.Wide())
			}
			routers := o.Status.(*view.ClusterStatus).Routers
			var names []string
			for _, r := range routers {
				names = append(names, r.TypeName())
			}
			return format.Print(a.env.Stdout, view.NewList(view.KindRouter, routers), names)
		},
	}
	server.addReading(cmd)
	addOutput(cmd, &format)
	return cmd
}

// cluster asks how the routers do.
func (a *app) cluster(ctx context.Context, server *serverFlags) (*view.Object, error) {
	c, err := a.dial(ctx, *server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	info, err := c.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	return view.Cluster(info), nil
}

func describeCluster(w io.Writer, o *view.Object) {
	s := o.Status.(*view.ClusterStatus)
	field(w, "Cluster", o.Metadata.Name)
	leader := s.Leader
	if leader == "" {
		leader = "none is known"
	}
	field(w, "Leader", leader)
	if s.Answering != nil {
		field(w, "Quorum", fmt.Sprintf("%d of %d voters answer, %d are needed", *s.Answering, s.Voters, s.Needed))
	} else {
		field(w, "Quorum", fmt.Sprintf("%d of %d voters are needed; nobody was asked", s.Needed, s.Voters))
	}
	if s.FeatureLevel > 0 {
		field(w, "Features", "level "+strconv.FormatUint(uint64(s.FeatureLevel), 10))
	}
	letters := "- (only the router that leads knows them)"
	switch {
	case s.DeadLetterProblem != "":
		letters = output.Clean(s.DeadLetterProblem)
	case s.DeadLetters != nil:
		letters = output.Count(*s.DeadLetters)
	}
	field(w, "Dead letters", letters)
	if s.LetterCopiesProblem != "" && s.DeadLetterProblem == "" {
		field(w, "Copies", output.Clean(s.LetterCopiesProblem))
	}
	say(w, "")
}

func routerTable(w io.Writer, o *view.Object, wide bool) error {
	s := o.Status.(*view.ClusterStatus)
	header := []string{"ID", "ROLE", "ADDRESS", "APPLIED", "LAG", "STATE"}
	if wide {
		header = append(header, "VERSION")
	}
	var rows [][]string
	for _, r := range s.Routers {
		st := r.Status.(*view.RouterStatus)
		state, applied, lag := "answers", "", ""
		if st.AppliedIndex != nil && st.Lag != nil {
			applied, lag = fmt.Sprint(*st.AppliedIndex), fmt.Sprint(*st.Lag)
		}
		switch {
		case s.Staleness != nil:
			state = "not asked"
		case st.Problem != "":
			state = st.Problem
			if !wide {
				state = output.Cut(output.Cause(state), 60)
			}
		}
		row := []string{r.Metadata.Name, st.Role, st.Address, applied, lag, state}
		if wide {
			row = append(row, st.Version)
		}
		rows = append(rows, row)
	}
	return output.Table(w, header, rows)
}

// findRouter finds a member by its id, or by its number when that is of one member only.
func findRouter(info *controlv1.GetClusterResponse, name string) (*controlv1.ClusterServer, error) {
	var found []*controlv1.ClusterServer
	var ids []string
	for _, s := range info.GetServers() {
		if s.GetId() == name {
			return s, nil
		}
		if view.RouterNumber(s.GetId()) == name {
			found = append(found, s)
		}
		ids = append(ids, s.GetId())
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, &fault{
			exit: exitFailed, code: "NOT_FOUND", err: fmt.Errorf("router %s is not a member of the cluster; members are %s", name, strings.Join(ids, ", ")),
			fix: "`conveyor cluster members` lists them",
		}
	}
	return nil, &fault{exit: exitFailed, code: "AMBIGUOUS", err: fmt.Errorf("several members have the number %s", name), fix: "give the whole id of one, as `conveyor cluster members` shows it"}
}
