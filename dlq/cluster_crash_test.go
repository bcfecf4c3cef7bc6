package dlq_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/dlq"
	"github.com/conveyor-etl/conveyor/dlq/embed"
)

// serverEnv makes the test binary a server of a cluster that a test kills: "directory|name|own number|routes".
const serverEnv = "DLQ_TEST_CHILD_SERVER"

// serve is that child. It says when it is ready, and ends with its input.
func serve(what string) {
	f := strings.Split(what, "|")
	routes := strings.Split(f[3], ",")
	var own int
	if _, err := fmt.Sscan(f[2], &own); err != nil {
		panic(err)
	}
	_, err := embed.Open(embed.Config{
		Dir: f[0], ServerName: f[1], MaxStoreBytes: 4 << 30, Cluster: &embed.Cluster{Name: "test", Listen: routes[own], Routes: routes},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	os.Exit(1)
}

// child starts a server of the cluster in another process; kill ends it as a power cut ends it, for the process.
func (c *trio) child(i int) (kill func()) {
	c.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%d|%s", serverEnv, filepath.Join(c.dirs[i], "nats"), c.names[i], i, strings.Join(c.routes, ",")))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		in.Close()
		_ = cmd.Wait()
	})
	c.t.Cleanup(kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		c.t.Fatalf("the child said %q, %v", line, err)
	}
	return kill
}

// lead makes a server the one that leads the stream.
func (c *trio) lead(name string) {
	c.t.Helper()
	c.await(func() error {
		js, err := c.servers[0].JetStream()
		if err != nil {
			return err
		}
		defer js.Conn().Close()
		info, err := streamInfo(js)
		if err != nil {
			return err
		}
		if info.Cluster.Leader == name {
			return nil
		}
		ctx, cancel := context.WithTimeout(bg, 2*time.Second)
		defer cancel()
		_, err = js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+dlq.DefaultStream, []byte(`{"placement":{"preferred":"`+name+`"}}`))
		if err == nil {
			err = fmt.Errorf("%s leads, not %s", info.Cluster.Leader, name)
		}
		return err
	})
}

// TestCluster_AcknowledgedLettersSurviveAKilledLeader kills the process that leads the stream in the middle of appending, and does so again after it has come back.
func TestCluster_AcknowledgedLettersSurviveAKilledLeader(t *testing.T) {
	c := openTrio(t)
	c.stop(2)
	kill := c.child(2)
	store := c.open(0)
	want := make(map[uint64]string)
	for round := range 2 {
		c.current(store)
		c.lead(c.names[2])
		var mu sync.Mutex
		stop := make(chan struct{})
		var callers sync.WaitGroup
		enough := make(chan struct{}, 1)
		for caller := range 4 {
			callers.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					batch := make([]dlq.Letter, 1+(n+caller)%7)
					for i := range batch {
						batch[i] = named(fmt.Sprintf("%d/%d/%d/%d", round, caller, n, i))
					}
					results, err := store.Append(bg, batch)
					if err != nil {
						continue // nothing was promised
					}
					mu.Lock()
					for i, r := range results {
						want[r.ID] = batch[i].RecordID
					}
					if n == 60+20*round {
						select {
						case enough <- struct{}{}:
						default:
						}
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		kill()
		mu.Lock()
		before := len(want)
		mu.Unlock()
		c.await(func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(want) < before+50 {
				return fmt.Errorf("%d letters since the leader was killed", len(want)-before)
			}
			return nil
		})
		close(stop)
		callers.Wait()
		kill = c.child(2)
	}
	c.current(store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	// What was not acknowledged may be there, once.
	kill()
	c.start(2)
	for i := range c.servers {
		store := c.open(i)
		healthy(t, store)
		got, records := make(map[uint64]string), make(map[string]bool)
		for _, l := range list(t, store, dlq.Query{}) {
			got[l.ID] = l.RecordID
			if records[l.RecordID] {
				t.Errorf("%s is stored twice", l.RecordID)
			}
			records[l.RecordID] = true
		}
		for id, record := range want {
			if got[id] != record {
				t.Errorf("server %d: acknowledged letter %d is %q, want %q", i+1, id, got[id], record)
			}
		}
		t.Logf("server %d: %d acknowledged, %d stored", i+1, len(want), len(got))
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
