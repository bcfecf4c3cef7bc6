package router

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/internal/logging"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	"github.com/conveyor-etl/conveyor/raftstore"
)

// Config is what a router is told at its start. Fields with an env tag are set by users, through the environment, flags or a file; the others by programs that
// embed a router.
type Config struct {
	// GRPCPort is the port of the gRPC API; 0 picks a free one.
	GRPCPort env.Port `env:"GRPC_PORT" flag:"grpc-port" default:"50051" desc:"port of the gRPC API"`
	// NodeID is the number of this router in its cluster, from 1.
	NodeID int `env:"RAFT_NODE_ID" flag:"raft-node-id" default:"1" desc:"number of this router in its cluster"`
	// Peers lists the routers of the cluster as host:port, this one included; the position in the list, from 1, is NodeID, unless an entry says it: 3=host:port.
	// They found the cluster once, when all of them run with empty data directories; a router with an empty one that meets a cluster waits to be added to it.
	// Empty, or this router alone, founds a cluster of one. It can be given others after it was started again with them in the list.
	Peers env.Peers `env:"RAFT_PEERS" flag:"raft-peers" desc:"routers of the cluster, host:port,... in the order of their numbers, or number=host:port,...; empty founds a cluster of one"`
	// DataDir holds everything the router keeps: raft/ (log, snapshots, identity), dead-letters/ (the dead-letter store) and LOCK. One process at a time.
	DataDir string `env:"DATA_DIR" flag:"data-dir" default:"./data" desc:"directory of the router's state"`
	// RaftLog is how the log of the replicated state lies on the disk: bbolt or wal. Empty means as it does already, and bbolt in a new directory.
	RaftLog string `env:"RAFT_LOG" flag:"raft-log" desc:"bbolt or wal, see docs/operations.md; default what the data directory has, bbolt in a new one"`
	// OpsPort is the port of /metrics, /healthz and /readyz; 0 picks a free one.
	OpsPort env.Port `env:"OPS_PORT" flag:"ops-port" default:"9090" desc:"port of /metrics, /healthz and /readyz"`
	// DLQPort is the port at which the dead-letter servers of a cluster of several routers meet, at the host of their addresses in Peers. A router that is alone does not use
	// it.
	DLQPort env.Port `env:"DLQ_PORT" flag:"dlq-port" default:"6222" desc:"port at which routers of a cluster exchange dead letters"`
	// MinFree is how much must be free on the volume of DataDir: below, the router changes nothing any more, and one that leads hands over. 0 means 128 MiB, or a
	// twentieth of a smaller volume.
	MinFree env.Bytes `env:"MIN_FREE" flag:"min-free" desc:"below so much free disk nothing is changed any more; default 128Mi, or a twentieth of a smaller volume"`
	// TLS names the certificates for all connections between Conveyor's parts. Without them the router stays on loopback.
	TLS certs.Files
	// ListenHost is the address to listen on. Empty means all addresses with certificates, and loopback without.
	ListenHost string `env:"LISTEN_HOST" flag:"listen-host" desc:"address to listen on; default all with certificates, loopback without"`
	// AdvertiseAddress is how others reach this router. Empty means hostname:GRPC_PORT.
	AdvertiseAddress string `env:"ADVERTISE_ADDRESS" flag:"advertise-address" desc:"address at which others reach this router; default hostname:GRPC_PORT"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `env:"LOG_LEVEL" flag:"log-level" default:"info" desc:"debug, info, warn or error"`

	// Listener serves the gRPC API instead of GRPCPort when set. The router closes it.
	Listener net.Listener
	// OpsListener serves the ops port instead of OpsPort when set. The router closes it.
	OpsListener net.Listener
	// SessionTTL ends the session of a sidecar that was silent for so long. Default 10 seconds.
	SessionTTL time.Duration
	// Heartbeat is how often sidecars are told to report. Default 3 seconds, at most a third of SessionTTL.
	Heartbeat time.Duration
	// RaftTimeouts say how soon a lost leader is noticed; zero values mean raftstore's own. All routers of a cluster have the same.
	RaftTimeouts raftstore.Timeouts
	// DrainTimeout bounds how long a changed or deleted pipeline may take to finish what is in flight; then it is cut off and what was not checkpointed is read
	// again. Default 1 minute.
	DrainTimeout time.Duration
}

// Defaults of the fields that programs set.
const (
	DefaultSessionTTL   = 10 * time.Second
	DefaultHeartbeat    = 3 * time.Second
	DefaultDrainTimeout = time.Minute
)

// DefaultConfig is the configuration without any setting of the user's.
func DefaultConfig() Config {
	return Config{
		GRPCPort: 50051, NodeID: 1, DataDir: "./data", OpsPort: 9090, DLQPort: 6222, LogLevel: "info",
		SessionTTL: DefaultSessionTTL, Heartbeat: DefaultHeartbeat, DrainTimeout: DefaultDrainTimeout,
	}
}

func (c *Config) hasTLS() bool { return c.TLS.Enabled() }

// listenHost is the address to listen on with the default applied.
func (c *Config) listenHost() string {
	if c.ListenHost == "" && !c.hasTLS() {
		return "127.0.0.1"
	}
	return c.ListenHost
}

// Validate reports every fault of the configuration, each with the name of its setting. The faults of TLS are those of its own Validate.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, p := range []struct {
		name  string
		value env.Port
	}{{"GRPC_PORT", c.GRPCPort}, {"OPS_PORT", c.OpsPort}} {
		if p.value < 0 || p.value > 65535 {
			fault("%s: %d is not a port", p.name, p.value)
		}
	}
	if c.GRPCPort != 0 && c.GRPCPort == c.OpsPort && c.Listener == nil && c.OpsListener == nil {
		fault("OPS_PORT: %d is also GRPC_PORT", c.OpsPort)
	}
	if len(c.Peers) > 1 && (c.DLQPort < 1 || c.DLQPort > 65535) {
		fault("DLQ_PORT: %d is not a port", c.DLQPort)
	}
	if len(c.Peers) == 2 {
		fault("RAFT_PEERS: two routers survive the loss of neither: list three or five, or leave it empty for one")
	}
	if c.NodeID < 1 {
		fault("RAFT_NODE_ID: %d is not a number from 1", c.NodeID)
	}
	c.validatePeers(fault)
	if c.MinFree < 0 {
		fault("MIN_FREE: %s is negative", c.MinFree)
	}
	if err := raftstore.LogKind(c.RaftLog).Validate(); err != nil {
		fault("RAFT_LOG: %w", err)
	}
	if c.DataDir == "" {
		fault("DATA_DIR: is empty")
	}
	if c.Listener == nil {
		if err := rpc.CheckListen(c.listenHost(), c.hasTLS()); err != nil {
			fault("LISTEN_HOST: %w", err)
		}
	}
	if c.AdvertiseAddress != "" {
		if _, err := env.ParseHostPort(c.AdvertiseAddress); err != nil {
			fault("ADVERTISE_ADDRESS: %q: %w", c.AdvertiseAddress, err)
		}
	}
	if _, err := logging.ParseLevel(c.LogLevel); err != nil {
		fault("LOG_LEVEL: %w", err)
	}
	if c.SessionTTL < 0 || c.Heartbeat < 0 || c.DrainTimeout < 0 {
		fault("SessionTTL, Heartbeat and DrainTimeout must not be negative")
	}
	if c.SessionTTL > 0 && c.Heartbeat > c.SessionTTL/3 {
		fault("Heartbeat: %v is more than a third of SessionTTL %v", c.Heartbeat, c.SessionTTL)
	}
	return errors.Join(errs...)
}

func (c *Config) validatePeers(fault func(string, ...any)) {
	for _, p := range c.peers() {
		if n, err := strconv.Atoi(p.ServerName); err != nil || n < 1 {
			fault("RAFT_PEERS: %q is not a number from 1, as RAFT_NODE_ID is", p.ServerName)
		}
		if err := rpc.CheckDial(p.Address, c.hasTLS()); err != nil {
			fault("RAFT_PEERS: %w", err)
		}
	}
	self, listed := c.self()
	switch {
	case len(c.Peers) > 0 && !listed:
		fault("RAFT_PEERS: does not list this router, whose RAFT_NODE_ID is %d: list all routers of the cluster, this one included, and where numbers are left out as number=host:port", c.NodeID)
	case listed && c.AdvertiseAddress != "" && c.AdvertiseAddress != self.Address.String():
		fault("ADVERTISE_ADDRESS: %s is not what RAFT_PEERS says of router %d, %s", c.AdvertiseAddress, c.NodeID, self.Address)
	}
}

// self is what Peers says of this router; listed is false when it says nothing.
func (c *Config) self() (self env.Peer, listed bool) {
	for _, p := range c.Peers {
		if p.ID == strconv.Itoa(c.NodeID) {
			return p, true
		}
	}
	return env.Peer{}, false
}

// peers is Peers as raftstore wants them.
func (c *Config) peers() []raftstore.Peer {
	out := make([]raftstore.Peer, len(c.Peers))
	for i, p := range c.Peers {
		out[i] = raftstore.Peer{ServerName: p.ID, Address: p.Address.String()}
	}
	return out
}

func (c *Config) setDefaults() {
	if c.SessionTTL == 0 {
		c.SessionTTL = DefaultSessionTTL
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = min(DefaultHeartbeat, c.SessionTTL/3)
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = DefaultDrainTimeout
	}
}
