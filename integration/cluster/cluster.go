package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

// Port is where every router listens.
const Port = 50051

// anyRouter is a name in the certificate of each router, under which tests reach it at whatever address it has.
const anyRouter = "routers.test"

// Machine has a router on it. Its methods are for the goroutine of the test and fail the test when they cannot do what they say.
type Machine interface {
	// Name is what other machines call it.
	Name() string
	// IP is where the test reaches it.
	IP() string
	// Start starts the router, which was not started yet or has ended.
	Start()
	// Stop asks the router to end, and returns when it has ended without a fault.
	Stop()
	// Kill ends the router at once.
	Kill()
	// Pause and Resume hold the router still.
	Pause()
	Resume()
	// Unplug and Plug take the machine off the network and put it back, with the address that it had.
	Unplug()
	Plug()
	// Move gives the machine another address. Its router does not run.
	Move()
}

// Router says what a machine is made for.
type Router struct {
	// Name is that of the machine.
	Name string
	// Env is what its router is told, but for its certificate.
	Env []string
	// Certs is the directory of its certificate, with ca.crt, tls.crt and tls.key.
	Certs string
}

// Cluster is machines with routers. The first ones found it.
type Cluster struct {
	t        testing.TB
	Machines []Machine
	// Sidecars is the directory of the certificate of all sidecars.
	Sidecars       string
	admin, sidecar *tls.Config
}

// logs are how routers keep their logs, one after the other: those of one cluster may differ.
var logs = []string{"bbolt", "wal"}

// New makes machines and does not start their routers: some that found a cluster together, and spare ones that wait to be added.
func New(t testing.TB, founders, spare int, machine func(Router) Machine) *Cluster {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	var names, peers []string
	for i := range founders + spare {
		names = append(names, fmt.Sprintf("router-%d", i+1))
		if i < founders {
			peers = append(peers, fmt.Sprintf("%s:%d", names[i], Port))
		}
	}
	proc.NewLocalCLI(t).Run("cluster", "init", dir, "--nodes", strings.Join(names, ","), "--name", anyRouter)
	sidecars := filepath.Join(dir, "sidecar")
	c := &Cluster{t: t, Sidecars: sidecars, admin: identity(t, filepath.Join(dir, "admin")), sidecar: identity(t, sidecars)}
	for i, name := range names {
		// A spare router lists those that exist before itself, meets them and waits until it is added.
		list := peers
		if i >= founders {
			list = append(slices.Clip(peers), fmt.Sprintf("%s:%d", name, Port))
		}
		c.Machines = append(c.Machines, machine(Router{
			Name: name,
			Env: []string{
				"RAFT_NODE_ID=" + strconv.Itoa(i+1), "RAFT_PEERS=" + strings.Join(list, ","), "ADVERTISE_ADDRESS=" + name + ":" + strconv.Itoa(Port),
				"RAFT_LOG=" + logs[i%len(logs)],
			},
			Certs: filepath.Join(dir, name),
		}))
	}
	return c
}

// identity is that of the certificate in a directory.
func identity(t testing.TB, dir string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("%s has no certificate", dir)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: anyRouter}
}

// Start starts the routers of some machines and returns when each answers for the cluster.
func (c *Cluster) Start(machines ...Machine) {
	c.t.Helper()
	for _, m := range machines {
		m.Start()
	}
	c.Await(machines...)
}

// Await waits until each of some machines answers for the cluster.
func (c *Cluster) Await(machines ...Machine) {
	c.t.Helper()
	for _, m := range machines {
		one := c.Dial([]Machine{m})
		proc.Until(c.t, func() string {
			if _, err := one.Cluster(c.t.Context()); err != nil {
				return m.Name() + ": " + err.Error()
			}
			return ""
		})
	}
}

// Dial returns a client of some machines, at the addresses that they have now, for who administers the cluster. It ends with the test.
func (c *Cluster) Dial(machines []Machine, opts ...client.Option) *client.Client {
	c.t.Helper()
	return c.dial(machines, c.admin, opts)
}

// DialAsSidecar returns a client like Dial does, for a sidecar.
func (c *Cluster) DialAsSidecar(machines []Machine, opts ...client.Option) *client.Client {
	c.t.Helper()
	return c.dial(machines, c.sidecar, opts)
}

func (c *Cluster) dial(machines []Machine, as *tls.Config, opts []client.Option) *client.Client {
	c.t.Helper()
	var targets []string
	for _, m := range machines {
		targets = append(targets, fmt.Sprintf("%s:%d", m.IP(), Port))
	}
	cl, err := client.Dial(c.t.Context(), targets, append(slices.Clip(opts), client.WithTLS(as.Clone()))...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cl.Close() })
	return cl
}

// Leader asks through a client which machine leads.
func (c *Cluster) Leader(through *client.Client) Machine {
	c.t.Helper()
	var found Machine
	proc.Until(c.t, func() string {
		info, err := through.Cluster(c.t.Context())
		if err != nil {
			return err.Error()
		}
		for _, s := range info.GetServers() {
			host, _, _ := strings.Cut(s.GetAddress(), ":")
			i := slices.IndexFunc(c.Machines, func(m Machine) bool { return m.Name() == host })
			if s.GetId() == info.GetLeaderId() && i >= 0 {
				found = c.Machines[i]
				return ""
			}
		}
		return "no router leads"
	})
	return found
}

// But returns the machines without some of them.
func (c *Cluster) But(without ...Machine) []Machine {
	return slices.DeleteFunc(slices.Clone(c.Machines), func(m Machine) bool { return slices.Contains(without, m) })
}
