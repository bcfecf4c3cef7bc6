package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
)

// runSummary is what `conveyor run -o json` prints.
type runSummary struct {
	Kind      string
	Pipelines []struct {
		Name string
		proc.Counts
	}
}

func (r *rig) runLocal(args ...string) (proc.Result, runSummary) {
	r.t.Helper()
	cli := proc.NewLocalCLI(r.t)
	cli.Dir = r.dir
	res := cli.Try(append([]string{"run", "-f", "pipeline.yaml", "-o", "json"}, args...)...)
	var s runSummary
	if strings.HasPrefix(res.Stdout, "{") {
		if err := json.Unmarshal([]byte(res.Stdout), &s); err != nil {
			r.t.Fatalf("run printed %s: %v", res.Stdout, err)
		}
	}
	return res, s
}

func local(t *testing.T) *rig { return &rig{t: t, dir: t.TempDir()} }

func TestRun_BadInputBecomesDeadLettersAndThePipelineGoesOn(t *testing.T) {
	t.Parallel()
	r := local(t)
	length := 100 << 20
	if proc.Raced {
		length = 8 << 20
	}
	huge := slices.Concat([]byte(`{"seq":2,"x":"`), bytes.Repeat([]byte("y"), length), []byte(`"}`))
	bad := map[string][]byte{
		"invalid JSON":   []byte(`{"seq": oops}`),
		"invalid UTF-8":  []byte("{\"seq\":4,\"x\":\"\xff\xfe\"}"),
		"a huge line":    huge,
		"truncated line": []byte(`{"seq":9,"x`),
	}
	input := bytes.Join([][]byte{
		[]byte(`{"seq":1}`), huge, []byte(`{"seq":2}`), bad["invalid JSON"], []byte(`{"seq":3}`), bad["invalid UTF-8"], []byte(`{"seq":4}`), bad["truncated line"],
	}, []byte("\n"))
	if err := os.WriteFile(r.path("in.ndjson"), input, 0o644); err != nil {
		t.Fatal(err)
	}
	proc.Write(t, r.path("pipeline.yaml"), manifest("Source", "in", "{connector: {type: file, config: {path: in.ndjson}}}"), "---\n", r.fileSink("out"), "---\n",
		manifest("Pipeline", "p", "{source: in, sink: out}"))
	res, s := r.runLocal()
	if res.Code != 0 || len(s.Pipelines) != 1 || s.Pipelines[0].DeadLettered != 4 || s.Pipelines[0].Written != 4 || s.Pipelines[0].Read != 8 {
		t.Fatalf("code %d, summary %+v\n%s", res.Code, s, res.Stderr)
	}
	r.complete("out", 4)

	cli := proc.NewLocalCLI(t)
	letters := cli.Letters("--data", r.path(".conveyor"))
	if len(letters) != 4 {
		t.Fatalf("%d letters: %+v", len(letters), letters)
	}
	for name, line := range bad {
		sum := sha256.Sum256(line)
		want := badLine{
			Path: "in.ndjson", Offset: bytes.Index(input, line), Length: len(line), SHA256: hex.EncodeToString(sum[:]), First: line[:min(len(line), 64<<10)],
		}
		found := false
		for _, l := range letters {
			var got badLine
			if err := json.Unmarshal(l.Payload, &got); err != nil {
				t.Fatalf("the payload of letter %d: %v", l.ID, err)
			}
			if got.Offset != want.Offset {
				continue
			}
			found = true
			if diff := cmp.Diff(want, got); diff != "" || l.Stage != "in" || l.Class != "permanent" {
				t.Errorf("%s: stage %s, class %s, payload (-want +got):\n%s", name, l.Stage, l.Class, diff)
			}
		}
		if !found {
			t.Errorf("%s: no letter is about offset %d", name, want.Offset)
		}
	}
}

// badLine is what a dead letter tells of input of which no record could be made.
type badLine struct {
	Path   string
	Offset int
	Length int
	SHA256 string
	First  []byte
}

func TestRun_AnUnreachableEndpointIsNamed(t *testing.T) {
	t.Parallel()
	r := local(t)
	port := proc.Port(t)
	proc.Write(t, r.path("pipeline.yaml"), generate("in", 10, 0), "---\n", r.grpcSink("out", port, ""), "---\n", manifest("Pipeline", "p", "{source: in, sink: out}"))
	res, _ := r.runLocal("--stall-timeout", "3s", "--drain-timeout", "500ms")
	if res.Code != 3 || !strings.Contains(res.Stderr, "out") || !strings.Contains(res.Stderr, fmt.Sprint(port)) || !strings.Contains(res.Stderr, "refused") {
		t.Errorf("code %d: %s", res.Code, res.Stderr)
	}
}

func TestRun_AServiceThatAnswersRubbishIsNamed(t *testing.T) {
	t.Parallel()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nrubbish")
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = lis.Close(); <-done })
	r := local(t)
	port := lis.Addr().(*net.TCPAddr).Port
	proc.Write(t, r.path("pipeline.yaml"), generate("in", 10, 0), "---\n", r.grpcSink("out", port, ""), "---\n", manifest("Pipeline", "p", "{source: in, sink: out}"))
	res, _ := r.runLocal("--stall-timeout", "3s", "--drain-timeout", "500ms")
	if res.Code != 1 || !strings.Contains(res.Stderr, "stage out") || !strings.Contains(res.Stderr, fmt.Sprint(port)) {
		t.Errorf("code %d: %s", res.Code, res.Stderr)
	}
}

func TestRun_AFullDiskLosesNothing(t *testing.T) {
	t.Parallel()
	r := local(t)
	full := r.path("full")
	mountFull(t, full, 1<<20)
	const count = 20000
	proc.Write(t, r.path("pipeline.yaml"), generate("in", count, 0), "---\n",
		manifest("Sink", "out", "{connector: {type: file, config: {path: full/out.ndjson, recordId: id}}}"), "---\n", manifest("Pipeline", "p", "{source: in, sink: out}"))
	proc.Write(t, r.path("full/ballast"), strings.Repeat("x", 700<<10))
	res, _ := r.runLocal("--stall-timeout", "3s", "--drain-timeout", "500ms")
	if res.Code != 1 || !strings.Contains(res.Stderr, "no space left") || !strings.Contains(res.Stderr, "out") {
		t.Errorf("code %d: %s", res.Code, res.Stderr)
	}
	if err := os.Remove(r.path("full/ballast")); err != nil {
		t.Fatal(err)
	}
	remountFull(t, full, 64<<20)
	if res, _ := r.runLocal(); res.Code != 0 {
		t.Fatalf("with room again: code %d: %s", res.Code, res.Stderr)
	}
	r.dir = full
	r.complete("out", count)
}

func TestSidecars_OfOneIDOneIsSentAwayAndTheOtherGoesOn(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]func(r *rig) *proc.Sidecar{
		"of two addresses": func(r *rig) *proc.Sidecar { return proc.NewSidecar(r.t, "one", r.router, []int{r.connect.Port}) },
		// As the copy of a machine, which has its name.
		"of one address": func(r *rig) *proc.Sidecar {
			return proc.NewSidecar(r.t, "one", r.router, []int{r.connect.Port}, "ADVERTISE_ADDRESS="+r.sidecar.Address())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := prepare(t).start()
			second := second(r)
			second.Start()
			r.apply(r.simple(1000)...)
			proc.Until(t, func() string {
				if r.sidecar.Running() && second.Running() {
					return "two sidecars with one id run"
				}
				return ""
			})
			lost, kept := r.sidecar, second
			if r.sidecar.Running() {
				lost, kept = second, r.sidecar
			}
			if code := lost.Wait(); code != 1 || !strings.Contains(lost.Log(), "give one of them another SIDECAR_ID") {
				t.Errorf("it ended with code %d:\n%s", code, lost.Log())
			}
			r.cli.AwaitPhase("p", "Completed")
			r.complete("out", 1000)
			if !kept.Running() {
				t.Error("the other one ended too")
			}
		})
	}
}
