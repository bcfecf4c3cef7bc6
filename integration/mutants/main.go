// Command mutants breaks the code on purpose, one promise at a time, and shows that a test notices: a check that cannot fail is worth nothing. Nothing in the working
// tree is changed; the compiler is given other files in place of those.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"

	"github.com/conveyor-etl/conveyor/integration/overlay"
)

// mutant is one way to break a promise.
type mutant struct {
	name string
	overlay.Edit
	// besides are edits that the first one needs.
	besides []overlay.Edit
	// pkg and run are the test that must notice, with args.
	pkg, run string
	args     []string
}

// unsynced is a file system for raft-wal that does not flush.
const unsynced = `
type unsynced struct{ types.VFS }

func (u unsynced) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := u.VFS.Create(dir, name, size)
	return unsyncedFile{f}, err
}

func (u unsynced) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := u.VFS.OpenWriter(dir, name)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ types.WritableFile }

func (unsyncedFile) Sync() error { return nil }

`

var mutants = []mutant{
	{
		name: "the log is not synced",
		Edit: overlay.Edit{File: "raftstore/boltfile.go", From: "Timeout: lockWait, NoFreelistSync: true,", To: "Timeout: lockWait, NoSync: true, NoFreelistSync: true,"},
		pkg:  "./integration/chaos", run: "TestPowerLoss", args: []string{"-powercuts=10"},
	},
	{
		name:    "the segments of the other log are not synced",
		Edit:    overlay.Edit{File: "raftstore/logwal.go", From: "segment.NewFiler(dir, walfs.New())", To: "segment.NewFiler(dir, unsynced{walfs.New()})"},
		besides: []overlay.Edit{{File: "raftstore/logwal.go", From: "// walLog is a log of raft-wal.\n", To: unsynced + "// walLog is a log of raft-wal.\n"}},
		pkg:     "./integration/chaos", run: "TestPowerLoss", args: []string{"-powercuts=10"},
	},
	{
		name: "letters are not synced",
		Edit: overlay.Edit{File: "dlq/embed/embed.go", From: "SyncAlways: true", To: "SyncAlways: false"},
		pkg:  "./integration/chaos", run: "TestPowerLoss", args: []string{"-powercuts=10"},
	},
	{
		name: "a read does not verify leadership",
		Edit: overlay.Edit{File: "raftstore/store.go", From: "	began := time.Now()\n", To: "	if lead.Leader {\n		return nil\n	}\n	began := time.Now()\n"},
		pkg:  "./integration/chaos", run: "TestCluster_APaused",
	},
	{
		name: "a read counts answers to what was sent before it",
		Edit: overlay.Edit{File: "raftstore/contact.go", From: "!c.sent[id].Before(began)", To: "!c.sent[id].IsZero()"},
		pkg:  "./raftstore", run: "TestRead_|TestContacts_",
	},
	{
		name: "a leader whose barrier was refused forgets that it leads",
		Edit: overlay.Edit{File: "raftstore/leadership.go", From: "again = time.After(barrierAgain)", To: "again = nil"},
		pkg:  "./raftstore", run: "TestLeadership_",
	},
	{
		name: "a repeated change is made again",
		Edit: overlay.Edit{File: "router/internal/state/clients.go", From: "	case found:\n", To: "	case found && false:\n"},
		pkg:  "./router/...", run: "TestClient",
	},
	{
		name: "a watch tells of one resource of a change only",
		Edit: overlay.Edit{
			File: "router/internal/api/admin.go", From: "	for i, e := range events {\n		if err := stream.Send(",
			To: "	for i, e := range events {\n		if i > 0 && events[i-1].Revision == e.Revision {\n			continue\n		}\n		if err := stream.Send(",
		},
		pkg: "./integration/cluster", run: "TestCluster_RoutersThatMeet",
	},
	{
		name: "a watch that begins at a change leaves it out",
		Edit: overlay.Edit{File: "router/internal/state/events.go", From: "all[i].Revision > revision })", To: "all[i].Revision > revision+1 })"},
		pkg:  "./integration/cluster", run: "TestCluster_RoutersThatMeet",
	},
	{
		name: "each of many calls that one router fails moves all of them on",
		Edit: overlay.Edit{File: "client/call.go", From: "c.current.CompareAndSwap(at, at+1)", To: "c.current.Add(1)"},
		pkg:  "./client", run: "TestClient_OfSeveral",
	},
	{
		name: "a deletion is told as a change",
		Edit: overlay.Edit{File: "router/internal/state/resources.go", From: "Resource: r, Deleted: true}", To: "Resource: r}"},
		pkg:  "./integration/cluster", run: "TestCluster_ARollingRestart",
	},
	{
		name: "a checkpoint of an older epoch is taken",
		Edit: overlay.Edit{File: "router/internal/state/checkpoints.go", From: "a.GetIndex() != cp.GetIndex() || ", To: ""},
		pkg:  "./router/...", run: "",
	},
	{
		name: "a wiped disk keeps its vote",
		Edit: overlay.Edit{File: "raftstore/self.go", From: "case serverID != s.id.ServerID:", To: "case false:"},
		pkg:  "./raftstore", run: "",
	},
	{
		name: "the mark of the letters is taken from anybody",
		Edit: overlay.Edit{File: "router/internal/state/routers.go", From: "if c.GetVersion() != have.GetVersion()+1 {", To: "if false {"},
		pkg:  "./router/internal/state", run: "TestLetterMark",
	},
	{
		name: "a command is proposed that an older router does not know",
		Edit: overlay.Edit{File: "router/internal/control/controller.go", From: "needs <= 1 {", To: "needs > 0 {"},
		pkg:  "./integration/chaos", run: "RollingUpgrade",
	},
	{
		name: "the last sidecar that is heard after a router was deaf loses its session",
		Edit: overlay.Edit{File: "router/internal/session/breaker.go", From: "case !l.kept.IsZero() && ", To: "case false && "},
		pkg:  "./router/internal/session", run: "TestLeases",
	},
	{
		name: "a sidecar is believed an epoch that nobody signed",
		Edit: overlay.Edit{File: "sidecar/internal/engine/linkserve.go", From: "if len(signer) > 0 {", To: "if false {"},
		pkg:  "./sidecar/internal/engine", run: "TestASender",
	},
	{
		name: "two sidecars of one id take over from each other for ever",
		Edit: overlay.Edit{File: "router/internal/session/takeovers.go", From: "len(o.of[sidecar]) >= takeovers", To: "len(o.of[sidecar]) < 0"},
		pkg:  "./router", run: "TestSession_TwoSidecars",
	},
	{
		name: "two sidecars of one id and one address take over from each other for ever",
		Edit: overlay.Edit{File: "router/internal/session/instances.go", From: "return slices.Contains(known.superseded, instance)", To: "return false"},
		pkg:  "./router", run: "TestSession_TwoSidecars",
	},
	{
		name: "a sidecar that stops takes records that it does not answer for",
		Edit: overlay.Edit{File: "sidecar/internal/engine/linkin.go", From: "	case e.shut: // I21\n", To: "	case false && e.shut:\n"},
		pkg:  "./sidecar/internal/engine", run: "TestASidecarThatHasDrained",
	},
	{
		name: "the end of an edge counts though records before it were left with their sender",
		Edit: overlay.Edit{File: "sidecar/internal/engine/linkserve.go", From: "e.stream != in || e.left {", To: "e.stream != in {"},
		pkg:  "./sidecar/internal/engine", run: "TestASidecarThatHasDrained",
	},
	{
		name: "a cluster that is made of a lost one gives indexes again",
		Edit: overlay.Edit{File: "raftstore/salvage.go", From: "found.Index+refoundGap", To: "found.Index"},
		pkg:  "./raftstore", run: "TestSalvage_WhatOneServer",
	},
	{
		name: "a cluster that is made of a lost one keeps the mark of its letters",
		Edit: overlay.Edit{File: "router/internal/state/machine.go", From: `m.index, m.clusterID, m.letterMark, m.view = beyond, "", nil, nil`, To: `m.index, m.clusterID, m.view = beyond, "", nil`},
		pkg:  "./cli", run: "TestScripts/recover",
	},
	{
		name: "a router whose state is not that of the others goes on",
		Edit: overlay.Edit{File: "router/diverged.go", From: "if id == r.store.ServerID() && d.Outvoted {", To: `if id == "nobody" && d.Outvoted {`},
		pkg:  "./router", run: "TestCluster_ARouterWhoseStateIsNot",
	},
	{
		name: "a method without a rule may be called",
		Edit: overlay.Edit{File: "internal/auth/auth.go", From: "	case !known:\n", To: "	case false && known:\n"},
		pkg:  "./internal/auth", run: "",
	},
	{
		name: "a router may speak for another",
		Edit: overlay.Edit{File: "router/internal/api/identity.go", From: "speaks && !caller.MayBe(Number(id))", To: `speaks && id == "nobody"`},
		pkg:  "./router", run: "TestTLS",
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
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q: -only selects", flags.Arg(0))
	}
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
	dir, err := os.MkdirTemp("", "conveyor-mutant-")
	if err != nil {
		return "", "", err
	}
	defer func() { _ = os.RemoveAll(dir) }() // in the folder for temporary files
	flag, err := overlay.Write(root, dir, append([]overlay.Edit{m.Edit}, m.besides...)...)
	if err != nil {
		return "", "", err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-timeout=20m", "-run=" + m.run, m.pkg}, m.args...)...)
	// The binaries that a test builds are to be broken too.
	cmd.Env = append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" "+flag))
	output, err := cmd.CombinedOutput()
	if found := failedTest.FindStringSubmatch(string(output)); found != nil {
		return found[1], "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("no test ran: %w\n%s", err, output)
	}
	return "", string(output), nil
}
