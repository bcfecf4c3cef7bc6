package raftstoretest

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/conveyor-etl/conveyor/raftstore"
)

// network joins servers within the process. A link is what one server dials of another: who answers on it does so even when it could not dial itself.
type network struct {
	mu        sync.Mutex
	listeners map[string]*bufconn.Listener
	blocked   map[link]bool
	conns     map[*conn]bool
}

type link struct{ from, to string }

type conn struct {
	net.Conn
	network *network
	link    link
}

// Close forgets the connection.
func (c *conn) Close() error {
	c.network.mu.Lock()
	delete(c.network.conns, c)
	c.network.mu.Unlock()
	return c.Conn.Close()
}

func newNetwork() *network {
	return &network{listeners: map[string]*bufconn.Listener{}, blocked: map[link]bool{}, conns: map[*conn]bool{}}
}

func (n *network) listen(address string) *bufconn.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[address] = bufconn.Listen(64 << 10)
	return n.listeners[address]
}

func (n *network) options(from string) func(raftstore.Peer) ([]grpc.DialOption, error) {
	return func(raftstore.Peer) ([]grpc.DialOption, error) {
		return []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return n.dial(ctx, link{from, to}) }),
		}, nil
	}
}

func (n *network) dial(ctx context.Context, l link) (net.Conn, error) {
	n.mu.Lock()
	lis, blocked := n.listeners[l.to], n.blocked[l]
	n.mu.Unlock()
	if blocked || lis == nil {
		return nil, fmt.Errorf("%s does not reach %s", l.from, l.to)
	}
	c, err := lis.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	out := &conn{Conn: c, network: n, link: l}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.blocked[l] {
		_ = c.Close()
		return nil, fmt.Errorf("%s does not reach %s", l.from, l.to)
	}
	n.conns[out] = true
	return out, nil
}

func (n *network) block(l link) {
	n.mu.Lock()
	n.blocked[l] = true
	var cut []*conn
	for c := range n.conns {
		if c.link == l {
			cut = append(cut, c)
		}
	}
	n.mu.Unlock()
	for _, c := range cut {
		_ = c.Close()
	}
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.blocked)
}
