package cli_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli"
)

// leaf is one command that does something, under the name that users type.
type leaf struct {
	path string
	cmd  *cobra.Command
}

func leaves(cmd *cobra.Command) []leaf {
	var out []leaf
	for _, c := range cmd.Commands() {
		if c.Hidden {
			continue
		}
		if c.HasSubCommands() {
			out = append(out, leaves(c)...)
		}
		// dev does something itself, and has a command for its routers beside.
		if !c.HasSubCommands() || c.Name() == "dev" {
			out = append(out, leaf{strings.TrimPrefix(c.CommandPath(), "conveyor "), c})
		}
	}
	return out
}

// ours are the leaves that are not made by cobra.
func ours(t *testing.T) []leaf {
	t.Helper()
	all := slices.DeleteFunc(leaves(cli.Tree(cli.Env{Getenv: os.Getenv})), func(l leaf) bool {
		return l.path == "help" || strings.HasPrefix(l.path, "completion")
	})
	if len(all) < 13 {
		t.Fatalf("only %d commands found", len(all))
	}
	return all
}

// usable is a command line of each leaf that is right; MANIFEST is a file.
var usable = map[string]string{
	"apply":                   "-f MANIFEST",
	"cluster add":             "127.0.0.1:1",
	"cluster init":            "certs --nodes localhost",
	"cluster members":         "",
	"cluster recover":         "nowhere --yes",
	"cluster remove":          "1",
	"cluster status":          "",
	"cluster transfer-leader": "",
	"delete":                  "pipeline p",
	"describe":                "pipeline p",
	"dev":                     "",
	"dev routers":             "",
	"dev start":               "router-2",
	"dlq discard":             "1 --yes",
	"dlq get":                 "1",
	"dlq ls":                  "",
	"dlq replay":              "1",
	"get":                     "pipelines",
	"graph":                   "-f MANIFEST",
	"run":                     "-f MANIFEST",
	"validate":                "-f MANIFEST",
	"version":                 "",
}

type result struct {
	code           int
	stdout, stderr string
}

// conveyor runs a command line in this process.
func conveyor(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := cli.Run(t.Context(), cli.Env{
		Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Getenv: func(k string) string { return env[k] },
	}, args)
	return result{code, stdout.String(), stderr.String()}
}

func words(t *testing.T, l leaf) []string {
	t.Helper()
	line, ok := usable[l.path]
	if !ok {
		t.Fatalf("no right command line is known for %q: add one", l.path)
	}
	manifest := filepath.Join("testdata", "good", "pipeline.yaml")
	return append(strings.Fields(l.path), strings.Fields(strings.ReplaceAll(line, "MANIFEST", manifest))...)
}

// deadAddress is an address at which nothing listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

var errorForm = regexp.MustCompile(`(?m)^error\[[A-Z_]+\]: .+(\n  .*)*\n  = help: .+\n$`)

func TestContract_EveryCommandExplainsItself(t *testing.T) {
	for _, l := range ours(t) {
		if l.cmd.Short == "" || l.cmd.Example == "" {
			t.Errorf("%s has no short text or no example", l.path)
		}
		for _, text := range []string{l.cmd.Long, l.cmd.Example, conveyor(t, nil, append(strings.Fields(l.path), "--help")...).stdout} {
			for line := range strings.Lines(text) {
				if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
					t.Errorf("%s: line of %d columns: %s", l.path, n, line)
				}
			}
		}
		for line := range strings.Lines(l.cmd.Example) {
			if !strings.Contains(line, "conveyor "+l.path) {
				t.Errorf("%s has an example of another command: %s", l.path, line)
			}
		}
	}
}

func TestContract_WrongUsageIsExit2WithTheFix(t *testing.T) {
	for _, l := range ours(t) {
		for _, wrong := range [][]string{{"--no-such-flag"}, {"unexpected/argument/x", "y"}, {"-o", "no-such-format"}} {
			if wrong[0] == "-o" && l.cmd.Flags().Lookup("output") == nil {
				continue
			}
			args := append(words(t, l), wrong...)
			got := conveyor(t, map[string]string{"CONVEYOR_SERVER": "127.0.0.1:1"}, args...)
			if got.code != 2 || got.stdout != "" || !strings.HasPrefix(got.stderr, "error[USAGE]: ") || !errorForm.MatchString(got.stderr) {
				t.Errorf("conveyor %s: exit %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), got.code, got.stdout, got.stderr)
			}
		}
	}
}

func TestContract_ObjectsArePrintedInEveryFormat(t *testing.T) {
	printing := []string{"apply", "cluster members", "cluster status", "describe", "dev", "dev routers", "dlq discard", "dlq get", "dlq ls", "dlq replay", "get", "run", "validate", "version"}
	for _, l := range ours(t) {
		f := l.cmd.Flags().Lookup("output")
		if want := slices.Contains(printing, l.path); (f != nil) != want {
			t.Errorf("%s has -o: %t, want %t", l.path, f != nil, want)
			continue
		}
		if f == nil {
			continue
		}
		for _, format := range []string{"table", "wide", "json", "yaml", "name", "jsonpath={.kind}"} {
			if err := f.Value.Set(format); err != nil {
				t.Errorf("%s -o %s: %v", l.path, format, err)
			}
		}
	}
}

func TestContract_ServersAreNamedAlikeAndTheirAbsenceIsExit3(t *testing.T) {
	using := []string{"apply", "cluster add", "cluster members", "cluster remove", "cluster status", "cluster transfer-leader", "delete", "describe", "dlq discard", "dlq get", "dlq ls", "dlq replay", "get"}
	address := deadAddress(t)
	var wg sync.WaitGroup // each of them waits for a while, so all wait at once
	defer wg.Wait()
	for _, l := range ours(t) {
		if has, want := l.cmd.Flags().Lookup("server") != nil, slices.Contains(using, l.path); has != want {
			t.Errorf("%s has --server: %t, want %t", l.path, has, want)
			continue
		} else if !has {
			continue
		}
		wg.Go(func() {
			for _, got := range []result{
				conveyor(t, nil, append(words(t, l), "--server", address)...),
				conveyor(t, map[string]string{"CONVEYOR_SERVER": address}, words(t, l)...),
			} {
				if got.code != 3 || got.stdout != "" || !strings.HasPrefix(got.stderr, "error[UNREACHABLE]: ") || !strings.Contains(got.stderr, address) ||
					!errorForm.MatchString(got.stderr) {
					t.Errorf("%s: exit %d\nstdout: %s\nstderr: %s", l.path, got.code, got.stdout, got.stderr)
				}
			}
			if got := conveyor(t, nil, append(words(t, l), "--server", "192.0.2.1:50051")...); got.code != 2 || !strings.HasPrefix(got.stderr, "error[INSECURE]: ") {
				t.Errorf("%s to an address that is not loopback: exit %d: %s", l.path, got.code, got.stderr)
			}
		})
	}
}

func TestContract_ListsTakeAllNamespaces(t *testing.T) {
	for _, l := range ours(t) {
		namespaced := []string{"delete", "describe", "dlq discard", "dlq ls", "dlq replay", "get"}
		if has, want := l.cmd.Flags().ShorthandLookup("n") != nil, slices.Contains(namespaced, l.path); has != want {
			t.Errorf("%s has -n: %t, want %t", l.path, has, want)
		}
		if has, want := l.cmd.Flags().ShorthandLookup("A") != nil, slices.Contains(namespaced, l.path) && l.path != "delete"; has != want {
			t.Errorf("%s has -A: %t, want %t", l.path, has, want)
		}
	}
}

func TestContract_EveryCommandOfCobraWorksToo(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := conveyor(t, nil, "completion", shell); got.code != 0 || got.stdout == "" || got.stderr != "" {
			t.Errorf("completion %s: exit %d, stderr %s", shell, got.code, got.stderr)
		}
	}
}
