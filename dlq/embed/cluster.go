package embed

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	appUser    = "conveyor"
	systemUser = "system"
	// systemAccount is where the members of the cluster talk to each other.
	systemAccount = "SYS"
	// removeServer is the request that takes a server out of the cluster's own records.
	removeServer = "$JS.API.SERVER.REMOVE"
	// errPeerUnknown is its answer for a server that is not in them.
	errPeerUnknown = 10044
)

// Cluster joins several servers, one a machine, that keep copies of each other's streams.
type Cluster struct {
	// Name is the same for all servers of a cluster; a server of another one is turned away.
	Name string
	// Listen is the address of the route port, host:port, at which the other servers are accepted. An empty host means all addresses.
	Listen string
	// Routes are the addresses at which all servers of the cluster are reached, host:port, this one included. Names are looked up whenever a route is dialled. A cluster
	// that is new decides by their number how many servers must meet before it begins.
	Routes []string
	// TLS is used in both directions: it must hold a certificate, and check that of the other side. Nil means plaintext, which is for loopback only: other addresses
	// are refused then.
	TLS *tls.Config
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
	return nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// secrets keep other processes of the machine out: the server of a cluster cannot be without a port for clients, although nobody needs it.
type secrets struct{ app, system string }

func newSecrets() *secrets {
	one := func() string {
		b := make([]byte, 32)
		rand.Read(b)
		return hex.EncodeToString(b)
	}
	return &secrets{app: one(), system: one()}
}

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
	opts.DontListen = false // the route port is opened behind that of clients only
	opts.Host, opts.Port = "127.0.0.1", server.RANDOM_PORT
	system := server.NewAccount(systemAccount)
	opts.Accounts, opts.SystemAccount = []*server.Account{system}, systemAccount
	opts.Users = []*server.User{{Username: appUser, Password: s.app}, {Username: systemUser, Password: s.system, Account: system}}
	if host == "" {
		host = "0.0.0.0"
	}
	opts.Cluster = server.ClusterOpts{Name: c.Name, Host: host, Port: number, TLSConfig: c.TLS, NoAdvertise: true}
	if c.TLS != nil {
		opts.Cluster.TLSTimeout = 5
	}
	for _, r := range c.Routes {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats-route", Host: r})
	}
	return nil
}

// Forget takes a server that will not come back out of the cluster, by its name, so that others get copies of what it kept. One that is not known is no error. It
// needs a majority of the others.
func (s *Server) Forget(ctx context.Context, name string) error {
	if s.secrets == nil {
		return errors.New("forget a server: this one is not of a cluster")
	}
	nc, err := s.connect(nats.UserInfo(systemUser, s.secrets.system))
	if err != nil {
		return err
	}
	defer nc.Close()
	req, err := json.Marshal(server.JSApiMetaServerRemoveRequest{Server: name})
	if err != nil {
		return fmt.Errorf("forget server %s: %w", name, err)
	}
	answer, err := nc.RequestWithContext(ctx, removeServer, req)
	if err != nil {
		return fmt.Errorf("forget server %s: %w", name, err)
	}
	var resp server.JSApiMetaServerRemoveResponse
	if err := json.Unmarshal(answer.Data, &resp); err != nil {
		return fmt.Errorf("forget server %s: %w", name, err)
	}
	if resp.Error != nil && int(resp.Error.ErrCode) != errPeerUnknown {
		return fmt.Errorf("forget server %s: %s", name, resp.Error.Description)
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
