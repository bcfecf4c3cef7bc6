package chaos

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	"github.com/conveyor-etl/conveyor/integration/overlay"
)

// Failpoints are moments by name, at which a process ends as kill -9 ends it. They are in no binary but those that Build makes: the compiler is given them between the lines of the
// working tree, in which there is nothing of them.
type Failpoints struct {
	binary string
	edits  []overlay.Edit
}

// trapEnv names the folder of a trap in the environment of a process with failpoints.
const trapEnv = "CONVEYOR_FAILPOINTS"

// failpointFile is added to each package with failpoints.
const failpointFile = `package %s

import (
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// failpoint ends the process when a test has set the trap of that name, which is sprung by that. The trap says how long the rest of the process goes on before.
func failpoint(name string) {
	dir := os.Getenv(%q)
	if dir == "" {
		return
	}
	trap := filepath.Join(dir, name)
	pause, err := os.ReadFile(trap)
	if err != nil || os.Remove(trap) != nil {
		return
	}
	d, _ := time.ParseDuration(string(pause))
	time.Sleep(d)
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {}
}

// failpointWriter is a failpoint at each write.
type failpointWriter string

func (w failpointWriter) Write(p []byte) (int, error) {
	failpoint(string(w))
	return len(p), nil
}
`

// Build builds the binary with the failpoints, and returns its path.
func (f Failpoints) Build(t testing.TB) string {
	t.Helper()
	edits, added := f.edits, map[string]bool{}
	for _, e := range f.edits {
		if dir := path.Dir(e.File); !added[dir] {
			added[dir] = true
			edits = append(edits[:len(edits):len(edits)], overlay.Edit{File: dir + "/failpoint.go", To: fmt.Sprintf(failpointFile, path.Base(dir), trapEnv)})
		}
	}
	return proc.Variant(t, f.binary, edits...)
}

// Trap decides at which failpoints the processes that are given its setting end. It is a folder, with a file for each point that is set.
type Trap struct {
	t   testing.TB
	dir string
}

// NewTrap returns one in which nothing is set.
func NewTrap(t testing.TB) Trap { return Trap{t, t.TempDir()} }

// Env is the setting for a process.
func (p Trap) Env() string { return trapEnv + "=" + p.dir }

// Set makes the first process that comes to the point stand still there, while the rest of it goes on, and end after a pause. Those that come later go on.
func (p Trap) Set(point string, pause time.Duration) {
	p.t.Helper()
	// In one step: a process may look at any moment.
	path := filepath.Join(p.dir, point)
	proc.Write(p.t, path+".next", pause.String())
	if err := os.Rename(path+".next", path); err != nil {
		p.t.Fatal(err)
	}
}

// Sprung reports whether a process has ended at the point.
func (p Trap) Sprung(point string) bool {
	_, err := os.Lstat(filepath.Join(p.dir, point))
	return os.IsNotExist(err)
}

// between puts a failpoint between two texts, which follow each other in a file.
func between(name, file, before, behind string) overlay.Edit {
	return overlay.Edit{File: file, From: before + behind, To: before + fmt.Sprintf("failpoint(%q)\n", name) + behind}
}

const (
	raftGuard     = "raftstore/guard.go"
	raftMachine   = "raftstore/machine.go"
	raftStore     = "raftstore/store.go"
	raftService   = "raftstore/service.go"
	atomicFile    = "internal/atomicfile/atomicfile.go"
	checkpointsOf = "sidecar/internal/engine/checkpoints.go"
	lanesOf       = "sidecar/internal/engine/lane.go"
	pullsOf       = "sidecar/internal/engine/pull.go"
	lettersOf     = "sidecar/internal/engine/letters.go"
	servicesOf    = "sidecar/internal/engine/service.go"
	linksInto     = "sidecar/internal/engine/linkserve.go"
	storeLogs     = "func() error { return g.persistent.StoreLogs(logs) }"
)

// RouterFailpoints are those on the way of a command through a router. It also takes a snapshot every few commands, and keeps few behind it.
var RouterFailpoints = Failpoints{binary: "conveyor-router", edits: []overlay.Edit{
	{File: raftStore, From: "	conf := raft.DefaultConfig()\n", To: "	conf := raft.DefaultConfig()\n" +
		"	conf.SnapshotThreshold, conf.SnapshotInterval, conf.TrailingLogs = 20, 100*time.Millisecond, 1\n"},
	{File: raftGuard, From: storeLogs, To: `func() error {
		failpoint("log-before-append")
		err := g.persistent.StoreLogs(logs)
		failpoint("log-durable")
		return err
	}`},
	between("before-apply", raftMachine, "", "	value := f.machine.Apply(l.Index, cmd)\n"),
	between("applied", raftMachine, "	f.applied.Store(l.Index)\n", "	return value\n"),
	{File: raftMachine, From: "s(sink)", To: `s(io.MultiWriter(sink, failpointWriter("snapshot-half-written")))`},
	between("snapshot-before-rename", raftMachine, "", "	return sink.Close()\n"),
	between("snapshot-half-received", raftService, "		c.rest = m.GetChunk()\n", ""),
	between("snapshot-before-restore", raftMachine, "", "	if err := errors.Join(f.machine.Restore(r), r.Close()); err != nil {\n"),
}}

// SidecarFailpoints are those on the way of a record through a sidecar, from where a service has it until its source hears of it.
var SidecarFailpoints = Failpoints{binary: "conveyor-sidecar", edits: []overlay.Edit{
	between("checkpoint-accepted", checkpointsOf, "", "		if err == nil {\n			err = c.remember(points, results)\n"),
	between("checkpoint-remembered", lanesOf, "		// I3: commit only what is checkpointed.\n", ""),
	between("before-commit", pullsOf, "", "	err := p.stream.SendMsg(&conveyorv1.PullRequest{Request: &conveyorv1.PullRequest_Commit{"),
	between("service-answered", servicesOf, "", "	steps, err := w.d.Answer("),
	between("settled-before-told", linksInto, "		if resp := in.end.response(in); resp != nil {\n", ""),
	between("letter-before-stored", lettersOf, "", "		stored, err := u.control.StoreDeadLetters(ctx, letters)\n"),
	between("letter-stored", lettersOf, "		stored, err := u.control.StoreDeadLetters(ctx, letters)\n", "		if ctx.Err()"),
	between("state-before-rename", atomicFile, "	if err = errors.Join(err, out.Close()); err == nil {\n", ""),
	between("state-renamed", atomicFile, "", "	return syncDir(filepath.Dir(path))\n"),
}}
