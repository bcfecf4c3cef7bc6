package ops_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/internal/ops"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run starts a server that stops with the test, and returns its URL.
func run(t *testing.T, cfg ops.Config, reg *prometheus.Registry, checks ops.Checks) string {
	t.Helper()
	s, err := ops.New(cfg, reg, checks)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	_, port, err := net.SplitHostPort(s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "http://127.0.0.1:" + port
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServer_Metrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector()) // somebody was first: no reason to fail
	records := prometheus.NewCounter(prometheus.CounterOpts{Name: "conveyor_sidecar_records_total"})
	reg.MustRegister(records)
	records.Add(3)
	code, body := get(t, run(t, ops.Config{Host: "127.0.0.1"}, reg, nil)+"/metrics")
	if code != http.StatusOK {
		t.Errorf("status %d", code)
	}
	for _, want := range []string{"conveyor_sidecar_records_total 3", "go_goroutines ", "process_start_time_seconds "} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
}

func TestServer_ReadyNamesWhatFails(t *testing.T) {
	var broken atomic.Bool
	url := run(t, ops.Config{Host: "127.0.0.1"}, prometheus.NewRegistry(), ops.Checks{
		"disk": func(context.Context) error { return nil },
		"leader": func(context.Context) error {
			if broken.Load() {
				return errors.New("no leader is known")
			}
			return nil
		},
	})
	type report struct {
		Status  string
		Failing map[string]string
	}
	want := func(path string, wantCode int, want report) {
		t.Helper()
		code, body := get(t, url+path)
		var got report
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		if diff := cmp.Diff(want, got); code != wantCode || diff != "" {
			t.Errorf("%s: status %d, want %d; -want +got:\n%s", path, code, wantCode, diff)
		}
	}
	want("/readyz", http.StatusOK, report{Status: "ok"})
	broken.Store(true)
	want("/readyz", http.StatusServiceUnavailable, report{Status: "failing", Failing: map[string]string{"leader": "no leader is known"}})
	want("/healthz", http.StatusOK, report{Status: "ok"})
}

func TestServer_HangingCheckIsNamedAndNotPiledUp(t *testing.T) {
	var calls atomic.Int32
	release := make(chan struct{})
	s, err := ops.New(ops.Config{Host: "127.0.0.1"}, prometheus.NewRegistry(), ops.Checks{
		"stuck": func(context.Context) error { calls.Add(1); <-release; return nil },
		"disk":  func(context.Context) error { return errors.New("full") },
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(ctx, http.MethodGet, "/readyz", nil))
		cancel()
		for _, want := range []string{`"stuck":"no answer in time"`, `"disk":"full"`} {
			if rec.Code != http.StatusServiceUnavailable || !strings.Contains(rec.Body.String(), want) {
				t.Errorf("status %d, %s; want %s in it", rec.Code, rec.Body, want)
			}
		}
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("the hanging check was started %d times", n)
	}
	close(release)
}

func TestServer_ProfilesOnLoopbackOnly(t *testing.T) {
	if code, body := get(t, run(t, ops.Config{Host: "127.0.0.1"}, prometheus.NewRegistry(), nil)+"/debug/pprof/goroutine?debug=1"); code != http.StatusOK || !strings.Contains(body, "goroutine profile") {
		t.Errorf("on loopback: status %d", code)
	}
	if code, _ := get(t, run(t, ops.Config{}, prometheus.NewRegistry(), nil)+"/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("on all addresses: status %d, want 404", code)
	}
}

func TestServer_StopDoesNotWaitForSlowRequests(t *testing.T) {
	url := ""
	begun := make(chan struct{})
	result := make(chan struct{})
	t.Run("running", func(t *testing.T) {
		url = run(t, ops.Config{Host: "127.0.0.1"}, prometheus.NewRegistry(), ops.Checks{"slow": func(ctx context.Context) error {
			close(begun)
			<-ctx.Done()
			return ctx.Err()
		}})
		go func() {
			defer close(result)
			if resp, err := http.Get(url + "/readyz"); err == nil {
				_ = resp.Body.Close()
			}
		}()
		<-begun
	}) // the server stops here
	select {
	case <-result:
	case <-time.After(time.Minute):
		t.Error("the request outlived its server")
	}
}

func TestServer_SaysWhichPortIsTakenAndWhatToDo(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	s, err := ops.New(ops.Config{Host: "127.0.0.1", Port: lis.Addr().(*net.TCPAddr).Port, Setting: "OPS_PORT"}, prometheus.NewRegistry(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), lis.Addr().String()) || !strings.Contains(err.Error(), "OPS_PORT") {
		t.Errorf("Run = %v", err)
	}
}
