// Package devcluster runs the routers of a development cluster as processes of their own, so that a user can kill one and start it again.
package devcluster

import (
	"context"
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

	"github.com/conveyor-etl/conveyor/internal/env"
)

const (
	stopTimeout = 15 * time.Second
	logFile     = "router.log"
)

// Config says what to run.
type Config struct {
	// Nodes is how many routers.
	Nodes int
	// FirstPort is that of the first router's API; the others have the next free ones.
	FirstPort int
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
	if err := c.choosePorts(ctx); err != nil {
		return nil, err
	}
	for _, p := range c.routers {
		if _, err := c.Start(p.Name); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// choosePorts finds ports that are free now. Somebody else may take one before it is used.
func (c *Cluster) choosePorts(ctx context.Context) (err error) {
	var held []net.Listener // until all are chosen, so that none is chosen twice
	defer func() {
		for _, lis := range held {
			err = errors.Join(err, lis.Close())
		}
	}()
	free := func(first int) (int, error) {
		lis, err := freePort(ctx, first)
		if err != nil {
			return 0, err
		}
		held = append(held, lis)
		return lis.Addr().(*net.TCPAddr).Port, nil
	}
	next := c.cfg.FirstPort
	var peers env.Peers
	for n := 1; n <= c.cfg.Nodes; n++ {
		p := &process{Router: Router{Name: "router-" + strconv.Itoa(n), Number: n}}
		p.DataDir = filepath.Join(c.cfg.DataDir, p.Name)
		p.Log = filepath.Join(p.DataDir, logFile)
		port, err := free(next)
		if err != nil {
			return err
		}
		if next != 0 {
			next = port + 1
		}
		p.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		ops, err := free(0)
		if err != nil {
			return err
		}
		p.Metrics = net.JoinHostPort("127.0.0.1", strconv.Itoa(ops))
		if p.DLQPort, err = free(0); err != nil {
			return err
		}
		peers = append(peers, env.Peer{ID: strconv.Itoa(n), Address: env.HostPort{Host: "127.0.0.1", Port: port}})
		c.routers = append(c.routers, p)
	}
	for _, p := range c.routers {
		p.Peers = peers
	}
	return nil
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

// portsTried is how many ports are tried when the first is taken.
const portsTried = 50

// freePort opens a port that nothing listens on, from the given one on; 0 takes any.
func freePort(ctx context.Context, first int) (net.Listener, error) {
	var lc net.ListenConfig
	for port := first; ; port++ {
		lis, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return lis, nil
		}
		if first == 0 || port-first >= portsTried || port >= 65535 {
			return nil, fmt.Errorf("find a free port from %d on: %w", first, err)
		}
	}
}

// Start starts a router that does not run; running says that it does.
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
