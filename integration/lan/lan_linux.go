package lan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

// Network is a switch with hosts, and the test itself as one more that no cut concerns. Its methods are for the goroutine of the test.
type Network struct {
	t      testing.TB
	dir    string // has the hosts file
	prefix string // of the names of namespaces
	net    [2]int // the middle of its addresses, 10.x.y.0/24
	links  int
	hosts  []*Host
	cuts   map[[2]*Host]bool
}

// New makes a network without hosts, which goes when the test ends. It skips the test where it may not make one.
func New(t testing.TB) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes networks: run it as root, or in CI")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("there is no ip: install iproute2")
	}
	sweep()
	n := &Network{t: t, dir: t.TempDir(), cuts: map[[2]*Host]bool{}}
	// The name of the first namespace keeps the addresses: another test with the same ones does not get it.
	for tries := 0; ; tries++ {
		n.net = [2]int{200 + rand.IntN(56), rand.IntN(256)}
		n.prefix = fmt.Sprintf("conveyor-%d-%d-", n.net[0], n.net[1])
		err := run("netns", "add", n.prefix+"switch")
		if err == nil {
			break
		}
		if tries == 20 {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { n.ip("netns", "del", n.prefix+"switch") })
	// The switch has a namespace too, so that the filters of this machine do not concern it.
	n.ip("-n", n.prefix+"switch", "link", "add", "bridge", "type", "bridge")
	n.ip("-n", n.prefix+"switch", "link", "set", "bridge", "up")
	own := fmt.Sprintf("cv%d.%d", n.net[0], n.net[1])
	n.ip("link", "add", own, "type", "veth", "peer", "name", n.port(), "netns", n.prefix+"switch")
	n.attach()
	n.ip("addr", "add", n.address(1)+"/24", "dev", own)
	n.ip("link", "set", own, "up", "alias", strconv.Itoa(os.Getpid()))
	return n
}

// sweep removes the networks of tests that were killed, whose number is at the end of the cable to the test.
func sweep() {
	names, _ := filepath.Glob("/run/netns/conveyor-*-switch")
	for _, name := range names {
		prefix := strings.TrimSuffix(filepath.Base(name), "switch")
		var x, y int
		if _, err := fmt.Sscanf(prefix, "conveyor-%d-%d-", &x, &y); err != nil {
			continue
		}
		alias, err := os.ReadFile(fmt.Sprintf("/sys/class/net/cv%d.%d/ifalias", x, y))
		pid, convErr := strconv.Atoi(strings.TrimSpace(string(alias)))
		if err != nil || convErr != nil || syscall.Kill(pid, 0) == nil {
			continue // it is just made, or its test runs
		}
		left, _ := filepath.Glob("/run/netns/" + prefix + "*")
		for _, l := range left {
			_ = run("netns", "del", filepath.Base(l)) // another test may have been faster
		}
	}
}

// most is how many hosts there can be; each can move four times.
const most = 40

// Host is a machine at the switch that others know by its name.
type Host struct {
	n     *Network
	name  string
	index int    // among the hosts
	moved int    // how often it got another address
	port  string // of the switch
}

// Host adds a host.
func (n *Network) Host(name string) *Host {
	n.t.Helper()
	h := &Host{n: n, name: name, index: len(n.hosts)}
	n.ip("netns", "add", h.namespace())
	n.t.Cleanup(func() { n.ip("netns", "del", h.namespace()) })
	h.port = n.port()
	h.ip("link", "add", "eth0", "address", h.mac(), "type", "veth", "peer", "name", h.port, "netns", n.prefix+"switch")
	n.attach()
	h.ip("link", "set", "lo", "up")
	h.ip("link", "set", "eth0", "up")
	h.ip("addr", "add", h.IP()+"/24", "dev", "eth0")
	n.hosts = append(n.hosts, h)
	n.route()
	return h
}

// Name is what other hosts call it.
func (h *Host) Name() string { return h.name }

// IP is its address.
func (h *Host) IP() string { return h.n.address(10 + h.index + most*h.moved) }

// On returns what starts a program on the host. The path of the program has no blank.
func (h *Host) On(s proc.Spec) proc.Spec {
	// Each process sees the names of this network, in a mount namespace that `ip netns exec` makes, and its own.
	const script = `mount --bind "$0" /etc/hosts && echo "$1" >/proc/sys/kernel/hostname && shift && exec "$@"`
	s.Args = slices.Concat([]string{"netns", "exec", h.namespace(), "unshare", "--uts", "sh", "-c", script, h.n.names(), h.name, s.Path}, s.Args)
	s.Path = "ip"
	return s
}

// Unplug pulls the cable.
func (h *Host) Unplug() {
	h.n.t.Helper()
	h.n.ip("-n", h.n.prefix+"switch", "link", "set", h.port, "down")
}

// Plug ends an Unplug.
func (h *Host) Plug() {
	h.n.t.Helper()
	h.n.ip("-n", h.n.prefix+"switch", "link", "set", h.port, "up")
}

// Move gives the host another address under its name.
func (h *Host) Move() {
	h.n.t.Helper()
	h.ip("addr", "del", h.IP()+"/24", "dev", "eth0")
	h.moved++
	h.ip("addr", "add", h.IP()+"/24", "dev", "eth0")
	h.n.route()
}

// Cut loses every packet that one host sends to another, and says nothing to either. What goes the other way arrives.
func (n *Network) Cut(from, to *Host) {
	n.t.Helper()
	n.cuts[[2]*Host{from, to}] = true
	n.route()
}

// CutBoth loses what two hosts send to each other.
func (n *Network) CutBoth(a, b *Host) {
	n.t.Helper()
	n.Cut(a, b)
	n.Cut(b, a)
}

// Heal ends every cut.
func (n *Network) Heal() {
	n.t.Helper()
	clear(n.cuts)
	n.route()
}

// route tells every host where the others are. What it sends where nobody is gets lost without an error, which is how paths are cut.
func (n *Network) route() {
	n.t.Helper()
	var names strings.Builder
	names.WriteString("127.0.0.1 localhost\n")
	for _, h := range n.hosts {
		fmt.Fprintf(&names, "%s %s\n", h.IP(), h.name)
	}
	// The file stays the same one: it is mounted.
	if err := os.WriteFile(n.names(), []byte(names.String()), 0o600); err != nil {
		n.t.Fatal(err)
	}
	for _, from := range n.hosts {
		var batch bytes.Buffer
		for _, to := range n.hosts {
			if from == to {
				continue
			}
			mac := to.mac()
			if n.cuts[[2]*Host{from, to}] {
				mac = "02:00:00:00:00:01"
			}
			fmt.Fprintf(&batch, "neigh replace %s lladdr %s dev eth0 nud permanent\n", to.IP(), mac)
		}
		cmd := exec.CommandContext(n.t.Context(), "ip", "-n", from.namespace(), "-batch", "-")
		cmd.Stdin = &batch
		if said, err := cmd.CombinedOutput(); err != nil {
			n.t.Fatalf("tell %s of its neighbours: %v: %s", from.name, err, said)
		}
	}
}

func (n *Network) names() string { return filepath.Join(n.dir, "hosts") }

func (n *Network) address(at int) string { return fmt.Sprintf("10.%d.%d.%d", n.net[0], n.net[1], at) }

// port is the next free port of the switch.
func (n *Network) port() string { return fmt.Sprintf("port%d", n.links) }

func (n *Network) attach() {
	n.t.Helper()
	n.ip("-n", n.prefix+"switch", "link", "set", n.port(), "master", "bridge", "up")
	n.links++
}

func (h *Host) namespace() string { return h.n.prefix + h.name }

// mac is that of a host wherever it moves.
func (h *Host) mac() string {
	return fmt.Sprintf("02:00:00:00:01:%02x", h.index)
}

func (h *Host) ip(args ...string) {
	h.n.t.Helper()
	h.n.ip(append([]string{"-n", h.namespace()}, args...)...)
}

func (n *Network) ip(args ...string) {
	n.t.Helper()
	if err := run(args...); err != nil {
		n.t.Fatal(err)
	}
}

func run(args ...string) error {
	said, err := exec.CommandContext(context.Background(), "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w", strings.Join(args, " "), errors.Join(err, errors.New(strings.TrimSpace(string(said)))))
	}
	return nil
}
