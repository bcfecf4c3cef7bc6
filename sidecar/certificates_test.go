package sidecar_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/sidecar"
)

func issuer(t *testing.T) func(role certs.Role, name string) certs.Files {
	t.Helper()
	ca, err := certs.NewAuthority(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return func(role certs.Role, name string) certs.Files {
		t.Helper()
		files, err := ca.Issue(certs.Identity{Role: role, Name: name}, []string{"127.0.0.1"}, time.Hour, filepath.Join(t.TempDir(), "part"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
}

// alone is the configuration of a sidecar whose routers are not there.
func alone(t *testing.T, files certs.Files) sidecar.Config {
	t.Helper()
	cfg := sidecar.DefaultConfig()
	cfg.Routers, cfg.GRPCPort, cfg.OpsPort, cfg.DiscoveryPorts = env.HostPorts{{Host: "127.0.0.1", Port: 1}}, 0, 0, nil
	cfg.DataDir, cfg.ListenHost, cfg.TLS, cfg.DrainTimeout = t.TempDir(), "127.0.0.1", files, time.Second
	return cfg
}

// begin runs a sidecar until its ops port answers, and returns what the metrics are then and how the run ended.
func begin(t *testing.T, cfg sidecar.Config) (metrics string, err error) {
	t.Helper()
	s, err := sidecar.New(cfg, nil)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := s.Run(ctx)
		cancel()
		ended <- err
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.OpsAddr().String()+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if resp, err := web.Do(req); err == nil {
		text, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Error(err)
		}
		metrics = string(text)
	}
	cancel()
	return metrics, <-ended
}

func TestCertificates_ASidecarStartsOnlyWithItsOwn(t *testing.T) {
	issue := issuer(t)
	for _, tc := range []struct {
		files certs.Files
		id    string
		want  string
	}{
		{issue(certs.RoleRouter, "1"), "", "it is the certificate of router/1, and this is a sidecar"},
		{issue(certs.RoleSidecar, "east"), "west", "it is the certificate of sidecar/east, and this is sidecar/west by its SIDECAR_ID: set SIDECAR_ID=east"},
		{issue(certs.RoleSidecar, "any"), "west", ""},
		{issue(certs.RoleSidecar, "east"), "east", ""},
	} {
		cfg := alone(t, tc.files)
		cfg.ID = tc.id
		s, err := sidecar.New(cfg, nil)
		if fault := (*certs.Error)(nil); tc.want != "" && (!errors.As(err, &fault) || !strings.Contains(err.Error(), tc.want)) || tc.want == "" && err != nil {
			t.Errorf("%s as %q: %v, want %q", tc.files.Cert, tc.id, err, tc.want)
		}
		if err == nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestCertificates_ASidecarWithoutAnIDTakesTheNameOfItsCertificate(t *testing.T) {
	issue := issuer(t)
	cfg := alone(t, issue(certs.RoleSidecar, "east"))
	if _, err := begin(t, cfg); err != nil {
		t.Fatal(err)
	}
	cfg.TLS = issue(certs.RoleSidecar, "west")
	if _, err := begin(t, cfg); err == nil || !strings.Contains(err.Error(), "it is the certificate of sidecar/west, and this is sidecar/east by its DATA_DIR") {
		t.Errorf("the directory of east with the certificate of west: %v", err)
	}
}

func TestMetrics_TellWhenTheCertificateEnds(t *testing.T) {
	cfg := alone(t, issuer(t)(certs.RoleSidecar, "any"))
	store, err := certs.Load(cfg.TLS, nil)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := begin(t, cfg)
	if want := fmt.Sprintf("conveyor_sidecar_certificate_end_timestamp_seconds %v\n", float64(store.End().Unix())); err != nil || !strings.Contains(metrics, want) {
		t.Errorf("%v, want %q in:\n%s", err, want, metrics)
	}
}
