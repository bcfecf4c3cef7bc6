package router_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/router"

	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

func TestRouter_AnswersSoonAfterItsStart(t *testing.T) {
	dir := t.TempDir()
	for _, kind := range []string{"first", "second"} {
		began := time.Now()
		n := start(t, testConfig(dir))
		t.Logf("%s start: ready after %v", kind, time.Since(began))
		n.stop()
	}
}

func TestRouter_ARestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	n := start(t, testConfig(dir))
	n.apply(simple...)
	a := n.register("a", both...)
	in := a.stage("in")
	a.checkpoint(in, 4, "four", false)
	a.store(letter("r", "keep", "X"))
	n.stop()

	n = start(t, testConfig(dir))
	same := &sidecar{node: n, id: "a", session: a.session}
	if _, err := n.coord.Heartbeat(t.Context(), &controlv1.HeartbeatRequest{Session: same.session}); err != nil {
		t.Fatalf("the session is gone: %v", err)
	}
	if got := same.checkpoint(in, 5, "five", false); got != controlv1.CheckpointResult_CHECKPOINT_RESULT_ACCEPTED {
		t.Errorf("checkpoint of the assignment from before: %v", got)
	}
	if got := same.position("in"); got != "five" {
		t.Errorf("position %q", got)
	}
	if len(n.list(everything)) != 1 {
		t.Error("the dead letter is gone")
	}
	if r := n.apply(simple...); r.GetResults()[0].GetAction() != controlv1.ApplyAction_APPLY_ACTION_UNCHANGED {
		t.Errorf("resources changed: %v", r)
	}
}

func TestRouter_TheDataDirectoryIsForOneProcess(t *testing.T) {
	dir := t.TempDir()
	start(t, testConfig(dir))
	r, err := router.New(testConfig(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second router: %v", err)
	}
}

func TestRouter_DamageAtOneOfSeveralIsToldWithTheCommandsThatReplaceIt(t *testing.T) {
	c := &cluster{t: t, nodes: map[string]*member{}}
	m := c.join("1")
	c.join("2")
	c.join("3")
	m.cfg.Peers = c.peers
	raft := filepath.Join(m.cfg.DataDir, "raft")
	if err := os.MkdirAll(raft, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(raft, "identity.json"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.start()
	err := <-m.ended
	m.cancel()
	m.cancel = nil
	if err == nil || !strings.Contains(err.Error(), "conveyor cluster remove 1,") || !strings.Contains(err.Error(), "conveyor cluster add "+m.conn.Target()) {
		t.Errorf("it ended with %v", err)
	}
}

// child is a router in a process of its own, which tells its address.
func child(dir string) int {
	r, err := router.New(testConfig(dir), nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		<-r.Ready()
		fmt.Println(r.Addr())
	}()
	if err := r.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestRouter_AKillLosesNothingThatWasAnswered(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "ROUTER_TEST_CHILD="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := bufio.NewScanner(out)
	if !line.Scan() {
		t.Fatal("the child did not start")
	}
	n := connect(t, line.Text())
	n.apply(simple...)
	a := n.register("a", both...)
	in := a.stage("in")
	const last = 20
	for i := range uint64(last) {
		a.checkpoint(in, i, fmt.Sprint("at ", i), false)
		a.store(letter(fmt.Sprint("r", i), "keep", "X"))
	}
	cmd.Process.Kill()
	cmd.Wait()
	a.cancel()
	<-a.done
	n.conn.Close()

	n = start(t, testConfig(dir))
	again := &sidecar{node: n, id: "a", session: a.session}
	if got, want := again.position("in"), fmt.Sprint("at ", last-1); got != want {
		t.Errorf("position %q, want %q", got, want)
	}
	if got := len(n.list(everything)); got != last {
		t.Errorf("%d dead letters, want %d", got, last)
	}
}
