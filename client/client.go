package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// maxMessage bounds an answer; a router never sends more than a page of records of at most 4 MiB each.
const maxMessage = 16 << 20

// Client talks to the routers of one cluster. Make it with Dial, end it with Close. Its methods may be called concurrently; they block
// until there is an answer, the context ends, or nothing answered for as long as the options say.
type Client struct {
	opts    options
	servers []*server
	// current is the server that answered last.
	current atomic.Int64
	changes *changes
	// leader is the address that routers said last to be the leader's; nil before.
	leader atomic.Pointer[string]

	// life ends with Close, and with it everything under way.
	life  context.Context //nolint:containedctx // the life of the client, not that of a call
	close func() error
}

type server struct {
	target string
	conn   *grpc.ClientConn

	mu sync.Mutex
	// dialErr is why the last connection could not be made. guarded by mu.
	dialErr error
}

// Dial prepares a Client of the routers at these addresses, each host:port. It connects when a call is made, so it succeeds while no
// router runs. Without WithTLS or WithCredentials an address that is not loopback is refused with an error that matches ErrInsecure; ctx bounds the look-up of
// names for that.
func Dial(ctx context.Context, targets []string, opts ...Option) (*Client, error) {
	if len(targets) == 0 {
		return nil, fmt.Errorf("%w: no address of a router given", ErrInvalid)
	}
	c := &Client{changes: newChanges()}
	c.opts.apply(opts)
	var errs []error
	for _, t := range targets {
		errs = append(errs, c.check(ctx, t))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	life, cancel := context.WithCancelCause(context.Background())
	c.life = life
	c.close = sync.OnceValue(func() error {
		cancel(ErrClosed)
		c.endSession()
		var errs []error
		for _, s := range c.servers {
			errs = append(errs, s.conn.Close())
		}
		return errors.Join(errs...)
	})
	for _, t := range slices.Compact(slices.Clone(targets)) {
		s, err := c.connect(t)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("dial %s: %w", t, err), c.close())
		}
		c.servers = append(c.servers, s)
	}
	return c, nil
}

// Close ends all calls and connections. It may be called more than once, and blocks for half a second at most.
func (c *Client) Close() error { return c.close() }

// Targets are the addresses of the routers, as given to Dial.
func (c *Client) Targets() []string {
	out := make([]string, len(c.servers))
	for i, s := range c.servers {
		out[i] = s.target
	}
	return out
}

// check refuses what is no address, and what would be dialled in the clear.
func (c *Client) check(ctx context.Context, target string) error {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return fmt.Errorf("%w: %q is not an address: want HOST:PORT, such as localhost:50051", ErrInvalid, target)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("%w: %q is not an address: the port must be a number from 1 to 65535", ErrInvalid, target)
	}
	if c.opts.creds != nil || host == "localhost" {
		return nil
	}
	ips := []net.IP{net.ParseIP(host)}
	if ips[0] == nil {
		// A name that cannot be looked up now may be known later; the dialler looks again.
		ips, _ = net.DefaultResolver.LookupIP(ctx, "ip", host)
	}
	for _, ip := range ips {
		if !ip.IsLoopback() {
			return insecureError(target)
		}
	}
	return nil
}

func insecureError(target string) error {
	return fmt.Errorf("%w: %s is not a loopback address, and nothing is sent there in the clear; connect with certificates, which "+
		"`conveyor cluster init` makes, or run on the router's machine", ErrInsecure, target)
}

func (c *Client) connect(target string) (*server, error) {
	s := &server{target: target}
	creds := c.opts.creds
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	authority := c.opts.serverName
	if authority == "" {
		authority, _, _ = net.SplitHostPort(target) // which check has seen to be one
	}
	conn, err := grpc.NewClient("passthrough:///"+target,
		grpc.WithTransportCredentials(creds),
		grpc.WithAuthority(authority),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			conn, err := c.dial(ctx, addr)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.dialErr = err
			return conn, err
		}),
		grpc.WithUserAgent(c.opts.agent),
		grpc.WithUnaryInterceptor(c.observe),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A router that vanished without a word would keep a watch waiting for ever.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, err
	}
	s.conn = conn
	return s, nil
}

func (c *Client) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// The name may mean another address than when it was checked.
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); c.opts.creds == nil && (!ok || !a.IP.IsLoopback()) {
		return nil, errors.Join(insecureError(addr), conn.Close())
	}
	return conn, nil
}

func (s *server) lastDialError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dialErr
}
