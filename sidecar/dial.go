package sidecar

import (
	"crypto/rand"
	"encoding/hex"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/conveyor-etl/conveyor/internal/auth"
	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	"github.com/conveyor-etl/conveyor/internal/version"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	"github.com/conveyor-etl/conveyor/protos/local"
	"github.com/conveyor-etl/conveyor/protos/wire"
)

// featureLevel of this build, which routers keep.
const featureLevel = 1

// rules say who may call which method of a sidecar.
var rules = auth.Table{
	controlv1.SidecarDataPlane_Link_FullMethodName: {certs.RoleSidecar},
	healthpb.Health_Check_FullMethodName:           {certs.RoleSidecar, certs.RoleRouter, certs.RoleAdmin, certs.RoleOperator},
	healthpb.Health_List_FullMethodName:            {certs.RoleSidecar, certs.RoleRouter, certs.RoleAdmin, certs.RoleOperator},
	healthpb.Health_Watch_FullMethodName:           {certs.RoleSidecar, certs.RoleRouter, certs.RoleAdmin, certs.RoleOperator},
}

// newServer returns the server of the data plane, which keeps records encoded.
func (s *Sidecar) newServer() *rpc.Server {
	cfg := rpc.ServerConfig{BufferPool: wire.Shared(), Logger: s.log}
	if s.certs != nil {
		cfg.TLS = s.certs.ServerCredentials()
	}
	cfg.Unary, cfg.Stream = []grpc.UnaryServerInterceptor{rules.Unary}, []grpc.StreamServerInterceptor{rules.Stream}
	return rpc.NewServer(cfg, grpc.ForceServerCodecV2(wire.Codec{}))
}

// dialPeer connects to another sidecar: with certificates, or on loopback.
func (s *Sidecar) dialPeer(target, sidecarID string) (*grpc.ClientConn, error) {
	cfg := rpc.DialConfig{BufferPool: wire.Shared()}
	if s.certs != nil {
		cfg.TLS = s.certs.IdentityCredentials(certs.RoleSidecar, sidecarID)
	}
	return rpc.Dial(target, cfg, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})))
}

// pingEvery is the pace of keep-alive pings that a gRPC server takes by default from somebody whose stream is open; one who pings more often
// is disconnected.
const pingEvery = 5*time.Minute + 10*time.Second

// dialService connects to a service of the user's: in the clear, so to loopback and private addresses only.
func (s *Sidecar) dialService(target string) (*grpc.ClientConn, error) {
	ping := keepalive.ClientParameters{Time: pingEvery, Timeout: 20 * time.Second}
	if rpc.CheckDial(target, false) == nil {
		ping.Time = math.MaxInt64 // on loopback the system tells when the other side is gone
	}
	if path, ok := local.Find(target); ok {
		target = "unix:" + path
	}
	return rpc.Dial(target, rpc.DialConfig{BufferPool: wire.Shared(), Plaintext: rpc.PrivateOnly},
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})),
		grpc.WithKeepaliveParams(ping))
}

// host is what a sidecar tells of the machine that it runs on.
type host struct {
	name      string
	addresses []string
	version   string
}

const maxHostAddresses = 64

// thisHost leaves out loopback and link-local addresses, which mean another machine to everybody else.
func thisHost() host {
	h := host{version: version.String()}
	h.name, _ = os.Hostname() // a host without a name is known by its addresses
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && len(h.addresses) < maxHostAddresses {
			h.addresses = append(h.addresses, n.IP.String())
		}
	}
	return h
}

// advertised is the address at which other sidecars are told to reach this one.
func (s *Sidecar) advertised(h host) string {
	switch {
	case s.cfg.Advertise.Host != "":
		return s.cfg.Advertise.String()
	case s.cfg.TLS.Enabled() && h.name != "":
		return net.JoinHostPort(h.name, strconv.Itoa(portOf(s.Addr())))
	default:
		return s.Addr().String()
	}
}

func portOf(a net.Addr) int {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.Port
	}
	return 0
}

// newID makes the id of a sidecar that was not given one: the host's name and something random, since two may share a host.
func newID() string {
	name, _ := os.Hostname()
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, name)
	name = strings.Trim(name[:min(len(name), 48)], "-")
	if name == "" {
		name = "sidecar"
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	return name + "-" + hex.EncodeToString(random[:])
}
