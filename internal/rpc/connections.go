package rpc

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

const (
	// DefaultMaxConnections is how many connections a server takes that is not told another number.
	DefaultMaxConnections = 5000
	// Of that number, one address gets a half, since many parts may be behind one address, and those that have not shown a certificate yet get a quarter: these end after
	// connectionTimeout at the latest.
	perAddress, perHandshake = 2, 4
	// complainEvery is how often it is logged that connections are refused.
	complainEvery = time.Minute
)

// errCrowded ends a handshake.
var errCrowded = errors.New("the server has too many connections")

// door counts the connections of a server, and closes those that are too many. Who has shown a certificate has other places than who has not, so that nobody without one can
// keep the others out for longer than connectionTimeout, or end what they have; spare ones take no place once they are known.
type door struct {
	spare  func(credentials.AuthInfo) bool // may be nil
	shakes bool                            // connections begin with a handshake
	log    *slog.Logger

	mu       sync.Mutex
	strange  crowd // have not shown yet who they are
	known    crowd
	refused  uint64
	told     uint64 // of refused, in the log
	complain time.Time
}

func newDoor(cfg ServerConfig, log *slog.Logger) *door {
	most := cfg.MaxConnections
	if most <= 0 {
		most = DefaultMaxConnections
	}
	return &door{spare: cfg.Spare, shakes: cfg.TLS != nil, log: log, strange: newCrowd(most / perHandshake), known: newCrowd(most)}
}

// crowd are connections by where they come from.
type crowd struct {
	most, total int
	from        map[netip.Addr]int
}

func newCrowd(most int) crowd { return crowd{most: max(most, perAddress), from: map[netip.Addr]int{}} }

func (c *crowd) enter(from netip.Addr) bool {
	if c.total >= c.most || c.from[from] >= c.most/perAddress {
		return false
	}
	c.total++
	c.from[from]++
	return true
}

func (c *crowd) leave(from netip.Addr) {
	c.total--
	if c.from[from]--; c.from[from] == 0 {
		delete(c.from, from)
	}
}

// enter gives a connection a place; nil when there is none.
func (d *door) enter(conn net.Conn) *guest {
	g := &guest{Conn: conn, door: d, from: address(conn.RemoteAddr())}
	d.mu.Lock()
	defer d.mu.Unlock()
	g.in = &d.known
	if d.shakes {
		g.in = &d.strange
	}
	if !g.in.enter(g.from) {
		d.refuse(g)
		return nil
	}
	return g
}

// introduce notes who is at the other end of a connection, and reports whether there is a place for that.
func (d *door) introduce(g *guest, who credentials.AuthInfo) bool {
	spare := d.spare != nil && d.spare(who)
	d.mu.Lock()
	defer d.mu.Unlock()
	if g.in == nil { // it was closed
		return true
	}
	g.in.leave(g.from)
	g.in = nil
	if spare {
		return true
	}
	if !d.known.enter(g.from) {
		d.refuse(g)
		return false
	}
	g.in = &d.known
	return true
}

func (d *door) leave(g *guest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g.in != nil {
		g.in.leave(g.from)
		g.in = nil
	}
}

// refuse counts a connection that is too many; the caller holds mu.
func (d *door) refuse(g *guest) {
	d.refused++
	if now := time.Now(); d.complain.IsZero() || now.Sub(d.complain) >= complainEvery {
		d.complain = now
		d.log.Warn("connections are refused: there are too many", "refused", d.refused-d.told, "from", g.from, "connections", d.known.total, "handshakes", d.strange.total)
		d.told = d.refused
	}
}

func (d *door) refusals() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused
}

// address is where a connection comes from; connections that come from no IP address count as one.
func address(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// guest is a connection that takes a place until it is closed.
type guest struct {
	net.Conn
	door *door
	from netip.Addr
	in   *crowd // nil when it takes no place; guarded by door.mu
}

// Close closes the connection and gives its place back.
func (g *guest) Close() error {
	err := g.Conn.Close()
	g.door.leave(g)
	return err
}

// entrance accepts what the door lets in.
type entrance struct {
	net.Listener
	door *door
}

// Accept returns the next connection for which there is a place, and closes the others at once.
func (e entrance) Accept() (net.Conn, error) {
	for {
		conn, err := e.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g := e.door.enter(conn); g != nil {
			// gRPC does that for the connections that it knows to be of TCP only.
			setUserTimeout(conn, keepaliveTimeout)
			return g, nil
		}
		_ = conn.Close()
	}
}

// introducing tells the door who is at the other end.
type introducing struct {
	credentials.TransportCredentials
	door *door
}

func (i introducing) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, who, err := i.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	if g, ok := raw.(*guest); ok && !i.door.introduce(g, who) {
		return nil, nil, errors.Join(errCrowded, conn.Close())
	}
	return conn, who, nil
}

func (i introducing) Clone() credentials.TransportCredentials {
	return introducing{i.TransportCredentials.Clone(), i.door}
}
