// Package local lets a service and a sidecar of one user on one host meet at a unix socket beside the service's port, which costs less than
// TCP over loopback.
//
// Nothing depends on it: where there is no socket, or not of the same user, the port is used. The socket lies in a folder that only its user
// may enter and that names the network namespace, since a port means another service in another namespace.
package local

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// ErrUnsupported is returned where there are no sockets to meet at.
var ErrUnsupported = errors.New("no unix socket beside the port")

// connectTimeout bounds the look whether somebody listens.
const connectTimeout = time.Second

// maxTries bounds how often the folder of the sockets is made again.
const maxTries = 10

// Listen listens on the socket that belongs to the address of a TCP listener, which the caller keeps: who holds the port holds the socket,
// so one that was left behind is replaced. Closing the listener leaves nothing behind. It returns ErrUnsupported for addresses that sidecars
// do not reach over loopback.
func Listen(tcp net.Addr) (net.Listener, error) {
	a, ok := tcp.(*net.TCPAddr)
	if !ok || !a.IP.IsLoopback() && !a.IP.IsUnspecified() {
		return nil, ErrUnsupported
	}
	host, _ := netip.AddrFromSlice(a.IP)
	if a.IP.IsUnspecified() {
		host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	// Another service that ends may take the folder with it, between its making and the first socket in it.
	for tries := 0; ; tries++ {
		lis, err := listen(netip.AddrPortFrom(host.Unmap(), uint16(a.Port)))
		if err == nil || tries == maxTries || !errors.Is(err, fs.ErrNotExist) {
			return lis, err
		}
	}
}

func listen(addr netip.AddrPort) (net.Listener, error) {
	dir, err := folder(true)
	if err != nil {
		return nil, err
	}
	path := socket(dir, addr)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace the socket of port %d: %w", addr.Port(), err)
	}
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen beside port %d: %w", addr.Port(), err)
	}
	return &listener{UnixListener: lis, dir: dir}, nil
}

// listener takes the folder with it when its socket was the last one there.
type listener struct {
	*net.UnixListener
	dir string
}

// Close ends the listening and removes the socket.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	_ = os.Remove(l.dir) // fails while there are other sockets
	return err
}

// Find returns the path of the socket beside a service at host:port, when somebody of the same user listens there.
func Find(target string) (path string, ok bool) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return "", false
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil || !addr.Addr().IsLoopback() {
		return "", false
	}
	dir, err := folder(false)
	if err != nil {
		return "", false
	}
	path = socket(dir, addr)
	conn, err := net.DialTimeout("unix", path, connectTimeout) //nolint:noctx // it has its own bound
	if err != nil {
		return "", false
	}
	_ = conn.Close()
	return path, true
}

func socket(dir string, addr netip.AddrPort) string { return filepath.Join(dir, addr.String()) }

// folder returns the folder of this user's sockets in this network namespace, and errs unless nobody else can put anything there.
func folder(create bool) (string, error) {
	namespace, err := networkNamespace()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("conveyor-%d-%s", os.Getuid(), namespace))
	if create {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("make the folder of sockets: %w", err)
		}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("look at the folder of sockets: %w", err)
	}
	if !info.IsDir() || info.Mode().Perm() != 0o700 || !owned(info) {
		return "", fmt.Errorf("folder of sockets %s: not this user's alone: %w", dir, ErrUnsupported)
	}
	return dir, nil
}
