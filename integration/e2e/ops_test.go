package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

func id(l proc.Letter) string { return fmt.Sprint(l.ID) }

func byRecord(letters []proc.Letter, record string) *proc.Letter {
	for i := range letters {
		if letters[i].RecordID == record {
			return &letters[i]
		}
	}
	return nil
}

func (r *rig) remove(name string) {
	r.t.Helper()
	if err := os.Remove(r.path(name)); err != nil {
		r.t.Fatal(err)
	}
}

func TestDaemons_TellHowTheyAre(t *testing.T) {
	t.Parallel()
	r := prepare(t).start()
	r.apply(generate("in", 100, 0), r.fileSink("out"), manifest("Pipeline", "p", "{source: in, sink: out}"))
	r.cli.AwaitPhase("p", "Completed")
	for ops, metric := range map[string]string{r.router.Ops(): "conveyor_router_leader 1", r.sidecar.Ops(): "conveyor_sidecar_registered 1"} {
		for _, path := range []string{"/healthz", "/readyz"} {
			if status, body := proc.Get(t.Context(), ops, path); status != http.StatusOK {
				t.Errorf("%s%s: %d %s", ops, path, status, body)
			}
		}
		if _, body := proc.Get(t.Context(), ops, "/metrics"); !strings.Contains(body, metric) {
			t.Errorf("the metrics at %s lack %q", ops, metric)
		}
	}
	r.router.Kill()
	proc.Until(t, func() string {
		if status, body := proc.Get(t.Context(), r.sidecar.Ops(), "/healthz"); status != http.StatusOK {
			return fmt.Sprintf("without a router the sidecar is not alive: %d %s", status, body)
		}
		return ""
	})
}

func TestSidecar_DeregistersWhenItIsStopped(t *testing.T) {
	t.Parallel()
	r := prepare(t).start()
	r.apply(generate("in", 1_000_000, rate), r.fileSink("out"), manifest("Pipeline", "p", "{source: in, sink: out}"))
	r.awaitLines("out", 100)
	r.sidecar.Stop()
	var list struct{ Items []any }
	r.cli.JSON(&list, "get", "sidecars")
	if len(list.Items) != 0 {
		t.Errorf("%d sidecars are there after the only one was stopped", len(list.Items))
	}
	p, _ := r.cli.Pipeline("p")
	if written := len(r.lines("out")); len(p.Status.Lanes) != 1 || p.Status.Lanes[0].CheckpointedThrough != uint64(written) {
		t.Errorf("%d records are written, and the checkpoint is %+v", written, p.Status.Lanes)
	}
}

func TestBinaries_ReportEveryFaultOfTheirConfigurationAtOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		binary string
		env    []string
		want   []string
	}{
		{"conveyor-router", []string{"GRPC_PORT=x", "OPS_PORT=99999", "RAFT_NODE_ID=0", "LOG_LEVEL=loud"}, []string{"GRPC_PORT", "OPS_PORT", "RAFT_NODE_ID", "LOG_LEVEL"}},
		{"conveyor-router", []string{"LISTEN_HOST=0.0.0.0"}, []string{"LISTEN_HOST"}},
		{"conveyor-sidecar", []string{"GRPC_PORT=-1", "DISCOVERY_PORTS=9-1", "CLUSTER_ENDPOINT=nowhere", "LOG_LEVEL=loud"}, []string{"GRPC_PORT", "DISCOVERY_PORTS", "CLUSTER_ENDPOINT", "LOG_LEVEL"}},
		{"conveyor-connect", []string{"CONNECT_LISTEN=8.8.8.8:1", "LOG_LEVEL=loud", "TLS_CERT_FILE=x"}, []string{"LOG_LEVEL", "TLS_CERT_FILE"}},
	} {
		p := proc.Start(t, proc.Spec{Name: c.binary, Path: proc.Binary(t, c.binary), Env: append(c.env, "DATA_DIR="+t.TempDir())})
		if code := p.Wait(); code != 2 {
			t.Errorf("%s %v ended with code %d: %s", c.binary, c.env, code, p.Log())
		}
		for _, want := range c.want {
			if !strings.Contains(p.Log(), want) {
				t.Errorf("%s %v does not name %s: %s", c.binary, c.env, want, p.Log())
			}
		}
	}
}

func TestBinaries_PrintTheirConfigurationAndItsOrigin(t *testing.T) {
	t.Parallel()
	for binary, want := range map[string][]string{
		"conveyor-router":  {"grpc-port: 50051", "raft-node-id: 1", "raft-peers:", "data-dir: ./data", "ops-port: 9090", "log-level: debug", "env LOG_LEVEL"},
		"conveyor-sidecar": {"sidecar-id:", "cluster-endpoint: conveyor-etl-router:50051", "grpc-port: 9091", "discovery-ports: 50051-50060", "ops-port: 9092", "data-dir: ./sidecar-data", "log-level: debug"},
		"conveyor-connect": {"127.0.0.1:50052", "debug", "default", "LOG_LEVEL"},
	} {
		p := proc.Start(t, proc.Spec{Name: binary, Path: proc.Binary(t, binary), Args: []string{"--print-config"}, Env: []string{"LOG_LEVEL=debug"}})
		if code := p.Wait(); code != 0 {
			t.Errorf("%s --print-config ended with code %d", binary, code)
		}
		for _, w := range want {
			if !strings.Contains(p.Log(), w) {
				t.Errorf("%s --print-config lacks %s:\n%s", binary, w, p.Log())
			}
		}
	}
}

func TestBinaries_SayWhichPortIsTaken(t *testing.T) {
	t.Parallel()
	r := prepare(t).start()
	taken := fmt.Sprint(r.connect.Port)
	for binary, spec := range map[string]proc.Spec{
		"conveyor-router":  {Env: []string{"GRPC_PORT=" + taken, "OPS_PORT=0", "DATA_DIR=" + t.TempDir()}},
		"conveyor-sidecar": {Env: []string{"GRPC_PORT=" + taken, "OPS_PORT=0", "DATA_DIR=" + t.TempDir(), "CLUSTER_ENDPOINT=" + r.router.Addr()}},
		"conveyor-connect": {Args: []string{"--listen", r.connect.Addr()}},
	} {
		spec.Name, spec.Path = binary, proc.Binary(t, binary)
		p := proc.Start(t, spec)
		if code := p.Wait(); code != 1 || !strings.Contains(p.Log(), taken) || !strings.Contains(p.Log(), "in use") {
			t.Errorf("%s at a port that is taken ends with code %d: %s", binary, code, p.Log())
		}
	}
}

// What supervises a router can tell that it must not start it again.
func TestRouter_WhoseStateIsDamagedSaysSoByCodeAndByExitCode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	router := proc.NewRouter(t)
	router.KeepIn(filepath.Join(dir, "router")) // where conveyor dev has it, too
	router.Start()
	router.AwaitReady()
	router.Stop()
	path := filepath.Join(dir, "router", "raft", "identity.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	router.Start()
	if code := router.Wait(); code != 5 || !strings.Contains(router.Log(), "RAFT_DAMAGED: ") || !strings.Contains(router.Log(), path) {
		t.Errorf("it ended with code %d and said:\n%s", code, router.Log())
	}
	if r := proc.NewLocalCLI(t).Try("dev", "--data", dir); r.Code != 1 || !strings.Contains(r.Stderr, "error[RAFT_DAMAGED]") {
		t.Errorf("conveyor dev: %+v", r)
	}
}
