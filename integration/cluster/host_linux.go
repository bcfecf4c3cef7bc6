package cluster

import (
	"os"
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
}

// NewHost makes a machine in a network.
func NewHost(t testing.TB, n *lan.Network, r Router) *Host {
	t.Helper()
	h := &Host{Host: n.Host(r.Name), t: t, r: r}
	h.KeepOn(t.TempDir())
	return h
}

// KeepOn gives the machine the disk that is mounted at dir. Its router does not run.
func (h *Host) KeepOn(dir string) { h.data = filepath.Join(dir, "data") }

// Wipe takes all data from the machine. Its router does not run.
func (h *Host) Wipe() {
	h.t.Helper()
	if err := os.RemoveAll(h.data); err != nil {
		h.t.Fatalf("wipe the disk of %s: %v", h.Name(), err)
	}
}

// Data is the directory that the router keeps everything in.
func (h *Host) Data() string { return h.data }

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
