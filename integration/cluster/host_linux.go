package cluster

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	"github.com/conveyor-etl/conveyor/integration/lan"
)

// Host is a machine that is a network namespace, and its router a process.
type Host struct {
	*lan.Host
	*proc.Process
	t    testing.TB
	r    Router
	data string
	made int // how many directories of data
}

// NewHost makes a machine in a network.
func NewHost(t testing.TB, n *lan.Network, r Router) *Host {
	t.Helper()
	h := &Host{Host: n.Host(r.Name), t: t, r: r}
	h.Wipe()
	return h
}

// Wipe gives the machine an empty disk. Its router does not run.
func (h *Host) Wipe() {
	h.made++
	h.data = filepath.Join(h.t.TempDir(), "data-"+strconv.Itoa(h.made))
}

// Start starts the router.
func (h *Host) Start() {
	h.t.Helper()
	h.Process = proc.Start(h.t, h.On(proc.Spec{
		Name: h.r.Name, Path: proc.Binary(h.t, "conveyor-router"),
		Env: append([]string{
			"DATA_DIR=" + h.data, "GRPC_PORT=" + strconv.Itoa(Port),
			"TLS_CERT_FILE=" + filepath.Join(h.r.Certs, "tls.crt"), "TLS_KEY_FILE=" + filepath.Join(h.r.Certs, "tls.key"), "TLS_CA_FILE=" + filepath.Join(h.r.Certs, "ca.crt"),
		}, h.r.Env...),
	}))
}
