package env_test

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/google/go-cmp/cmp"
)

type config struct {
	GRPCPort  env.Port      `env:"GRPC_PORT" flag:"grpc-port" default:"50051" desc:"port of the gRPC server"`
	Peers     env.Peers     `env:"RAFT_PEERS" flag:"raft-peers" desc:"all nodes of the cluster"`
	DataDir   string        `env:"DATA_DIR" flag:"data-dir" default:"./data" desc:"where state is kept"`
	Discovery env.Ports     `env:"DISCOVERY_PORTS" flag:"discovery-ports" default:"50051-50060"`
	Endpoints env.HostPorts `env:"CLUSTER_ENDPOINT" flag:"cluster-endpoint"`
	Timeout   time.Duration `flag:"timeout" default:"10s"`
	Memory    env.Bytes     `env:"MEMORY" flag:"memory" default:"64MiB"`
	Verbose   bool          `env:"VERBOSE" flag:"verbose"`
	Workers   int           `env:"WORKERS" flag:"workers" default:"4"`
	Tags      []string      `env:"TAGS" flag:"tags"`
	Token     string        `env:"TOKEN" flag:"token" secret:"true"`
	Pin       int           `env:"PIN" flag:"pin" secret:"true"`
	Derived   string        // without a tag: not ours
	Nested    pair
}

type pair struct {
	Cert string `env:"CERT" flag:"cert"`
	Key  string `env:"KEY" flag:"key"`
}

func (p *pair) Validate() error {
	if (p.Cert == "") != (p.Key == "") {
		return errors.New("CERT, KEY: give both or none")
	}
	return nil
}

func defaults() config {
	return config{
		GRPCPort: 50051, DataDir: "./data", Discovery: env.Ports{{First: 50051, Last: 50060}},
		Timeout: 10 * time.Second, Memory: 64 << 20, Workers: 4,
	}
}

func input(args []string, vars map[string]string, file string) env.Input {
	return env.Input{
		Program: "conveyor-router",
		Args:    args,
		Getenv:  func(name string) string { return vars[name] },
		File: func(path string) ([]byte, error) {
			if path != "c.yaml" {
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			return []byte(file), nil
		},
	}
}

func TestLoad(t *testing.T) {
	cases := []struct {
		name string
		args []string
		vars map[string]string
		file string
		want func(*config)
	}{
		{name: "nothing is set", want: func(*config) {}},
		{
			name: "every kind, from the environment",
			vars: map[string]string{
				"GRPC_PORT": "1", "RAFT_PEERS": "a:1, x=b:2,[::1]:3", "DISCOVERY_PORTS": "1-3, 7", "CLUSTER_ENDPOINT": "r1:50051,r2:50052",
				"MEMORY": "1GB", "VERBOSE": "true", "WORKERS": "-1", "TAGS": "a, b", "TOKEN": "s3cret", "CERT": "c", "KEY": "k",
			},
			want: func(c *config) {
				c.GRPCPort = 1
				c.Peers = env.Peers{{"1", env.HostPort{"a", 1}}, {"x", env.HostPort{"b", 2}}, {"3", env.HostPort{"::1", 3}}}
				c.Discovery = env.Ports{{1, 3}, {7, 7}}
				c.Endpoints = env.HostPorts{{"r1", 50051}, {"r2", 50052}}
				c.Memory, c.Verbose, c.Workers, c.Tags, c.Token = 1e9, true, -1, []string{"a", "b"}, "s3cret"
				c.Nested = pair{"c", "k"}
			},
		},
		{
			name: "flag over environment over file over default",
			args: []string{"--config", "c.yaml", "--workers=1", "--timeout", "1m"},
			vars: map[string]string{"WORKERS": "2", "DATA_DIR": "/env", "MEMORY": ""},
			file: "workers: 3\ndata-dir: /file\nmemory: 1KiB\ndiscovery-ports: [5, 7-8]\ntoken: 'x: y' # why\n",
			want: func(c *config) {
				c.Workers, c.Timeout, c.DataDir, c.Memory, c.Token = 1, time.Minute, "/env", 1024, "x: y"
				c.Discovery = env.Ports{{5, 5}, {7, 8}}
			},
		},
		{
			name: "an overridden fault does no harm",
			args: []string{"--workers", "1"}, vars: map[string]string{"WORKERS": "many"},
			want: func(c *config) { c.Workers = 1 },
		},
		{
			name: "booleans need no value, empty values are values",
			args: []string{"--verbose", "--data-dir=", "--tags="},
			want: func(c *config) { c.Verbose, c.DataDir, c.Tags = true, "", []string{} },
		},
		{name: "only comments in the file", args: []string{"--config=c.yaml"}, file: "# nothing\n", want: func(*config) {}},
		{name: "an empty file", args: []string{"--config=c.yaml"}, want: func(*config) {}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			want := defaults()
			tc.want(&want)
			var got config
			if _, err := env.Load(&got, input(tc.args, tc.vars, tc.file)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestLoad_ReportsAllFaultsTogether(t *testing.T) {
	cases := []struct {
		name string
		args []string
		vars map[string]string
		file string
		want []string
	}{
		{
			name: "everywhere at once",
			args: []string{"--config", "c.yaml", "--wrokers", "3", "extra", "-v", "--timeout", "soon", "--grpc-port"},
			vars: map[string]string{"RAFT_PEERS": "a:b", "DISCOVERY_PORTS": "1-70000", "CERT": "c", "PIN": "12x4"},
			file: "memory: lots\ndatadir: /x\nworkers: {a: 1}\nmemory: 1\n",
			want: []string{
				"--wrokers: unknown flag (did you mean --workers?)",
				"extra: unexpected argument: settings are given as --name=value",
				"-v: unexpected argument: settings are given as --name=value",
				"--grpc-port: needs a value",
				"c.yaml:2: datadir: unknown setting (did you mean data-dir?)",
				"c.yaml:3: workers: expected a plain value or a list",
				"c.yaml:4: memory: set twice, first at c.yaml:1",
				`RAFT_PEERS: "a:b": port is not a number`,
				`DISCOVERY_PORTS: "1-70000": in "1-70000": port is not between 1 and 65535`,
				`--timeout: "soon": is not a duration like "10s" or "1h30m"`,
				`c.yaml:1: memory: "lots": is not a size like "64KiB" or "10MB"`,
				"PIN: ***: is not a whole number",
				"CERT, KEY: give both or none",
			},
		},
		{name: "missing file", args: []string{"--config=d.yaml"}, want: []string{"--config: open d.yaml: file does not exist"}},
		{name: "not a mapping", args: []string{"--config=c.yaml"}, file: "- a\n", want: []string{"c.yaml:1: expected settings as name: value"}},
		{name: "two documents", args: []string{"--config=c.yaml"}, file: "workers: 1\n---\nworkers: 2\n", want: []string{"--config: c.yaml: holds more than one document"}},
		{
			name: "anchors", args: []string{"--config=c.yaml"}, file: "data-dir: &a x\ntoken: *a\n",
			want: []string{"c.yaml:1: data-dir: anchors and aliases are not allowed", "c.yaml:2: token: anchors and aliases are not allowed"},
		},
		{
			name: "lists of addresses", vars: map[string]string{"RAFT_PEERS": "a:1,b", "CLUSTER_ENDPOINT": "http://r:1"},
			want: []string{
				`RAFT_PEERS: "a:1,b": in "b": port is missing: expected host:port`,
				`CLUSTER_ENDPOINT: "http://r:1": is a URL: only host:port is needed`,
			},
		},
		{
			name: "peers that collide", vars: map[string]string{"RAFT_PEERS": "a:1,1=b:1"},
			want: []string{`RAFT_PEERS: "a:1,1=b:1": in "1=b:1": id 1 is used twice`},
		},
		{name: "a switch with a value", args: []string{"--print-config=no"}, want: []string{"--print-config: takes no value"}},
		{name: "out of range", vars: map[string]string{"WORKERS": "99999999999999999999"}, want: []string{`WORKERS: "99999999999999999999": is out of range`}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var got config
			_, err := env.Load(&got, input(tc.args, tc.vars, tc.file))
			var faults *env.Error
			if !errors.As(err, &faults) {
				t.Fatalf("Load = %v", err)
			}
			if diff := cmp.Diff(tc.want, faults.Faults); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			for _, f := range tc.want {
				if !strings.Contains(err.Error(), f) {
					t.Errorf("the message lacks %q", f)
				}
			}
		})
	}
}

func TestLoad_BrokenYAMLNamesFileAndLine(t *testing.T) {
	var got config
	_, err := env.Load(&got, input([]string{"--config=c.yaml"}, nil, "workers: 1\nmemory: [1\n"))
	if err == nil || !strings.Contains(err.Error(), "c.yaml: ") || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("Load = %v", err)
	}
}

func TestWriteConfig_ShowsOriginsAndReadsBack(t *testing.T) {
	args := []string{"--config", "c.yaml", "--print-config", "--workers=1", "--tags=a b,#c"}
	vars := map[string]string{"DATA_DIR": "/with space", "TOKEN": "s3cret", "RAFT_PEERS": "a:1"}
	var first config
	res, err := env.Load(&first, input(args, vars, "\nmemory: 2048\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !res.PrintConfig {
		t.Error("PrintConfig is false")
	}
	var out strings.Builder
	if err := res.WriteConfig(&out); err != nil {
		t.Fatal(err)
	}
	want := `grpc-port: 50051              # default
raft-peers: "1=a:1"           # env RAFT_PEERS
data-dir: "/with space"       # env DATA_DIR
discovery-ports: 50051-50060  # default
cluster-endpoint: ""          # default
timeout: 10s                  # default
memory: 2KiB                  # file c.yaml:2
verbose: false                # default
workers: 1                    # flag --workers
tags: "a b,#c"                # flag --tags
# token: ***                  # env TOKEN
pin: 0                        # default
cert: ""                      # default
key: ""                       # default
`
	want = strings.ReplaceAll(want, `raft-peers: "1=a:1"  `, `raft-peers: 1=a:1    `)
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	var second config
	if _, err := env.Load(&second, input([]string{"--config=c.yaml", "--token=s3cret"}, nil, out.String())); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("read back: -first +second:\n%s", diff)
	}
}

func TestWriteHelp_ListsEverySetting(t *testing.T) {
	var c config
	in := input([]string{"--nonsense", "-h"}, map[string]string{"WORKERS": "x"}, "")
	in.Summary = "Runs a control-plane node."
	res, err := env.Load(&c, in)
	if err != nil || !res.Help {
		t.Fatalf("Load = %+v, %v", res, err)
	}
	var out strings.Builder
	if err := res.WriteHelp(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Runs a control-plane node.\n\nUsage: conveyor-router [flags]\n",
		"  --grpc-port VALUE, GRPC_PORT\n        port of the gRPC server (default 50051)\n",
		"  --verbose, VERBOSE\n", "  --timeout VALUE\n", "--config FILE", "--print-config", "--version",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("help lacks %q:\n%s", want, out.String())
		}
	}
}

func TestLoad_VersionNeedsNothingElse(t *testing.T) {
	var c config
	res, err := env.Load(&c, input([]string{"--version"}, map[string]string{"WORKERS": "x"}, ""))
	if err != nil || !res.Version {
		t.Errorf("Load = %+v, %v", res, err)
	}
}

func TestLoad_RequiredSettings(t *testing.T) {
	var c struct {
		Name string `env:"NAME" flag:"name" required:"true"`
	}
	_, err := env.Load(&c, input(nil, nil, ""))
	if err == nil || err.Error() != "configuration: name: not set: give NAME or --name" {
		t.Errorf("Load = %v", err)
	}
}

func TestLoad_RefusesWrongStructs(t *testing.T) {
	for name, cfg := range map[string]any{
		"not a pointer": config{},
		"kind": &struct {
			C chan int `flag:"c"`
		}{},
		"default": &struct {
			N int `flag:"n" default:"x"`
		}{},
		"twice": &struct {
			A, B string `flag:"same"`
		}{},
		"reserved": &struct {
			C string `flag:"config"`
		}{},
	} {
		_, err := env.Load(cfg, input(nil, nil, ""))
		var faults *env.Error
		if err == nil || errors.As(err, &faults) {
			t.Errorf("%s: Load = %v, want an error that is not the user's", name, err)
		}
	}
}

func TestPorts_AllYieldsEachOnce(t *testing.T) {
	var p env.Ports
	if err := p.UnmarshalText([]byte("3-5,4-6,1")); err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Collect(p.All()), []int{3, 4, 5, 6, 1}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]struct {
		n    env.Bytes
		text string
	}{
		"0": {0, "0"}, "17": {17, "17"}, "17B": {17, "17"}, "1k": {1000, "1000"}, "1KiB": {1024, "1KiB"}, "64 MiB": {64 << 20, "64MiB"},
		"3Gi": {3 << 30, "3GiB"}, "2TB": {2e12, "1953125000KiB"}, "1KB": {1000, "1000"},
	} {
		var b env.Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want.n || b.String() != want.text {
			t.Errorf("%q = %d, %q, %v; want %d, %q", text, b, b, err, want.n, want.text)
		}
	}
	for _, text := range []string{"", "B", "-1", "1.5GiB", "x", "1 2", "9999999TiB", "KiB"} {
		var b env.Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was accepted as %d", text, b)
		}
	}
}

// Whatever a value is, what is printed reads back as the same value.
func FuzzKinds_RoundTrip(f *testing.F) {
	for _, s := range []string{"50051", "1-3,7", "a:1,x=[::1]:2", "64MiB", "", ",", "a:1,,b:2", "=:1", "[", "1-2-3"} {
		f.Add(s)
	}
	type kinds struct {
		P env.Port      `flag:"p"`
		R env.Ports     `flag:"r"`
		H env.HostPort  `flag:"h"`
		L env.HostPorts `flag:"l"`
		E env.Peers     `flag:"e"`
		B env.Bytes     `flag:"b"`
		S string        `flag:"s"`
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range slices.Sorted(maps.Keys(map[string]bool{"p": true, "r": true, "h": true, "l": true, "e": true, "b": true, "s": true})) {
			var first, second kinds
			res, err := env.Load(&first, env.Input{Args: []string{"--" + name + "=" + text}})
			if err != nil {
				continue
			}
			var out strings.Builder
			if err := res.WriteConfig(&out); err != nil {
				t.Fatal(err)
			}
			in := env.Input{Args: []string{"--config=c"}, File: func(string) ([]byte, error) { return []byte(out.String()), nil }}
			if _, err := env.Load(&second, in); err != nil {
				t.Fatalf("--%s=%q printed as\n%s: %v", name, text, out.String(), err)
			}
			if diff := cmp.Diff(first, second); diff != "" {
				t.Fatalf("--%s=%q printed as\n%s: %s", name, text, out.String(), diff)
			}
		}
	})
}
