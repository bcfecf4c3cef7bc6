package devcluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A server listens on a unix socket of its user's, named by its process, so that commands in other terminals find it.

const (
	socketSuffix = ".sock"
	askTimeout   = 10 * time.Second
	maxRequest   = 4 << 10
)

// request asks for the routers, after starting one if it names one.
type request struct {
	Start string `json:"start,omitempty"`
}

type response struct {
	Routers []Router `json:"routers"`
	Error   string   `json:"error,omitempty"`
}

// socketDir is for the sockets of all servers of this user.
func socketDir() string {
	return filepath.Join(os.TempDir(), "conveyor-dev-"+strconv.Itoa(os.Getuid()))
}

// Control answers commands from other terminals.
type Control struct {
	lis  net.Listener
	path string
	wg   sync.WaitGroup
}

// Listen begins to answer for a cluster. Close it.
func Listen(ctx context.Context, c *Cluster) (*Control, error) {
	dir := socketDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of control sockets: %w", err)
	}
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is not a directory of this user alone: move it away", dir)
	}
	path := filepath.Join(dir, strconv.Itoa(os.Getpid())+socketSuffix)
	// One of an earlier process of the same number.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	s := &Control{lis: lis, path: path}
	s.wg.Go(func() { s.serve(c) })
	return s, nil
}

func (s *Control) serve(c *Cluster) {
	for {
		conn, err := s.lis.Accept()
		if err != nil {
			return // closed
		}
		s.wg.Go(func() { answer(conn, c) })
	}
}

// answer takes one request.
func answer(conn net.Conn, c *Cluster) {
	defer func() { _ = conn.Close() }()
	if conn.SetDeadline(time.Now().Add(askTimeout)) != nil {
		return
	}
	var req request
	var resp response
	line, err := bufio.NewReaderSize(conn, maxRequest).ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &req)
	}
	if err == nil && req.Start != "" {
		_, err = c.Start(req.Start)
	}
	resp.Routers = c.Routers()
	if err != nil {
		resp.Error = err.Error()
	}
	_ = json.NewEncoder(conn).Encode(resp) //nolint:errchkjson // who went away needs no answer
}

// Close ends it and removes the socket.
func (s *Control) Close() error {
	err := s.lis.Close() // removes the socket too
	s.wg.Wait()
	return err
}

// ErrNoServer is returned when no server with several routers runs.
var ErrNoServer = errors.New("no `conveyor dev --nodes` of this user runs")

// Servers are the processes that answer commands.
func Servers() ([]int, error) {
	entries, err := os.ReadDir(socketDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for servers: %w", err)
	}
	var out []int
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), socketSuffix)
		pid, err := strconv.Atoi(name)
		if !ok || err != nil {
			continue
		}
		conn, err := dial(context.Background(), pid)
		if err != nil {
			continue // one that was killed
		}
		if conn.Close() == nil {
			out = append(out, pid)
		}
	}
	return out, nil
}

func dial(ctx context.Context, pid int) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", filepath.Join(socketDir(), strconv.Itoa(pid)+socketSuffix))
}

// Ask returns the routers of a server, after starting the one with a name if start is not empty.
func Ask(ctx context.Context, pid int, start string) ([]Router, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := dial(ctx, pid)
	if err != nil {
		return nil, fmt.Errorf("reach the server with process %d: %w", pid, err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var resp response
	if err := json.NewEncoder(conn).Encode(request{Start: start}); err != nil {
		return nil, fmt.Errorf("ask the server with process %d: %w", pid, err)
	}
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		return nil, fmt.Errorf("ask the server with process %d: %w", pid, err)
	}
	if resp.Error != "" {
		return nil, errors.New(resp.Error)
	}
	return resp.Routers, nil
}
