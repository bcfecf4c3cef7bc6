package command_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"

	"github.com/conveyor-etl/conveyor/connectors/internal/command"
	"github.com/conveyor-etl/conveyor/sdk/sdktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func run(args []string, env map[string]string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = command.Run(context.Background(), args, func(k string) string { return env[k] }, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestConnect_RefusesWhatWouldBeUnsafeOrWrong(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		want []string
	}{
		"all addresses":  {[]string{"--listen", "0.0.0.0:50052"}, nil, []string{"only loopback", "TLS_CERT_FILE"}},
		"a name":         {[]string{"--listen", "example.test:50052"}, nil, []string{"only loopback"}},
		"several faults": {[]string{"--listen", "x"}, map[string]string{"LOG_LEVEL": "loud", "TLS_KEY_FILE": "k"}, []string{"CONNECT_LISTEN", "LOG_LEVEL", "TLS_CERT_FILE"}},
		"arguments":      {[]string{"serve"}, nil, []string{`"serve"`}},
	} {
		code, _, stderr := run(tc.args, tc.env)
		if code != 2 {
			t.Errorf("%s: code %d", name, code)
		}
		for _, want := range tc.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s: stderr %q, want %q in it", name, stderr, want)
			}
		}
	}
}

func TestConnect_PrintsWhereItsConfigurationComesFrom(t *testing.T) {
	code, stdout, _ := run([]string{"--print-config", "--log-level", "debug"}, map[string]string{"CONNECT_LISTEN": "127.0.0.1:1"})
	for _, want := range []string{`"value": "127.0.0.1:1",`, `"origin": "CONNECT_LISTEN"`, `"origin": "--log-level"`, `"origin": "default"`} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("code %d, stdout %s, want %s in it", code, stdout, want)
		}
	}
}

func TestConnect_ServesUntilItIsToldToStop(t *testing.T) {
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	taken, _, stderr := run([]string{"--listen", addr}, nil)
	if taken != 1 || !strings.Contains(stderr, "listen on "+addr) {
		t.Errorf("a port already taken gave code %d and %q", taken, stderr)
	}
	lis.Close()
	ctx, stop := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		var out, errs bytes.Buffer
		code <- command.Run(ctx, []string{"--listen", addr}, func(string) string { return "" }, strings.NewReader(""), &out, &errs)
	}()
	c := sdktest.Dial(t, addr)
	if n := len(c.Describe(t, conveyorv1.ServiceKind_SERVICE_KIND_SINK)); n != 7 {
		t.Errorf("%d abilities, want 7", n)
	}
	c.MustOpenSource(t, sdktest.Open{Type: "generate"}).Close()
	stop()
	select {
	case got := <-code:
		if got != 0 {
			t.Errorf("code %d", got)
		}
	case <-time.After(sdktest.Patience):
		t.Fatal("it did not stop")
	}
}
