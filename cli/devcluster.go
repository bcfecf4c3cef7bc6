package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/devcluster"
	"github.com/conveyor-etl/conveyor/cli/internal/embed"
	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/cli/internal/view"
	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/internal/logging"
	"github.com/conveyor-etl/conveyor/internal/version"
	"github.com/conveyor-etl/conveyor/router"
)

// foundTimeout bounds how long the routers may take to found their cluster.
const foundTimeout = time.Minute

// DevRouter is one of several routers of a dev server.
type DevRouter struct {
	Name string `json:"name"`
	// PID is 0 while it does not run.
	PID     int    `json:"pid"`
	Address string `json:"address"`
	Metrics string `json:"metrics"`
	Log     string `json:"log"`
}

// devCluster is the routers of a dev server that has several, with what answers other terminals.
type devCluster struct {
	routers *devcluster.Cluster
	control *devcluster.Control
}

// startCluster starts the routers as processes of their own, and waits until they are a cluster.
func (a *app) startCluster(ctx context.Context, f *devFlags, dir string) (c *devCluster, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program, to start routers with it: %w", err)
	}
	routers, err := devcluster.Open(ctx, devcluster.Config{
		Nodes: f.nodes, FirstPort: f.port, Listen: listenFrom, DataDir: dir,
		Command: func(r devcluster.Router) *exec.Cmd { return routerCommand(self, r) },
		Ended: func(r devcluster.Router, how string) {
			say(a.env.Stderr, "%s (process %d) has ended: %s; start it again with `conveyor dev start %s`", r.Name, r.PID, how, r.Name)
		},
	})
	var known *fault
	if err != nil && ctx.Err() == nil && !errors.As(err, &known) {
		err = &fault{exit: exitFailed, code: "CLUSTER_FAILED", err: err}
	}
	if err != nil {
		return nil, err
	}
	c = &devCluster{routers: routers}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
			c = nil
		}
	}()
	if c.control, err = devcluster.Listen(ctx, routers); err != nil {
		return c, err
	}
	wait, cancel := context.WithTimeout(ctx, foundTimeout)
	defer cancel()
	cl, err := client.Dial(wait, routers.Addresses(), client.WithRetryFor(foundTimeout), client.WithUserAgent("conveyor/"+version.Get().Version))
	if err != nil {
		return c, err
	}
	defer cl.Close()
	if _, err := cl.Cluster(wait); ctx.Err() != nil {
		return c, context.Cause(ctx) // whoever ended it needs no advice
	} else if err != nil {
		return c, &fault{exit: exitFailed, code: "CLUSTER_FAILED", err: fmt.Errorf("the routers have not become a cluster: %w", err), fix: "their logs are in " + dir + "/router-*/router.log"}
	}
	return c, nil
}

func (c *devCluster) close() error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.control != nil {
		errs = append(errs, c.control.Close())
	}
	return errors.Join(append(errs, c.routers.Close())...)
}

// list is what the banner shows.
func (c *devCluster) list() []DevRouter {
	if c == nil {
		return nil
	}
	return devRouters(c.routers.Routers())
}

func devRouters(routers []devcluster.Router) []DevRouter {
	out := make([]DevRouter, len(routers))
	for i, r := range routers {
		out[i] = DevRouter{Name: r.Name, PID: r.PID, Address: r.Address, Metrics: r.Metrics, Log: r.Log}
	}
	return out
}

// routerCommand runs one router by this program's hidden command.
func routerCommand(self string, r devcluster.Router) *exec.Cmd {
	peers, _ := r.Peers.MarshalText() // never fails
	// It ends with its input, in order, and not with a context.
	//nolint:noctx // see above
	return exec.Command(self, "dev", routerProcess, "--number", strconv.Itoa(r.Number), "--peers", string(peers), "--data", r.DataDir,
		"--metrics", r.Metrics, "--dlq-port", strconv.Itoa(r.DLQPort))
}

const routerProcess = "router-process"

// devRouterCommand is what the processes of a dev cluster run. It is not for users.
func (a *app) devRouterCommand() *cobra.Command {
	cfg := router.DefaultConfig()
	var peers, metrics string
	var dlqPort int
	cmd := &cobra.Command{
		Use: routerProcess, Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.Peers.UnmarshalText([]byte(peers)); err != nil {
				return usage(cmd, "--peers %s: %v", peers, err)
			}
			ops, err := env.ParseHostPort(metrics)
			if err != nil {
				return usage(cmd, "--metrics %s: %v", metrics, err)
			}
			for _, p := range cfg.Peers {
				if p.ID == strconv.Itoa(cfg.NodeID) {
					cfg.GRPCPort = env.Port(p.Address.Port)
				}
			}
			cfg.OpsPort, cfg.DLQPort, cfg.Heartbeat = env.Port(ops.Port), env.Port(dlqPort), embed.Heartbeat
			log, err := logging.New(a.env.Stderr, "info", "text")
			if err != nil {
				return err
			}
			return a.routerProcess(cmd.Context(), cfg, log)
		},
	}
	cmd.Flags().IntVar(&cfg.NodeID, "number", 0, "")
	cmd.Flags().StringVar(&peers, "peers", "", "")
	cmd.Flags().StringVar(&cfg.DataDir, "data", "", "")
	cmd.Flags().StringVar(&metrics, "metrics", "", "")
	cmd.Flags().IntVar(&dlqPort, "dlq-port", 0, "")
	return cmd
}

// routerProcess runs a router until its standard input ends, which is when the server that started it does, however that happens.
func (a *app) routerProcess(ctx context.Context, cfg router.Config, log *slog.Logger) error {
	r, err := router.New(cfg, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the input, or with the process
		_, _ = io.Copy(io.Discard, a.env.Stdin)
		cancel()
	}()
	return r.Run(ctx)
}

// devServer finds the server that a command is for; pid 0 means the only one.
func devServer(pid int) (int, error) {
	if pid != 0 {
		return pid, nil
	}
	servers, err := devcluster.Servers()
	if err != nil {
		return 0, err
	}
	switch len(servers) {
	case 0:
		return 0, &fault{exit: exitUnreachable, code: "NO_DEV_SERVER", err: devcluster.ErrNoServer, fix: "start one with `conveyor dev --nodes 3`"}
	case 1:
		return servers[0], nil
	}
	return 0, &fault{
		exit: exitFailed, code: "AMBIGUOUS", err: fmt.Errorf("several dev servers run, as processes %s", strings.Trim(fmt.Sprint(servers), "[]")),
		fix: "name one with --pid",
	}
}

func addPID(cmd *cobra.Command, pid *int) {
	cmd.Flags().IntVar(pid, "pid", 0, "`PID` of the dev server, when several run")
}

func (a *app) devStartCommand() *cobra.Command {
	var pid int
	cmd := &cobra.Command{
		Use:     "start ROUTER",
		Short:   "Start a router again that a dev server has lost",
		Long:    "Start a router of `conveyor dev --nodes` again, after it was killed, from\nanother terminal.",
		Example: `  conveyor dev start router-2`,
		Args:    exactlyOne("the name of a router, such as router-2"),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := devServer(pid)
			if err != nil {
				return err
			}
			routers, err := devcluster.Ask(cmd.Context(), server, args[0])
			if err != nil {
				return &fault{exit: exitFailed, code: "NOT_STARTED", err: err}
			}
			for _, r := range routers {
				if r.Name == args[0] {
					say(a.env.Stdout, "%s started as process %d, at %s", r.Name, r.PID, r.Address)
				}
			}
			return nil
		},
	}
	addPID(cmd, &pid)
	return cmd
}

func (a *app) devRoutersCommand() *cobra.Command {
	var pid int
	var format output.Format
	cmd := &cobra.Command{
		Use:     "routers",
		Short:   "List the routers of a dev server and their processes",
		Long:    "List the routers of `conveyor dev --nodes` that runs in another terminal.",
		Example: `  conveyor dev routers`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := devServer(pid)
			if err != nil {
				return err
			}
			routers, err := devcluster.Ask(cmd.Context(), server, "")
			if err != nil {
				return &fault{exit: exitUnreachable, code: "NO_DEV_SERVER", err: err, fix: "start one with `conveyor dev --nodes 3`"}
			}
			if !format.Table() {
				var names []string
				for _, r := range routers {
					names = append(names, "router/"+r.Name)
				}
				return format.Print(a.env.Stdout, view.NewList("DevRouter", devRouters(routers)), names)
			}
			var rows [][]string
			for _, r := range routers {
				process := "not running"
				if r.PID != 0 {
					process = strconv.Itoa(r.PID)
				}
				rows = append(rows, []string{r.Name, process, r.Address, r.Log})
			}
			return output.Table(a.env.Stdout, []string{"NAME", "PROCESS", "ADDRESS", "LOG"}, rows)
		},
	}
	addPID(cmd, &pid)
	addOutput(cmd, &format)
	return cmd
}
