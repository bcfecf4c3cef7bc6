package main

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/conveyor-etl/conveyor/sidecar/internal/routertest"
)

func TestRun_ReportsAllFaultsOfTheSettings(t *testing.T) {
	var out, errs bytes.Buffer
	settings := map[string]string{"GRPC_PORT": "x", "SIDECAR_ID": "a b", "LISTEN_HOST": "0.0.0.0", "DISCOVERY_PORTS": "1-100", "TLS_CERT_FILE": "c"}
	code := run(context.Background(), []string{"--log-level", "loud"}, func(k string) string { return settings[k] }, &out, &errs, nil)
	if code != exitInvalid {
		t.Errorf("exit code %d", code)
	}
	for _, name := range []string{"GRPC_PORT", "SIDECAR_ID", "DISCOVERY_PORTS", "LOG_LEVEL", "TLS_KEY_FILE"} {
		if !strings.Contains(errs.String(), name) {
			t.Errorf("nothing about %s in:\n%s", name, errs.String())
		}
	}
}

func TestRun_CertificatesThatCannotBeUsedAreAWrongConfiguration(t *testing.T) {
	var out bytes.Buffer
	settings := map[string]string{"TLS_CERT_FILE": "/nowhere/tls.crt", "TLS_KEY_FILE": "/nowhere/tls.key", "TLS_CA_FILE": "/nowhere/ca.crt", "GRPC_PORT": "0", "OPS_PORT": "0"}
	code := run(context.Background(), nil, func(k string) string { return settings[k] }, &out, &out, nil)
	if code != exitInvalid || !strings.HasPrefix(out.String(), "configuration: TLS_CERT_FILE: open /nowhere/tls.crt") {
		t.Errorf("exit code %d:\n%s", code, out.String())
	}
}

func TestRun_PrintsTheSettingsWithTheirOrigin(t *testing.T) {
	var out bytes.Buffer
	env := func(k string) string { return map[string]string{"OPS_PORT": "1234"}[k] }
	if code := run(context.Background(), []string{"--print-config"}, env, &out, &out, nil); code != exitOK {
		t.Fatalf("exit code %d: %s", code, out.String())
	}
	for _, part := range []string{"ops-port: 1234", "env OPS_PORT", "cluster-endpoint: conveyor-etl-router:50051", "discovery-ports: 50051-50060"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is missing in:\n%s", part, out.String())
		}
	}
}

// The real binary as its users run it: it registers, is told to stop, and says farewell.
func TestProcess_DeregistersOnSIGTERM(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "conveyor-sidecar")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	r := routertest.Start(t)
	_, port, err := net.SplitHostPort(r.Address())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "--grpc-port=0", "--ops-port=0")
	cmd.Env = []string{"SIDECAR_ID=s1", "CLUSTER_ENDPOINT=localhost:" + port, "DATA_DIR=" + t.TempDir(), "DISCOVERY_PORTS=1"}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Until(t, "a registration", func(s *routertest.State) bool { return len(s.Acks) > 0 })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v:\n%s", err, log.String())
	}
	r.Change(func(s *routertest.State) {
		if len(s.Deregistered) != 1 || s.Deregistered[0] != "s1" {
			t.Errorf("deregistered: %v\n%s", s.Deregistered, log.String())
		}
	})
}
