package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// chain is the processes of one measurement.
type chain struct {
	ctx      context.Context //nolint:containedctx // of the measurement
	c        config
	dir      string
	stderr   io.Writer
	router   string
	daemons  []*daemon
	services []*service
}

// daemon is one of Conveyor's own processes.
type daemon struct {
	name string
	cmd  *exec.Cmd
	ops  string
}

// service is a process of this binary.
type service struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
}

// spent is what a process has used so far.
type spent struct {
	cpu     float64 // seconds
	mallocs float64 // of Conveyor's own processes
	rss     int64
}

// start starts everything and returns the addresses of the services.
func (h *chain) start() (map[string]string, error) {
	port, err := freePorts(8)
	if err != nil {
		return nil, err
	}
	h.router = "127.0.0.1:" + port[0]
	if err := h.daemon("router", "conveyor-router", port[1], "GRPC_PORT="+port[0], "DATA_DIR="+filepath.Join(h.dir, "router")); err != nil {
		return nil, err
	}
	endpoints := map[string]string{}
	for i, role := range []string{"source", "transform", "sink"} {
		addr, err := h.service(role)
		if err != nil {
			return nil, err
		}
		endpoints[role] = addr
		_, servicePort, _ := net.SplitHostPort(addr)
		err = h.daemon("sidecar-"+role, "conveyor-sidecar", port[2*i+3], "GRPC_PORT="+port[2*i+2], "CLUSTER_ENDPOINT="+h.router,
			"DISCOVERY_PORTS="+servicePort, "SIDECAR_ID="+role, "ADVERTISE_ADDRESS=127.0.0.1:"+port[2*i+2], "DATA_DIR="+filepath.Join(h.dir, role))
		if err != nil {
			return nil, err
		}
	}
	return endpoints, nil
}

func (h *chain) daemon(name, program, ops string, env ...string) error {
	d := &daemon{name: name, cmd: exec.CommandContext(h.ctx, h.program(program)), ops: "127.0.0.1:" + ops}
	d.cmd.Env = append(append(os.Environ(), "OPS_PORT="+ops, "LOG_LEVEL=error"), env...)
	d.cmd.Stderr = h.stderr
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	h.daemons = append(h.daemons, d)
	return nil
}

func (h *chain) service(role string) (addr string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(h.ctx, self, "-role="+role, "-n="+strconv.Itoa(h.c.records), "-size="+strconv.Itoa(h.c.size), "-xform="+h.c.transform, "-block="+strconv.FormatBool(h.c.block))
	cmd.Stderr = h.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("%s: %w", role, err)
	}
	s := &service{name: role, cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
	h.services = append(h.services, s)
	return addr, s.next(&addr)
}

// next reads the next line that the service printed.
func (s *service) next(into any) error {
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return json.Unmarshal(line, into)
}

// usage returns what every process has used so far.
func (h *chain) usage() (map[string]spent, error) {
	all := map[string]spent{}
	for _, d := range h.daemons {
		u, err := processUsage(d.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		if u.mallocs, err = metric(h.ctx, d.ops, "go_memstats_mallocs_total"); err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		all[d.name] = u
	}
	for _, s := range h.services {
		u, err := processUsage(s.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		all[s.name] = u
	}
	return all, nil
}

// processUsage reads what the kernel has counted for a process.
func processUsage(pid int) (spent, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return spent{}, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime, rss, ticks = 11, 12, 21, 100
	value := func(i int) float64 {
		v, _ := strconv.ParseFloat(fields[i], 64)
		return v
	}
	return spent{cpu: (value(utime) + value(stime)) / ticks, rss: int64(value(rss)) * int64(os.Getpagesize())}, nil
}

// metric reads one value of a process's metrics.
func metric(ctx context.Context, ops, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ops+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// finish ends the services and returns what they have to tell.
func (h *chain) finish() (map[string]served, error) {
	h.stopDaemons()
	all := map[string]served{}
	for _, s := range h.services {
		_ = s.stdin.Close()
		var told served
		if err := s.next(&told); err != nil {
			return nil, err
		}
		all[s.name] = told
	}
	return all, nil
}

func (h *chain) stopDaemons() {
	for i := len(h.daemons) - 1; i >= 0; i-- {
		_ = h.daemons[i].cmd.Process.Signal(syscall.SIGTERM)
		_ = h.daemons[i].cmd.Wait()
	}
	h.daemons = nil
}

// stop ends what still runs.
func (h *chain) stop() {
	for _, s := range h.services {
		_ = s.stdin.Close()
		timer := time.AfterFunc(5*time.Second, func() { _ = s.cmd.Process.Kill() })
		_ = s.cmd.Wait()
		timer.Stop()
	}
	for _, d := range h.daemons {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
	}
}

// freePorts returns ports that nobody listens on at this moment.
func freePorts(n int) ([]string, error) {
	var ports []string
	var held []net.Listener // until all are known, so that no port comes twice
	defer func() {
		for _, lis := range held {
			_ = lis.Close()
		}
	}()
	for range n {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		held = append(held, lis)
		_, port, _ := net.SplitHostPort(lis.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}
