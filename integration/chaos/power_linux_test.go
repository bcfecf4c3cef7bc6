package chaos_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/conveyor-etl/conveyor/client"
	"github.com/conveyor-etl/conveyor/integration/chaos"
	"github.com/conveyor-etl/conveyor/integration/e2e/proc"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
	conveyorv1 "github.com/conveyor-etl/conveyor/protos/conveyor/v1"
)

var powerCuts = flag.Int("powercuts", 30, "how often the power is cut, with each kind of log")

// disk is a file system of its own, that can lose power: what was not synced by then is gone.
type disk struct {
	t     *testing.T
	image string
	dir   string
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t: t, image: filepath.Join(t.TempDir(), "disk"), dir: filepath.Join(t.TempDir(), "mnt")}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 192<<20); err != nil {
		t.Fatal(err)
	}
	d.run("mkfs.ext4", "-q", "-F", d.image)
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", d.image, d.dir).CombinedOutput(); err != nil {
		t.Skipf("a file cannot be mounted as a disk, which takes root: %v %s", err, out)
	}
	t.Cleanup(func() { _ = syscall.Unmount(d.dir, syscall.MNT_DETACH) })
	return d
}

func (d *disk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.CommandContext(d.t.Context(), name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v %s", name, err, out)
	}
}

const (
	// ext4Shutdown ends all writing to the device at once; noLogFlush also forgets the journal in memory. See EXT4_IOC_SHUTDOWN in the kernel's fs/ext4/ext4.h.
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
)

// cut takes the power away.
func (d *disk) cut() {
	d.t.Helper()
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	how := uint32(noLogFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		d.t.Fatalf("cut the power: %v", errno)
	}
}

// restore brings it back, after whoever used the disk has ended.
func (d *disk) restore() {
	d.t.Helper()
	d.run("umount", d.dir)
	d.run("mount", "-o", "loop", d.image, d.dir)
}

// TestPowerLoss_WhatWasAcknowledgedIsThereAfterwards cuts the power of a router's disk while it takes changes and dead letters.
func TestPowerLoss_WhatWasAcknowledgedIsThereAfterwards(t *testing.T) {
	for _, kind := range []string{"bbolt", "wal"} {
		t.Run(kind, func(t *testing.T) { cutPower(t, proc.NewRouter(t, "RAFT_LOG="+kind)) })
	}
}

// cutPower loses power again and again while a router stores changes and letters.
func cutPower(t *testing.T, router *proc.Router) {
	d := newDisk(t)
	router.KeepIn(filepath.Join(d.dir, "router"))
	router.Start()
	router.AwaitReady()
	c, err := client.Dial(t.Context(), []string{router.Addr()}, client.WithTimeout(5*time.Second), client.WithRetryFor(0))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wrote, stored := 0, map[string]bool{}
	for n := range *powerCuts {
		session := register(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := wrote + 1; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("r%d-%d", n, i)
				if _, err := c.StoreDeadLetters(ctx, session, []*controlv1.Letter{deadLetter(id)}); err != nil {
					return
				}
				stored[id] = true
				if _, err := chaos.Write(ctx, c, "k", fmt.Sprint(i)); err != nil {
					return
				}
				wrote = i
			}
		}()
		pass(t, time.Duration(100+rand.IntN(300))*time.Millisecond)
		d.cut()
		router.Kill()
		cancel()
		<-done
		d.restore()
		router.Start()
		router.AwaitReady()
		// The write that was under way may have been made.
		got, err := chaos.Read(t.Context(), c, "k")
		if want := fmt.Sprint(wrote); err != nil || got != want && got != fmt.Sprint(wrote+1) {
			t.Fatalf("cut %d: the value is %q (%v), and %s was acknowledged", n, got, err, want)
		}
		missing := len(stored)
		for l, err := range c.Letters(t.Context(), &controlv1.LetterFilter{AllNamespaces: true}, 0) {
			if err != nil {
				t.Fatalf("cut %d: %v", n, err)
			}
			if stored[l.GetRecord().GetId()] {
				missing--
			}
		}
		if missing > 0 {
			t.Fatalf("cut %d: %d of %d acknowledged letters are missing", n, missing, len(stored))
		}
	}
	t.Logf("%d power cuts, %d changes and %d letters acknowledged", *powerCuts, wrote, len(stored))
	if wrote < *powerCuts || len(stored) < *powerCuts {
		t.Error("hardly anything was acknowledged: the run proves nothing")
	}
}

func register(t *testing.T, c *client.Client) *controlv1.Session {
	t.Helper()
	resp, err := c.Register(t.Context(), &controlv1.RegisterRequest{SidecarId: "a", Address: "127.0.0.1:1", Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetSession()
}

func deadLetter(id string) *controlv1.Letter {
	return &controlv1.Letter{
		Record: &conveyorv1.Record{Id: id, Payload: []byte("payload of " + id)}, Namespace: "default", Pipeline: "p", Generation: 1, Stage: "out",
		Source: "default/in", Partition: "0", Class: conveyorv1.FailureClass_FAILURE_CLASS_PERMANENT, Code: "X", Message: "no",
	}
}
