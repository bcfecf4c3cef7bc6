package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const hops = 6

// result is the line that is printed.
type result struct {
	Records              int                `json:"records"`
	Size                 int                `json:"size"`
	Batch                int                `json:"batch"`
	Window               int                `json:"window"`
	Transform            string             `json:"transform"`
	Dropped              int                `json:"dropped"`
	Seconds              float64            `json:"seconds"`
	RecordsPerSecond     float64            `json:"recordsPerSecond"`
	MegabytesPerSecond   float64            `json:"megabytesPerSecond"`
	CPUNanosPerRecord    float64            `json:"cpuNanosPerRecord"`
	CPUNanosPerRecordHop float64            `json:"cpuNanosPerRecordHop"`
	AllocsPerRecordHop   float64            `json:"allocsPerRecordHop"`
	AckP50Millis         float64            `json:"ackP50Millis"`
	AckP99Millis         float64            `json:"ackP99Millis"`
	MaxRSSMiB            int64              `json:"maxRssMiB"`
	CPUNanosByProcess    map[string]float64 `json:"cpuNanosByProcess"` // per record
}

// process is one child.
type process struct {
	name string
	role role
	cmd  *exec.Cmd
	out  *bufio.Reader
}

// measure starts the chain from its end to its beginning, waits for it and adds up what it spent.
func measure(ctx context.Context, c config, stderr io.Writer) (result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the children that still run
	dir, err := os.MkdirTemp("", "floor")
	if err != nil {
		return result{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	var started []*process
	var startErr error
	start := func(name string, r role, network string, more ...string) (addr string) {
		if startErr != nil {
			return ""
		}
		listen := "127.0.0.1:0"
		if network == "unix" {
			listen = filepath.Join(dir, name)
		}
		p := &process{name: name, role: r}
		started = append(started, p)
		args := append([]string{"-role=" + string(r), "-network=" + network, "-listen=" + listen}, more...)
		addr, startErr = p.start(ctx, c, stderr, args)
		return addr
	}
	sinkAddr := start("sink", roleSink, "unix")
	last := start("sidecar-3", roleSidecar, "tcp", "-downstream="+sinkAddr)
	service := start("transform", roleTransform, "unix")
	middle := start("sidecar-2", roleSidecar, "tcp", "-downstream="+last, "-service="+service)
	first := start("sidecar-1", roleSidecar, "unix", "-downstream="+middle)
	start("source", roleSource, "", "-downstream="+first)

	used := map[string]usage{}
	failed := startErr
	if failed != nil {
		cancel()
	}
	for _, p := range started {
		u, err := p.wait()
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", p.name, err))
			cancel()
		}
		used[p.name] = u
	}
	if failed != nil {
		return result{}, failed
	}
	if got := used["sink"].Records + used["transform"].Dropped; got != c.records {
		return result{}, fmt.Errorf("%d records were sent, %d arrived or were dropped", c.records, got)
	}
	return sum(c, used), nil
}

// start runs the child and returns the address that it announces; the source announces none.
func (p *process) start(ctx context.Context, c config, stderr io.Writer, args []string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	args = append(args, "-n="+strconv.Itoa(c.records), "-size="+strconv.Itoa(c.size), "-batch="+strconv.Itoa(c.batch),
		"-window="+strconv.Itoa(c.window), "-xform="+c.transform)
	p.cmd = exec.CommandContext(ctx, self, args...)
	p.cmd.Stderr = stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return "", err
	}
	if p.role == roleSource {
		return "", nil
	}
	addr, err := p.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s did not say where it listens: %w", p.name, err)
	}
	return strings.TrimSpace(addr), nil
}

// wait returns what the child used, once it has ended.
func (p *process) wait() (usage, error) {
	var u usage
	if p.out == nil || p.cmd.Process == nil {
		return u, errors.New("not started")
	}
	decodeErr := json.NewDecoder(p.out).Decode(&u)
	if err := p.cmd.Wait(); err != nil {
		return u, err
	}
	return u, decodeErr
}

// sum makes the figures of the whole chain from those of its processes.
func sum(c config, used map[string]usage) result {
	src := used["source"]
	r := result{
		Records: c.records, Size: c.size, Batch: c.batch, Window: c.window, Transform: c.transform,
		Dropped: used["transform"].Dropped, Seconds: src.Seconds, AckP50Millis: src.P50, AckP99Millis: src.P99,
		CPUNanosByProcess: map[string]float64{},
	}
	n := float64(c.records)
	r.RecordsPerSecond = n / src.Seconds
	r.MegabytesPerSecond = float64(src.Bytes) / src.Seconds / 1e6
	var cpu float64
	var mallocs uint64
	for name, u := range used {
		cpu += u.CPU
		mallocs += u.Mallocs
		r.CPUNanosByProcess[name] = u.CPU * 1e9 / n
		r.MaxRSSMiB = max(r.MaxRSSMiB, u.RSS/1024)
	}
	r.CPUNanosPerRecord = cpu * 1e9 / n
	r.CPUNanosPerRecordHop = r.CPUNanosPerRecord / hops
	r.AllocsPerRecordHop = float64(mallocs) / n / hops
	return r
}
