package sidecar

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"time"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/internal/logging"
	"github.com/conveyor-etl/conveyor/internal/rpc"
	"github.com/conveyor-etl/conveyor/sidecar/internal/discovery"
)

// Config is what a sidecar is told at its start. Fields with an env tag are set by users, through the environment, flags or a file; the
// others by programs that embed a sidecar.
type Config struct {
	// ID is the sidecar's name among all sidecars of the cluster. Empty means the one that the data directory remembers; at the first
	// start one is made from the host's name.
	ID string `env:"SIDECAR_ID" flag:"sidecar-id" desc:"name of this sidecar in the cluster; generated and kept in the data directory when empty"`
	// Routers are the addresses of the routers; any of them will do.
	Routers env.HostPorts `env:"CLUSTER_ENDPOINT" flag:"cluster-endpoint" default:"conveyor-etl-router:50051" desc:"routers of the cluster, host:port,..."`
	// GRPCPort is the port at which other sidecars deliver records; 0 picks a free one.
	GRPCPort env.Port `env:"GRPC_PORT" flag:"grpc-port" default:"9091" desc:"port at which other sidecars deliver records"`
	// DiscoveryPorts are the ports of loopback on which the services beside this sidecar are looked for; at most discovery.MaxPorts. Empty
	// looks for none.
	DiscoveryPorts env.Ports `env:"DISCOVERY_PORTS" flag:"discovery-ports" default:"50051-50060" desc:"ports of loopback on which services are looked for"`
	// OpsPort is the port of /metrics, /healthz and /readyz; 0 picks a free one.
	OpsPort env.Port `env:"OPS_PORT" flag:"ops-port" default:"9092" desc:"port of /metrics, /healthz and /readyz"`
	// DataDir holds the sidecar's id and what it was last told to run. One process at a time.
	DataDir string `env:"DATA_DIR" flag:"data-dir" default:"./sidecar-data" desc:"directory of the sidecar's id and state file"`
	// TLS names the certificates for all connections between Conveyor's parts. Without them the sidecar stays on loopback.
	TLS certs.Files
	// ListenHost is the address to listen on. Empty means all addresses with certificates, and loopback without.
	ListenHost string `env:"LISTEN_HOST" flag:"listen-host" desc:"address to listen on; default all with certificates, loopback without"`
	// Advertise is how other sidecars reach this one. Empty means the host's name and GRPC_PORT with certificates, and the address that
	// it listens on without.
	Advertise env.HostPort `env:"ADVERTISE_ADDRESS" flag:"advertise-address" desc:"address at which other sidecars reach this one; default hostname:GRPC_PORT"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `env:"LOG_LEVEL" flag:"log-level" default:"info" desc:"debug, info, warn or error"`

	// Listener serves other sidecars instead of GRPCPort when set. The sidecar closes it.
	Listener net.Listener
	// DiscoveryInterval is how often ports are looked at. Default 1 second.
	DiscoveryInterval time.Duration
	// DrainTimeout bounds how long a stop waits for records in flight to settle. What has not settled then is read again later.
	// Default 20 seconds.
	DrainTimeout time.Duration
}

// Defaults of the fields that programs set.
const (
	DefaultDiscoveryInterval = discovery.DefaultInterval
	DefaultDrainTimeout      = 20 * time.Second
)

// DefaultConfig is the configuration without any setting of the user's.
func DefaultConfig() Config {
	return Config{
		Routers:           env.HostPorts{{Host: "conveyor-etl-router", Port: 50051}},
		GRPCPort:          9091,
		DiscoveryPorts:    env.Ports{{First: 50051, Last: 50060}},
		OpsPort:           9092,
		DataDir:           "./sidecar-data",
		LogLevel:          "info",
		DiscoveryInterval: DefaultDiscoveryInterval,
		DrainTimeout:      DefaultDrainTimeout,
	}
}

// idForm is what the id of a sidecar may look like: it appears in labels, logs and commands.
var idForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)

// Validate reports every fault of the configuration, each with the name of its setting.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.ID != "" && !idForm.MatchString(c.ID) {
		fault("SIDECAR_ID: %q may have up to 128 letters, digits and . _ - between letters or digits", c.ID)
	}
	if len(c.Routers) == 0 {
		fault("CLUSTER_ENDPOINT: names no router")
	}
	for _, r := range c.Routers {
		// Names are judged by what they mean when they are dialled.
		if ip := net.ParseIP(r.Host); ip != nil && !ip.IsLoopback() && !c.TLS.Enabled() {
			fault("CLUSTER_ENDPOINT: %w", rpc.CheckDial(r.String(), false))
		}
	}
	for _, p := range []struct {
		name  string
		value env.Port
	}{{"GRPC_PORT", c.GRPCPort}, {"OPS_PORT", c.OpsPort}} {
		if p.value < 0 || p.value > 65535 {
			fault("%s: %d is not a port", p.name, p.value)
		}
	}
	if c.GRPCPort != 0 && c.GRPCPort == c.OpsPort && c.Listener == nil {
		fault("OPS_PORT: %d is also GRPC_PORT", c.OpsPort)
	}
	if n := c.DiscoveryPorts.Count(); n > discovery.MaxPorts {
		fault("DISCOVERY_PORTS: %d ports are more than %d", n, discovery.MaxPorts)
	}
	if c.DataDir == "" {
		fault("DATA_DIR: is empty")
	}
	if c.Listener == nil {
		if err := rpc.CheckListen(c.listenHost(), c.TLS.Enabled()); err != nil {
			fault("LISTEN_HOST: %w", err)
		}
	}
	if _, err := logging.ParseLevel(c.LogLevel); err != nil {
		fault("LOG_LEVEL: %w", err)
	}
	if c.DiscoveryInterval < 0 || c.DrainTimeout < 0 {
		fault("DiscoveryInterval and DrainTimeout must not be negative")
	}
	return errors.Join(errs...)
}

// setDefaults fills what programs may leave empty.
func (c *Config) setDefaults() {
	if c.DiscoveryInterval == 0 {
		c.DiscoveryInterval = DefaultDiscoveryInterval
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = DefaultDrainTimeout
	}
}

// listenHost is the address to listen on with the default applied.
func (c *Config) listenHost() string {
	if c.ListenHost == "" && !c.TLS.Enabled() {
		return "127.0.0.1"
	}
	return c.ListenHost
}
