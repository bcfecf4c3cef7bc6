package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestRun_TellsWhatItWasAskedFor(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  map[string]string
		exit int
		want string
	}{
		{args: []string{"--help"}, exit: 0, want: "RAFT_PEERS"},
		{args: []string{"--print-config"}, env: map[string]string{"OPS_PORT": "9999"}, exit: 0, want: "ops-port: 9999"},
		{args: []string{"--ops-port", "x"}, env: map[string]string{"RAFT_PEERS": "a:b"}, exit: 2, want: "RAFT_PEERS"},
		{args: []string{"--raft-peers", "127.0.0.1:1,127.0.0.1:2", "--raft-node-id", "3"}, exit: 2, want: "does not list this router"},
		{args: []string{"--listen-host", "192.0.2.1"}, exit: 2, want: "without certificates"},
		{args: []string{"--tls-cert-file", "/no/c", "--tls-key-file", "/no/k", "--tls-ca-file", "/no/ca"}, exit: 2, want: "configuration: TLS_CERT_FILE: open /no/c"},
	} {
		var out bytes.Buffer
		exit := run(context.Background(), c.args, func(k string) string { return c.env[k] }, &out, &out, func(int) {})
		if exit != c.exit || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v: exit %d, want %d with %q in\n%s", c.args, exit, c.exit, c.want, out.String())
		}
	}
}

func TestRun_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	env := map[string]string{"GRPC_PORT": "0", "OPS_PORT": "0", "DATA_DIR": t.TempDir()}
	out := watch{ready: cancel}
	if exit := run(ctx, nil, func(k string) string { return env[k] }, &out, &out, func(int) {}); exit != 0 {
		t.Errorf("exit %d", exit)
	}
}

// watch calls ready when the log says that the router is.
type watch struct{ ready func() }

func (w *watch) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("router is ready")) {
		w.ready()
	}
	return len(b), nil
}
