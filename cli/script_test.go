package cli_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/conveyor-etl/conveyor/cli"
	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/internal/lifecycle"
	"github.com/conveyor-etl/conveyor/router"
)

var update = flag.Bool("update", false, "write what the commands print now into the scripts")

// patience bounds how long a script waits for what must come.
const patience = time.Minute

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"conveyor": func() { os.Exit(cli.Main(os.Exit)) },
		"appendto": appendTo,
		"router":   runRouter,
	})
}

// runRouter runs a router by itself, as conveyor-router does.
func runRouter() {
	cfg := router.DefaultConfig()
	_, err := env.Load(&cfg, env.Input{Program: "router", Args: os.Args[1:], Getenv: func(string) string { return "" }})
	if err == nil {
		ctx, stop := lifecycle.Signals(context.Background(), os.Exit)
		defer stop()
		var r *router.Router
		if r, err = router.New(cfg, nil); err == nil {
			err = r.Run(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// appendTo FILE LINE appends a line to a file.
func appendTo() {
	f, err := os.OpenFile(os.Args[1], os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintln(f, os.Args[2])
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			port, next, err := twoPorts()
			env.Setenv("PORT", strconv.Itoa(port))
			env.Setenv("NEXT", fmt.Sprintf("127.0.0.1:%d", next))
			env.Setenv("CONVEYOR_SERVER", fmt.Sprintf("127.0.0.1:%d", port))
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":    await,
			"waitfile": waitFile,
			"exitcode": exitCode,
			"awaiterr": awaitErr,

			"waitcluster": waitCluster,
			"killleader":  killLeader,
			"killrouter":  killRouter,
			"startlost":   startLost,
			"flows":       flows,
		},
	})
}

// givenPorts are the first of those that a script of this process got: no other may have them while its server is away.
var givenPorts sync.Map

// twoPorts finds a free port whose next are free too. It is none of those that systems give to connections: one of these may be taken while a script starts a server again.
func twoPorts() (port, next int, err error) {
	const first, last, beside = 25000, 28000, 3
	for range 1000 {
		port = first + beside*rand.IntN((last-first)/beside)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		var held []net.Listener
		for n := range beside {
			if lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+n)); err == nil {
				held = append(held, lis)
			}
		}
		for _, lis := range held {
			err = errors.Join(err, lis.Close())
		}
		if len(held) == beside || err != nil {
			return port, port + 1, err
		}
	}
	return 0, 0, errors.New("no free ports beside each other")
}

// await PATTERN COMMAND... repeats a command until its output matches.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await PATTERN COMMAND...")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	for deadline := time.Now().Add(patience); ; <-time.After(50 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		out := ts.ReadFile("stdout")
		if err == nil && want.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no match for %s within %v; the last output was:\n%s%s", args[0], patience, out, ts.ReadFile("stderr"))
		}
	}
}

// awaitErr CODE PATTERN COMMAND... repeats a command until it ends with a code and what it says of that matches.
func awaitErr(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: awaiterr CODE PATTERN COMMAND...")
	}
	want := regexp.MustCompile("(?m)" + args[1])
	for deadline := time.Now().Add(patience); ; <-time.After(50 * time.Millisecond) {
		err := ts.Exec(args[2], args[3:]...)
		var exit *exec.ExitError
		if errors.As(err, &exit) && strconv.Itoa(exit.ExitCode()) == args[0] && want.MatchString(ts.ReadFile("stderr")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not exit code %s with %s within %v: %v\n%s", args[0], args[1], patience, err, ts.ReadFile("stderr"))
		}
	}
}

// waitFile FILE waits until a file is there and not empty.
func waitFile(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		if info, err := os.Stat(ts.MkAbs(args[0])); err == nil && info.Size() > 0 {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s did not appear within %v", args[0], patience)
		}
	}
}

// exitCode CODE COMMAND... runs a command that must end with a code.
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s:\n%s", got, args[0], ts.ReadFile("stderr"))
	}
}

// devServer is the process of the dev server in the background.
func devServer(ts *testscript.TestScript) string {
	for _, b := range ts.BackgroundCmds() {
		if b.Process != nil {
			return strconv.Itoa(b.Process.Pid)
		}
	}
	ts.Fatalf("no command runs in the background")
	return ""
}

// waitCluster N waits until the dev server in the background has N routers that are a cluster, and points the commands to all of them; LASTROUTER is the last of their addresses.
func waitCluster(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv("DEVPID", devServer(ts))
	for deadline := time.Now().Add(patience); ; <-time.After(50 * time.Millisecond) {
		err := ts.Exec("conveyor", "dev", "routers", "--pid", ts.Getenv("DEVPID"), "-o", "jsonpath={.items[*].address}")
		addresses := strings.Fields(ts.ReadFile("stdout"))
		if err == nil && strconv.Itoa(len(addresses)) == args[0] {
			ts.Setenv("CONVEYOR_SERVER", strings.Join(addresses, ","))
			for n, address := range addresses {
				ts.Setenv("ROUTER"+strconv.Itoa(n+1), address)
			}
			ts.Setenv("LASTROUTER", addresses[len(addresses)-1])
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no %s routers within %v", args[0], patience)
		}
	}
}

// killLeader ends the process of the router that leads, as kill -9 does.
func killLeader(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(ts.Exec("conveyor", "cluster", "status", "-o", "jsonpath={.status.leader}"))
	number, _, _ := strings.Cut(ts.ReadFile("stdout"), "-")
	killRouter(ts, false, []string{"router-" + number})
}

// killRouter NAME ends the process of a router, as kill -9 does; LOST is its name then, and LOSTPID was its process.
func killRouter(ts *testscript.TestScript, _ bool, args []string) {
	name := args[0]
	ts.Check(ts.Exec("conveyor", "dev", "routers", "--pid", ts.Getenv("DEVPID")))
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		if f := strings.Fields(line); f[0] == name {
			pid, err := strconv.Atoi(f[1])
			ts.Check(err)
			p, err := os.FindProcess(pid)
			ts.Check(err)
			ts.Check(p.Kill())
			ts.Setenv("LOST", name)
			ts.Setenv("LOSTPID", f[1])
			return
		}
	}
	ts.Fatalf("there is no %s", name)
}

// flowing is how many records show that they flow: more than one report of the sidecar tells of.
const flowing = 50

// flows PIPELINE waits until so many more records of a pipeline are written than when it begins. None that was counted for an earlier flows may be forgotten.
func flows(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flows PIPELINE")
	}
	written := func() (n int, ok bool) {
		err := ts.Exec("conveyor", "get", "pipeline", args[0], "-o", "jsonpath={.status.written}")
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(ts.ReadFile("stdout")))
		}
		return n, err == nil // another router may be about to lead, or has no report yet
	}
	begin, known := -1, "WRITTEN_"+args[0]
	if n, err := strconv.Atoi(ts.Getenv(known)); err == nil {
		begin = n
	}
	for deadline, first := time.Now().Add(patience), true; ; <-time.After(200 * time.Millisecond) {
		n, ok := written()
		switch {
		case ok && n < begin:
			ts.Fatalf("%d records of %s are written, and there were %d", n, args[0], begin)
		case ok && first:
			begin, first = n, false
		case ok && n >= begin+flowing:
			ts.Setenv(known, strconv.Itoa(n))
			return
		case time.Now().After(deadline):
			ts.Fatalf("%d records of %s were written, and %d within %v: %s", begin, args[0], n, patience, ts.ReadFile("stderr"))
		}
	}
}

// startLost starts the router again that was killed last; the server may not have noticed its end yet.
func startLost(ts *testscript.TestScript, _ bool, _ []string) {
	for deadline := time.Now().Add(patience); ; <-time.After(50 * time.Millisecond) {
		err := ts.Exec("conveyor", "dev", "start", ts.Getenv("LOST"), "--pid", ts.Getenv("DEVPID"))
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v: %s", err, ts.ReadFile("stderr"))
		}
	}
}
