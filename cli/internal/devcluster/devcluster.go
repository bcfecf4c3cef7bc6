// Package devcluster runs the routers of a development cluster as processes of their own, so that a user can kill one and start it again.
package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/conveyor-etl/conveyor/internal/atomicfile"
	"github.com/conveyor-etl/conveyor/internal/env"
)

const (
	stopTimeout = 15 * time.Second
	logFile     = "router.log"
	portsFile   = "router-ports.json"
)

// Config says what to run.
type Config struct {
	// Nodes is how many routers.
	Nodes int
	// FirstPort is that of the first router's API; the others have the next free ones. A data directory that was used before keeps its ports: routers know each other
	// by them.
	FirstPort int
	// Listen opens a port of loopback, the given one or one of the next; 0 takes any.
	Listen func(ctx context.Context, port int) (net.Listener, error)
	// DataDir holds a directory for each router, router-1 and so on.
	DataDir string
	// Command makes the command of one router; it must end when its standard input does.
	Command func(Router) *exec.Cmd
	// Ended is called when a router ends that nobody has stopped, concurrently.
	Ended func(r Router, how string)
}

// Router is one of the cluster.
type Router struct {
	// Name is router-1 and so on, and Number its RAFT_NODE_ID.
	Name   string
	Number int
	// Address is that of its API, Metrics that of its ops port, host:port; DLQPort is where its dead-letter server meets the others.
	Address string
	Metrics string
	DLQPort int
	// DataDir is its own, and Log is the file of what it has to say.
	DataDir string
	Log     string
	// PID is 0 while it does not run.
	PID int
	// Peers are all routers of the cluster.
	Peers env.Peers
}

// Cluster is the running routers. Its methods may be called concurrently.
type Cluster struct {
	cfg Config

	mu      sync.Mutex
	routers []*process
	closed  bool
	wg      sync.WaitGroup
}

type process struct {
	Router
	stdin io.Closer
	done  chan struct{} // closed when the present process has ended
	asked bool          // to end
}

// Open chooses the ports and starts all routers. It does not wait until they answer.
func Open(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := checkDir(cfg.DataDir, cfg.Nodes); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg}
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	for _, p := range c.routers {
		if _, err := c.Start(p.Name); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// ports of one router.
type ports struct {
	API     int `json:"api"`
	Metrics int `json:"metrics"`
	DLQ     int `json:"dlq"`
}

// prepare gives every router its place.
func (c *Cluster) prepare(ctx context.Context) error {
	all, err := c.ports(ctx)
	if err != nil {
		return err
	}
	var peers env.Peers
	for i, p := range all {
		n := i + 1
		r := &process{Router: Router{
			Name: "router-" + strconv.Itoa(n), Number: n, Address: loopback(p.API), Metrics: loopback(p.Metrics), DLQPort: p.DLQ,
		}}
		r.DataDir = filepath.Join(c.cfg.DataDir, r.Name)
		r.Log = filepath.Join(r.DataDir, logFile)
		peers = append(peers, env.Peer{ID: strconv.Itoa(n), Address: env.HostPort{Host: "127.0.0.1", Port: p.API}})
		c.routers = append(c.routers, r)
	}
	for _, r := range c.routers {
		r.Peers = peers
	}
	return nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// ports are those that the data directory has kept, or free ones that it keeps from now on.
func (c *Cluster) ports(ctx context.Context) ([]ports, error) {
	path := filepath.Join(c.cfg.DataDir, portsFile)
	var kept []ports
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the ports of the routers: %w", err)
	default:
		if err := json.Unmarshal(b, &kept); err != nil || len(kept) != c.cfg.Nodes {
			return nil, fmt.Errorf("%s does not hold the ports of %d routers: move %s away to begin anew", path, c.cfg.Nodes, c.cfg.DataDir)
		}
	}
	all, err := c.choosePorts(ctx, kept)
	if err != nil {
		return nil, err
	}
	if slices.Equal(all, kept) {
		return all, nil
	}
	if b, err = json.Marshal(all); err != nil {
		return nil, fmt.Errorf("keep the ports of the routers: %w", err)
	}
	if err := os.MkdirAll(c.cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("keep the ports of the routers: %w", err)
	}
	return all, atomicfile.Write(path, b)
}

// choosePorts finds ports that are free now: those that were kept, or others for those by which routers do not know each other. Somebody else may take one before it is
// used.
func (c *Cluster) choosePorts(ctx context.Context, kept []ports) (all []ports, err error) {
	var held []net.Listener // until all are chosen, so that none is chosen twice
	defer func() {
		for _, lis := range held {
			err = errors.Join(err, lis.Close())
		}
	}()
	hold := func(lis net.Listener) int {
		held = append(held, lis)
		return lis.Addr().(*net.TCPAddr).Port
	}
	next := c.cfg.FirstPort
	for n := range c.cfg.Nodes {
		var p ports
		if kept == nil {
			lis, err := c.cfg.Listen(ctx, next)
			if err != nil {
				return nil, err
			}
			if p.API = hold(lis); next != 0 {
				next = p.API + 1
			}
		} else {
			p = kept[n]
			lis, err := listen(ctx, p.API)
			if err != nil {
				return nil, fmt.Errorf("the routers of %s know each other by their ports, and one of these is taken: %w; end who uses it, or give another --data", c.cfg.DataDir, err)
			}
			hold(lis)
		}
		for _, port := range []*int{&p.Metrics, &p.DLQ} {
			lis, err := listen(ctx, *port)
			if err != nil {
				lis, err = c.cfg.Listen(ctx, 0)
			}
			if err != nil {
				return nil, err
			}
			*port = hold(lis)
		}
		all = append(all, p)
	}
	return all, nil
}

func listen(ctx context.Context, port int) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", loopback(port))
}

// checkDir refuses a directory of another number of routers: what it holds would not be found.
func checkDir(dir string, nodes int) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the data directory: %w", err)
	}
	var there int
	for _, e := range entries {
		if e.Name() == "router" {
			return fmt.Errorf("%s was made with one router, not with %d: give another --data, or leave --nodes out", dir, nodes)
		}
		if n, ok := strings.CutPrefix(e.Name(), "router-"); ok {
			if number, err := strconv.Atoi(n); err == nil {
				there = max(there, number)
			}
		}
	}
	if there > 0 && there != nodes {
		return fmt.Errorf("%s was made with %d routers, not with %d: give --nodes %d, or another --data", dir, there, nodes, there)
	}
	return nil
}

// Start starts a router. One that runs already is an error.
func (c *Cluster) Start(name string) (r Router, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.routers, func(p *process) bool { return p.Name == name })
	if i < 0 {
		return Router{}, fmt.Errorf("there is no router %q: the routers are %s", name, strings.Join(c.names(), ", "))
	}
	p := c.routers[i]
	switch {
	case c.closed:
		return Router{}, errors.New("the cluster is stopping")
	case p.PID != 0:
		return Router{}, fmt.Errorf("%s runs already, as process %d", name, p.PID)
	}
	if err := os.MkdirAll(p.DataDir, 0o700); err != nil {
		return Router{}, fmt.Errorf("start %s: %w", name, err)
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Router{}, fmt.Errorf("start %s: %w", name, err)
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd := c.cfg.Command(p.Router)
	cmd.Stdout, cmd.Stderr = log, log
	setGroup(cmd)
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return Router{}, fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return Router{}, fmt.Errorf("start %s: %w", name, err)
	}
	p.PID, p.asked, p.done = cmd.Process.Pid, false, make(chan struct{})
	c.wg.Go(func() { c.await(p, cmd) })
	return p.Router, nil
}

func (c *Cluster) names() []string {
	var out []string
	for _, p := range c.routers {
		out = append(out, p.Name)
	}
	return out
}

func (c *Cluster) await(p *process, cmd *exec.Cmd) {
	err := cmd.Wait()
	c.mu.Lock()
	asked, was := p.asked, p.Router
	p.PID = 0
	close(p.done)
	c.mu.Unlock()
	if !asked && c.cfg.Ended != nil {
		how := "exit status 0"
		if err != nil {
			how = err.Error()
		}
		c.cfg.Ended(was, how)
	}
}

// Routers are all, running or not.
func (c *Cluster) Routers() []Router {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Router, len(c.routers))
	for i, p := range c.routers {
		out[i] = p.Router
	}
	return out
}

// Addresses are those of the API of all routers.
func (c *Cluster) Addresses() []string {
	var out []string
	for _, r := range c.Routers() {
		out = append(out, r.Address)
	}
	return out
}

// Close asks all routers to end and waits for them; one that does not is killed. It may be called again.
func (c *Cluster) Close() error {
	c.mu.Lock()
	c.closed = true
	var waiting []*process
	for _, p := range c.routers {
		if p.PID != 0 {
			p.asked = true
			p.stdin.Close() // its end is what they end at
			waiting = append(waiting, p)
		}
	}
	c.mu.Unlock()
	limit := time.After(stopTimeout)
	var errs []error
	for _, p := range waiting {
		select {
		case <-p.done:
		case <-limit:
			errs = append(errs, fmt.Errorf("%s did not end within %v and was killed", p.Name, stopTimeout), c.kill(p))
		}
	}
	c.wg.Wait()
	return errors.Join(errs...)
}

func (c *Cluster) kill(p *process) error {
	c.mu.Lock()
	pid := p.PID
	c.mu.Unlock()
	if pid == 0 {
		return nil
	}
	proc, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return proc.Kill()
}
