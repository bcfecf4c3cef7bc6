package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/demo"
	"github.com/conveyor-etl/conveyor/cli/internal/embed"
	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/cli/internal/view"
	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/internal/version"
)

const (
	defaultPort = 50051
	// portsTried is how many ports are tried when the first is taken.
	portsTried = 50
)

type devFlags struct {
	files  fileFlags
	noDemo bool
	data   string
	port   int
	nodes  int
	format output.Format
}

// DevStatus says where the parts of a dev server are.
type DevStatus struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	PID        int    `json:"pid"`
	Version    string `json:"version"`
	// Server is what --server takes.
	Server    string          `json:"server"`
	Addresses embed.Addresses `json:"addresses"`
	// Routers are processes of their own; there are none when the router runs in this process.
	Routers []DevRouter `json:"routers,omitempty"`
	DataDir string      `json:"dataDir"`
	// Temporary data is removed at the end.
	Temporary bool     `json:"temporary"`
	Pipelines []string `json:"pipelines"`
}

func (a *app) devCommand() *cobra.Command {
	var f devFlags
	cmd := &cobra.Command{
		Use:     "dev",
		GroupID: groupHere,
		Short:   "Run everything in one process, to try and to develop",
		Long: `Run a router, a sidecar and all connectors in one process, with a demo pipeline
unless -f or --no-demo is given. Other commands work against it. Not for
production. With --nodes the routers are processes of their own: kill one, look
at the pipeline going on, and start it again with ` + "`conveyor dev start`" + `.

The first Ctrl-C finishes what is in flight, the second ends at once.`,
		Example: `  conveyor dev
  conveyor dev -f pipelines/ --data ./dev-data
  conveyor dev --no-demo -o json
  conveyor dev --nodes 3`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dev(cmd, &f) },
	}
	f.files.add(cmd)
	addOutput(cmd, &f.format)
	cmd.Flags().BoolVar(&f.noDemo, "no-demo", false, "run no demo pipeline")
	cmd.Flags().StringVar(&f.data, "data", "", "keep the data in `DIR` (default a temporary one, removed at the end)")
	cmd.Flags().IntVar(&f.port, "port", defaultPort, "`PORT` of the API; the next free one when it is taken")
	cmd.Flags().IntVar(&f.nodes, "nodes", 1, "how many routers: 1, 3 or 5")
	cmd.AddCommand(a.devStartCommand(), a.devRoutersCommand(), a.devRouterCommand())
	return cmd
}

func (a *app) dev(cmd *cobra.Command, f *devFlags) (err error) {
	if f.port < 0 || f.port > 65535 {
		return usage(cmd, "--port %d is not a port", f.port)
	}
	if f.nodes != 1 && f.nodes != 3 && f.nodes != 5 {
		return usage(cmd, "--nodes %d: want 1, 3 or 5; a cluster of an even number survives no more losses than one of a router less", f.nodes)
	}
	set := &dsl.Set{}
	if len(f.files.paths) > 0 {
		if set, err = a.load(cmd, f.files, dsl.Warning); err != nil {
			return err
		}
		if err := a.stdinOnce(f.files, set); err != nil {
			return err
		}
	}
	ctx := cmd.Context()
	dir, temporary := f.data, f.data == ""
	if temporary {
		if dir, err = os.MkdirTemp("", "conveyor-dev-"); err != nil {
			return fmt.Errorf("make a temporary data directory: %w", err)
		}
		a.env.left.add(dir)
		defer func() { err = first(err, os.RemoveAll(dir)) }()
	}
	cfg := embed.Config{DataDir: dir, Stdin: a.env.Stdin, Stdout: a.env.Stdout, Logger: a.logger()}
	var cluster *devCluster
	if f.nodes > 1 {
		if cluster, err = a.startCluster(ctx, f, dir); err != nil {
			return err
		}
		defer func() { err = first(err, cluster.close()) }()
		cfg.Routers = cluster.routers.Addresses()
	} else if err := checkDevDir(dir); err != nil {
		return err
	} else if cfg.Listener, err = listenFrom(ctx, f.port); err != nil {
		return err
	}
	sys, err := embed.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = first(err, sys.Close()) }()
	resources := inOrder(set)
	if len(f.files.paths) == 0 && !f.noDemo {
		if resources, err = demo.Manifests(demoFile(dir)); err != nil {
			return err
		}
	}
	if err := a.startDev(ctx, sys, resources); err != nil {
		return err
	}
	status, err := devStatus(ctx, sys, dir, temporary)
	if err != nil {
		return err
	}
	status.Routers = cluster.list()
	if f.format.Table() {
		a.banner(status, f, len(f.files.paths) == 0 && !f.noDemo)
	} else if err := f.format.Print(a.env.Stdout, status, pipelineNames(status.Pipelines)); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case err := <-sys.Failed():
		return err
	}
	say(a.env.Stderr, "finishing what is in flight; Ctrl-C again ends at once")
	stopped := sys.StopData()
	return first(a.devSummary(context.WithoutCancel(ctx), sys.Client()), stopped)
}

func (a *app) startDev(ctx context.Context, sys *embed.System, resources []*dsl.Resource) error {
	if len(resources) > 0 {
		applied, err := sys.Client().Apply(ctx, resources, client.ApplyOptions{})
		if err != nil {
			return err
		}
		for _, r := range applied {
			for _, w := range r.Warnings {
				a.warn("%s", output.Clean(w))
			}
		}
	}
	return sys.StartData(ctx)
}

// checkDevDir refuses a directory of several routers: what it holds would not be found.
func checkDevDir(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "router-1")); err == nil {
		return &fault{exit: exitFailed, code: "WRONG_DATA", err: fmt.Errorf("%s was made with several routers", dir), fix: "give --nodes as it was then, or another --data"}
	}
	return nil
}

func demoFile(dir string) string {
	path := filepath.Join(dir, "demo.ndjson")
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// listenFrom opens a port of loopback, or one of the next when it is taken.
func listenFrom(ctx context.Context, port int) (net.Listener, error) {
	var lc net.ListenConfig
	for try := port; ; try++ {
		lis, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(try)))
		switch {
		case err == nil:
			return lis, nil
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("open port %d: %w", try, err)
		case try-port >= portsTried || try == 65535:
			return nil, &fault{
				exit: exitFailed, code: "PORT_TAKEN", err: fmt.Errorf("the ports %d to %d are taken", port, try), fix: "choose another with --port",
			}
		}
	}
}

func devStatus(ctx context.Context, sys *embed.System, dir string, temporary bool) (*DevStatus, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", dir, err)
	}
	s := &DevStatus{
		APIVersion: dsl.APIVersion, Kind: "DevStatus", PID: os.Getpid(), Version: version.String(),
		Addresses: sys.Addresses(), DataDir: abs, Temporary: temporary, Pipelines: []string{},
	}
	s.Server = s.Addresses.API
	pipelines, _, err := sys.Client().List(ctx, dsl.KindPipeline, "")
	if err != nil {
		return nil, err
	}
	for _, p := range pipelines {
		s.Pipelines = append(s.Pipelines, p.GetNamespace()+"/"+p.GetName())
	}
	return s, nil
}

func pipelineNames(pipelines []string) []string {
	var out []string
	for _, p := range pipelines {
		_, name, _ := strings.Cut(p, "/")
		out = append(out, "pipeline/"+name)
	}
	return out
}

func (a *app) banner(s *DevStatus, f *devFlags, withDemo bool) {
	w := a.env.Stdout
	line := func(name, format string, args ...any) { say(w, "  %-8s %s", name, fmt.Sprintf(format, args...)) }
	if len(s.Routers) > 0 {
		say(w, "%s: %d routers, sidecar and connectors, not for production", a.out.Bold("Conveyor dev "+s.Version), len(s.Routers))
	} else {
		say(w, "%s: router, sidecar and connectors in one process, not for production", a.out.Bold("Conveyor dev "+s.Version))
	}
	note, server := "", ""
	if len(s.Routers) > 0 {
		for _, r := range s.Routers {
			line(r.Name, "process %d, %s, log %s", r.PID, r.Address, r.Log)
		}
	} else if _, port, _ := net.SplitHostPort(s.Server); port != strconv.Itoa(defaultPort) {
		server = " --server " + s.Server
		if port != strconv.Itoa(f.port) && f.port != 0 {
			note = fmt.Sprintf("  (port %d was taken)", f.port)
		}
	}
	if len(s.Routers) == 0 {
		line("api", "%s%s", s.Server, note)
		line("metrics", "http://%s/metrics (router), http://%s/metrics (sidecar)", s.Addresses.RouterMetrics, s.Addresses.SidecarMetrics)
	} else {
		line("metrics", "http://%s/metrics (%s), http://%s/metrics (sidecar)", s.Routers[0].Metrics, s.Routers[0].Name, s.Addresses.SidecarMetrics)
	}
	if s.Temporary {
		line("data", "%s  (removed at the end)", s.DataDir)
	} else {
		line("data", "%s", s.DataDir)
	}
	if withDemo {
		line("demo", "users -> active -> score -> file; one record in 100 fails on purpose")
		line("", "%s.partial", demoFile(s.DataDir))
	}
	if len(s.Routers) > 0 {
		line("use", "export CONVEYOR_SERVER=%s", s.Server)
		second := s.Routers[1]
		line("lose", "kill -9 %d", second.PID)
		line("", "conveyor cluster status%s", server)
		line("", "conveyor dev start %s", second.Name)
	}
	line("try", "conveyor get pipelines%s", server)
	if withDemo {
		line("", "conveyor describe pipeline %s%s", demo.Pipeline, server)
	}
	line("", "conveyor dlq ls%s", server)
	line("", "conveyor apply -f FILE%s", server)
	line("stop", "Ctrl-C")
}

// devSummary says what the pipelines did.
func (a *app) devSummary(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ns := &namespaceFlags{all: true}
	objects, _, err := fetch(ctx, c, []target{{kind: dsl.KindPipeline}}, ns)
	if err != nil || len(objects) == 0 {
		return err
	}
	var rows [][]string
	for _, o := range objects {
		if s, ok := o.Status.(*view.PipelineStatus); ok && s.Counts != nil {
			rows = append(rows, append([]string{view.Ref(o.Metadata.Namespace, o.Metadata.Name, dsl.DefaultNamespace)}, countCells(*s.Counts)...))
		}
	}
	return output.Table(a.env.Stderr, append([]string{"PIPELINE"}, countColumns...), rows)
}
