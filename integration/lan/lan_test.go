//go:build linux

package lan_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	"github.com/conveyor-etl/conveyor/integration/lan"
)

func TestMain(m *testing.M) {
	os.Exit(proc.Main(m, map[string]proc.Child{"chat": chat, "killed": killed}))
}

// chat greets the host PEER by datagrams again and again, and prints each greeting that it hears.
func chat(ctx context.Context) int {
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(ctx, "udp4", ":7000")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		b := make([]byte, 100)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			fmt.Printf("heard %s of %s\n", b[:n], from)
		}
	}()
	for ctx.Err() == nil {
		// The name is looked up each time: its host may have moved. A host without a cable hears why, and goes on.
		if peer, err := net.ResolveUDPAddr("udp4", os.Getenv("PEER")+":7000"); err == nil {
			_, _ = conn.WriteTo([]byte("hello"), peer)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	<-heard
	return 0
}

// talker is a host with a chat.
type talker struct {
	*lan.Host
	*proc.Process
	t       *testing.T
	counted int
}

func talk(t *testing.T, n *lan.Network, name, peer string) *talker {
	h := n.Host(name)
	return &talker{Host: h, Process: proc.Start(t, h.On(proc.ChildSpec(t, "chat", "PEER="+peer))), t: t}
}

// heard is how many greetings came in since the last time it was asked.
func (h *talker) heard() int {
	all := strings.Count(h.Log(), "heard")
	defer func() { h.counted = all }()
	return all - h.counted
}

// hears waits until the host hears the other one.
func (h *talker) hears() {
	h.t.Helper()
	n := 0
	proc.Until(h.t, func() string {
		if n += h.heard(); n < 20 {
			return fmt.Sprintf("%s heard %d greetings", h.Name(), n)
		}
		return ""
	})
}

func TestNetwork_EachDirectionCanBeCut(t *testing.T) {
	n := lan.New(t)
	a, b := talk(t, n, "a", "b"), talk(t, n, "b", "a")
	a.hears()
	b.hears()

	n.Cut(a.Host, b.Host)
	b.heard()
	a.hears()
	if got := b.heard(); got > 0 {
		t.Errorf("b heard %d greetings over a path that was cut", got)
	}
	n.Heal()
	b.hears()

	n.CutBoth(a.Host, b.Host)
	n.Heal()
	a.hears()
	b.hears()
}

func TestNetwork_AHostComesBackWithItsCable(t *testing.T) {
	n := lan.New(t)
	a, b := talk(t, n, "a", "b"), talk(t, n, "b", "a")
	a.hears()
	b.Unplug()
	a.heard()
	b.Plug()
	a.hears()
	b.hears()
}

func TestNetwork_AHostThatMovesIsFoundByItsName(t *testing.T) {
	n := lan.New(t)
	a, b := talk(t, n, "a", "b"), talk(t, n, "b", "a")
	b.hears()
	was := b.IP()
	b.Move()
	b.hears()
	a.hears()
	if b.IP() == was || !strings.Contains(a.Log(), "of "+b.IP()) {
		t.Errorf("b was at %s, is at %s, and a heard\n%s", was, b.IP(), a.Log())
	}
}

// doomed is a test that never comes to its cleanups.
type doomed struct {
	testing.TB
	dir string
}

func (doomed) Helper()                  {}
func (doomed) Context() context.Context { return context.Background() }
func (doomed) Cleanup(func())           {}
func (d doomed) TempDir() string        { return d.dir }
func (doomed) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }
func (doomed) Skip(args ...any)         { panic(fmt.Sprint(args...)) }

// killed makes a network with a host, prints what the names of its namespaces begin with, and waits for its end.
func killed(ctx context.Context) int {
	lan.New(doomed{dir: os.Getenv("NETWORK_DIR")}).Host("a")
	names, _ := filepath.Glob("/run/netns/conveyor-*-switch")
	for _, name := range names {
		prefix := strings.TrimSuffix(filepath.Base(name), "switch")
		var x, y int
		_, _ = fmt.Sscanf(prefix, "conveyor-%d-%d-", &x, &y)
		if alias, _ := os.ReadFile(fmt.Sprintf("/sys/class/net/cv%d.%d/ifalias", x, y)); strings.TrimSpace(string(alias)) == strconv.Itoa(os.Getpid()) {
			fmt.Println(prefix)
		}
	}
	<-ctx.Done()
	return 0
}

func TestNetwork_OfATestThatWasKilledGoesWithTheNext(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes networks")
	}
	p := proc.StartChild(t, "killed", "NETWORK_DIR="+t.TempDir())
	var left string
	proc.Until(t, func() string {
		if left = strings.TrimSpace(p.Log()); left == "" {
			return "no network yet"
		}
		return ""
	})
	p.Kill()
	before, err := filepath.Glob("/run/netns/" + left + "*")
	if err != nil || len(before) != 2 {
		t.Fatalf("the test that was killed left %v, %v", before, err)
	}
	lan.New(t)
	if after, err := filepath.Glob("/run/netns/" + left + "*"); err != nil || len(after) > 0 {
		t.Errorf("left: %v, %v", after, err)
	}
}
