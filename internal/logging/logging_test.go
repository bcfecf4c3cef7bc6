package logging_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/conveyor-etl/conveyor/internal/logging"
)

func TestNew_TextIsOneReadableLine(t *testing.T) {
	var b bytes.Buffer
	log, err := logging.New(&b, "info", "text")
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("not shown")
	log.Info("router started")
	log.With("part", "sidecar").WithGroup("edge").Warn("stage waits\nfor its sink", "err", errors.New("no route"), "level", 3, "msg", "kept")
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %d lines: %q", len(lines), b.String())
	}
	for i, want := range []string{
		`^\d\d:\d\d:\d\d\.\d{3} INFO  router started$`,
		`^\d\d:\d\d:\d\d\.\d{3} WARN  "stage waits\\nfor its sink" part=sidecar edge\.err="no route" edge\.level=3 edge\.msg=kept$`,
	} {
		if !regexp.MustCompile(want).MatchString(lines[i]) {
			t.Errorf("line %d = %q, want %s", i, lines[i], want)
		}
	}
}

func TestNew_AutoIsJSONForMachines(t *testing.T) {
	var b bytes.Buffer
	log, err := logging.New(&b, "WARN", "auto")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not shown")
	log.Error("disk full", "dir", "/data")
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%q: %v", b.String(), err)
	}
	if got["msg"] != "disk full" || got["dir"] != "/data" || got["level"] != "ERROR" {
		t.Errorf("got %v", got)
	}
}

func TestNew_RefusesUnknownNames(t *testing.T) {
	for _, tc := range []struct{ level, format, want string }{
		{"loud", "text", `log level "loud" is not one of debug, info, warn, error`},
		{"info+2", "text", `log level "info+2" is not one of debug, info, warn, error`},
		{"info", "xml", `log format "xml" is not one of auto, text, json`},
	} {
		if _, err := logging.New(os.Stderr, tc.level, tc.format); err == nil || err.Error() != tc.want {
			t.Errorf("New(%q, %q) = %v, want %s", tc.level, tc.format, err, tc.want)
		}
	}
}

// lineWriter fails the test when a Write is not exactly one line.
type lineWriter struct{ t *testing.T }

func (w lineWriter) Write(p []byte) (int, error) {
	if bytes.Count(p, []byte("\n")) != 1 || !bytes.HasSuffix(p, []byte("\n")) {
		w.t.Errorf("write of %q", p)
	}
	return len(p), nil
}

func TestNew_ConcurrentLinesStayWhole(t *testing.T) {
	log, err := logging.New(lineWriter{t}, "info", "text")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			child := log.With("k", "v")
			for i := range 100 {
				child.Info("line", "i", i)
			}
		})
	}
	wg.Wait()
}
