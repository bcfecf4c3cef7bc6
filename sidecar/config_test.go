package sidecar_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/sidecar"
)

func TestDefaultConfig_IsWhatTheEnvironmentGivesWithoutSettings(t *testing.T) {
	var got sidecar.Config
	if _, err := env.Load(&got, env.Input{}); err != nil {
		t.Fatal(err)
	}
	want := sidecar.DefaultConfig()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(sidecar.Config{}, "DiscoveryInterval", "DrainTimeout")); diff != "" {
		t.Errorf("(-default +environment):\n%s", diff)
	}
	if err := want.Validate(); err != nil {
		t.Errorf("the default is refused: %v", err)
	}
}

func TestValidate_ReportsEveryFaultWithItsSetting(t *testing.T) {
	cases := map[string]struct {
		change func(*sidecar.Config)
		want   []string // settings at fault
	}{
		"id":                       {func(c *sidecar.Config) { c.ID = "a/b" }, []string{"SIDECAR_ID"}},
		"no routers":               {func(c *sidecar.Config) { c.Routers = nil }, []string{"CLUSTER_ENDPOINT"}},
		"router without certs":     {func(c *sidecar.Config) { c.Routers = env.HostPorts{{Host: "10.0.0.1", Port: 50051}} }, []string{"CLUSTER_ENDPOINT"}},
		"one port twice":           {func(c *sidecar.Config) { c.OpsPort = c.GRPCPort }, []string{"OPS_PORT"}},
		"too many ports":           {func(c *sidecar.Config) { c.DiscoveryPorts = env.Ports{{First: 1, Last: 65}} }, []string{"DISCOVERY_PORTS"}},
		"listening in the clear":   {func(c *sidecar.Config) { c.ListenHost = "0.0.0.0" }, []string{"LISTEN_HOST"}},
		"listening with certs":     {func(c *sidecar.Config) { c.ListenHost, c.TLS = "0.0.0.0", certs.Files{Cert: "a", Key: "b", CA: "c"} }, nil},
		"level":                    {func(c *sidecar.Config) { c.LogLevel = "loud" }, []string{"LOG_LEVEL"}},
		"directory":                {func(c *sidecar.Config) { c.DataDir = "" }, []string{"DATA_DIR"}},
		"no discovery is no fault": {func(c *sidecar.Config) { c.DiscoveryPorts = nil }, nil},
		"everything at once": {func(c *sidecar.Config) {
			c.ID, c.Routers, c.DataDir, c.LogLevel, c.GRPCPort, c.DrainTimeout = "-", nil, "", "loud", 70000, -1
		}, []string{"SIDECAR_ID", "CLUSTER_ENDPOINT", "GRPC_PORT", "DATA_DIR", "LOG_LEVEL", "DiscoveryInterval"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := sidecar.DefaultConfig()
			c.change(&cfg)
			if diff := cmp.Diff(c.want, settings(cfg.Validate())); diff != "" {
				t.Errorf("settings at fault (-want +got):\n%s", diff)
			}
		})
	}
}

// settings returns the first word of each fault.
func settings(err error) []string {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var out []string
	for _, e := range joined.Unwrap() {
		word := e.Error()
		for i, r := range word {
			if r == ':' || r == ' ' {
				word = word[:i]
				break
			}
		}
		out = append(out, word)
	}
	return out
}

func TestNew_NamesMissingCertificateFiles(t *testing.T) {
	cfg := sidecar.DefaultConfig()
	cfg.TLS.Cert = "cert.pem"
	s, err := sidecar.New(cfg, nil)
	if err == nil {
		t.Fatal(errors.Join(errors.New("accepted"), s.Close()))
	}
}
