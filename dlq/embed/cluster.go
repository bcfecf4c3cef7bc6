package embed

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	appUser    = "conveyor"
	systemUser = "system"
	// systemAccount is where the members of the cluster talk to each other.
	systemAccount = "SYS"
	// noPort is where a server of a cluster is told to accept clients: no listener can be opened there. It opens its route port behind that of clients only, whatever became
	// of that, and DontListen would keep the route port shut.
	noPort = 1 << 16
	// noListener is what the server says about it, as a fatal error.
	noListener = "Error listening on port: 127.0.0.1:65536,"
	routePoll  = 5 * time.Millisecond
	// tlsSeconds bounds a handshake between two servers.
	tlsSeconds = 5
)

// Cluster joins several servers, one a machine, that keep copies of each other's streams.
type Cluster struct {
	// Name is the same for all servers of a cluster; a server of another one is turned away.
	Name string
	// Listen is the address of the route port, host:port, at which the other servers are accepted. An empty host means all addresses.
	Listen string
	// Routes are the addresses at which all servers of the cluster are reached, host:port, this one included. Names are looked up whenever a route is dialled. A cluster
	// that is new begins when as many servers as these have met, so that servers that lost their disks do not begin anew without the one that has not;
	// see Server.Founded.
	Routes []string
	// TLS is used in both directions: it must hold a certificate, and check that of the other side. Nil means plaintext, which is for loopback only: other addresses
	// are refused then. Servers that are dialled must carry the host name of their route.
	TLS *tls.Config
	// VerifyPeer judges the certificate of the other side, which TLS has verified, in both directions: an error turns the other server away. Nil accepts what TLS accepts.
	VerifyPeer func(*x509.Certificate) error
}

func (c *Cluster) check() error {
	if c.Name == "" || strings.ContainsAny(c.Name, " \t\r\n") {
		return fmt.Errorf("cluster name %q is empty or holds a space", c.Name)
	}
	if len(c.Routes) < 2 {
		return fmt.Errorf("a cluster of %d servers is none", len(c.Routes))
	}
	for _, address := range append([]string{c.Listen}, c.Routes...) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return fmt.Errorf("address %q: %w", address, err)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("address %q: the port is not a number from 1 to 65535", address)
		}
		if c.TLS == nil && !isLoopback(host) {
			return fmt.Errorf("address %q is not on this machine, and there are no certificates: letters are not sent in the clear", address)
		}
	}
	if c.TLS == nil {
		if c.VerifyPeer != nil {
			return errors.New("VerifyPeer is given without TLS: there is no certificate to verify")
		}
		return nil
	}
	return checkTLS(c.TLS)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// secrets are the passwords of the two users of a server, which tell it what its process asks for. Nobody else can connect.
type secrets struct{ app, system string }

func newSecrets() *secrets { return &secrets{app: rand.Text(), system: rand.Text()} }

// apply makes the server one of the cluster.
func (c *Cluster) apply(opts *server.Options, s *secrets) error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	opts.DontListen = false
	opts.Host, opts.Port = "127.0.0.1", noPort
	system := server.NewAccount(systemAccount)
	opts.Accounts, opts.SystemAccount = []*server.Account{system}, systemAccount
	opts.Users = []*server.User{{Username: appUser, Password: s.app}, {Username: systemUser, Password: s.system, Account: system}}
	if host == "" {
		host = "0.0.0.0"
	}
	opts.Cluster = server.ClusterOpts{
		Name: c.Name, Host: host, Port: number, NoAdvertise: true, Compression: server.CompressionOpts{Mode: server.CompressionOff},
	}
	if c.TLS != nil {
		opts.Cluster.TLSConfig, opts.Cluster.TLSTimeout = routeTLS(c.TLS, c.VerifyPeer), tlsSeconds
	}
	// The same order everywhere, whatever order the caller had them in.
	for _, r := range slices.Sorted(slices.Values(c.Routes)) {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats-route", Host: r})
	}
	return nil
}

// awaitRoutes waits until the route port is open, ctx ends, or the server has failed.
func (s *Server) awaitRoutes(ctx context.Context) error {
	tick := time.NewTicker(routePoll)
	defer tick.Stop()
	for s.ns.ClusterAddr() == nil {
		select {
		case <-s.log.failed:
			return s.log.err()
		case <-ctx.Done():
			return errors.New("the route port did not open")
		case <-tick.C:
		}
	}
	return nil
}

func (s *Server) connect(opts ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect("", append([]nats.Option{nats.InProcessServer(s.ns), nats.Name("conveyor")}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	return nc, nil
}
