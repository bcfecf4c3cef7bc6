// Command mutants breaks the code on purpose, one promise at a time, and shows that a test notices: a check that cannot fail is worth nothing. Nothing in the working
// tree is changed; the compiler is given other files in place of those.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
)

// mutant is one way to break a promise.
type mutant struct {
	name string
	// file and what is replaced in it, once.
	file, from, to string
	// pkg and run are the test that must notice, with args.
	pkg, run string
	args     []string
}

var mutants = []mutant{
	{
		name: "the log is not synced",
		file: "raftstore/disk.go", from: "		Path: path,\n", to: "		Path: path, NoSync: true,\n",
		pkg: "./integration/chaos", run: "TestPowerLoss", args: []string{"-powercuts=10"},
	},
	{
		name: "letters are not synced",
		file: "dlq/embed/embed.go", from: "SyncAlways: true", to: "SyncAlways: false",
		pkg: "./integration/chaos", run: "TestPowerLoss", args: []string{"-powercuts=10"},
	},
	{
		name: "a read does not verify leadership",
		file: "raftstore/store.go", from: "s.await(ctx, s.raft.VerifyLeader())", to: "error(nil)",
		pkg: "./integration/chaos", run: "TestCluster_APaused",
	},
	{
		name: "a repeated change is made again",
		file: "router/internal/state/clients.go", from: "	case found:\n", to: "	case found && false:\n",
		pkg: "./router/...", run: "TestClient",
	},
	{
		name: "a checkpoint of an older epoch is taken",
		file: "router/internal/state/checkpoints.go", from: "a.GetIndex() != cp.GetIndex() || ", to: "",
		pkg: "./router/...", run: "",
	},
	{
		name: "a wiped disk keeps its vote",
		file: "raftstore/self.go", from: "case serverID != s.id.ServerID:", to: "case false:",
		pkg: "./raftstore", run: "",
	},
	{
		name: "the mark of the letters is taken from anybody",
		file: "router/internal/state/routers.go", from: "if c.GetVersion() != have.GetVersion()+1 {", to: "if false {",
		pkg: "./router/internal/state", run: "TestLetterMark",
	},
	{
		name: "a method without a rule may be called",
		file: "internal/auth/auth.go", from: "	case !known:\n", to: "	case false && known:\n",
		pkg: "./internal/auth", run: "",
	},
	{
		name: "a router may speak for another",
		file: "router/internal/api/identity.go", from: "speaks && !caller.MayBe(number(id))", to: `speaks && id == "nobody"`,
		pkg: "./router", run: "TestTLS",
	},
}

func main() { os.Exit(run(os.Args[1:], os.Stdout)) }

func run(args []string, out io.Writer) int {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	only := flags.String("only", "", "run those whose name matches this `PATTERN`")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	survived := 0
	for _, m := range mutants {
		if !pattern.MatchString(m.name) {
			continue
		}
		caught, said, err := m.try(ctx)
		switch {
		case err != nil:
			fmt.Fprintf(out, "FAILED    %s: %v\n", m.name, err)
			survived++
		case caught == "":
			fmt.Fprintf(out, "SURVIVED  %s: %s %s did not notice\n%s", m.name, m.pkg, m.run, said)
			survived++
		default:
			fmt.Fprintf(out, "caught    %s: by %s\n", m.name, caught)
		}
	}
	if survived > 0 || ctx.Err() != nil {
		return 1
	}
	return 0
}

var failedTest = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)

// try runs the test over the broken code; caught is the test that failed.
func (m *mutant) try(ctx context.Context) (caught, said string, err error) {
	root, err := os.Getwd()
	if err != nil {
		return "", "", err
	}
	path := filepath.Join(root, m.file)
	content, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	if n := strings.Count(string(content), m.from); n != 1 {
		return "", "", fmt.Errorf("%s holds %q %d times, want once", m.file, m.from, n)
	}
	dir, err := os.MkdirTemp("", "conveyor-mutant-")
	if err != nil {
		return "", "", err
	}
	defer func() { _ = os.RemoveAll(dir) }() // in the folder for temporary files
	broken, overlay := filepath.Join(dir, filepath.Base(m.file)), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: broken}})
	if err != nil {
		return "", "", err
	}
	if err := os.WriteFile(broken, []byte(strings.Replace(string(content), m.from, m.to, 1)), 0o600); err != nil {
		return "", "", err
	}
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		return "", "", err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-timeout=20m", "-run=" + m.run, m.pkg}, m.args...)...)
	// The binaries that a test builds are to be broken too.
	cmd.Env = append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
	output, err := cmd.CombinedOutput()
	if found := failedTest.FindStringSubmatch(string(output)); found != nil {
		return found[1], "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("no test ran: %w\n%s", err, output)
	}
	return "", string(output), nil
}
