package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
)

// A PlaintextError is returned when a part without certificates would listen on, or connect to,
// something other than this machine.
type PlaintextError struct {
	Action string // "listen on" or "connect to"
	Target string
}

// Error says what was refused, why, and what to do.
func (e *PlaintextError) Error() string {
	return fmt.Sprintf("refused to %s %s without certificates: anyone on the network could read and change the records. "+
		"Make certificates with 'conveyor cluster init' and name them in TLS_CERT_FILE, TLS_KEY_FILE and TLS_CA_FILE, or use 127.0.0.1", e.Action, e.Target)
}

// CheckListen returns a [*PlaintextError] if listening on host (no port; empty for all addresses)
// needs certificates and there are none.
func CheckListen(host string, hasTLS bool) error {
	if hasTLS || isLoopbackHost(host) {
		return nil
	}
	if host == "" {
		host = "all addresses"
	}
	return &PlaintextError{Action: "listen on", Target: host}
}

// CheckDial returns a [*PlaintextError] if connecting to a gRPC target (host:port, dns:///host:port,
// unix:path and the like) needs certificates and there are none. It looks at the name only; the
// options of [DialOptions] also check the address that the name resolves to.
func CheckDial(target string, hasTLS bool) error {
	if hasTLS {
		return nil
	}
	addr := target
	if scheme, rest, ok := strings.Cut(target, ":"); ok {
		switch scheme {
		case "unix", "unix-abstract":
			return nil
		case "dns", "passthrough", "ipv4", "ipv6":
			// scheme:addr or scheme://authority/addr; an authority is another resolver to trust.
			if authority, a, found := strings.Cut(strings.TrimPrefix(rest, "//"), "/"); strings.HasPrefix(rest, "//") {
				if !found || authority != "" {
					return &PlaintextError{Action: "connect to", Target: target}
				}
				rest = a
			}
			addr = rest
		}
	}
	for one := range strings.SplitSeq(addr, ",") { // ipv4: and ipv6: take lists
		host, _, err := net.SplitHostPort(one)
		if err != nil {
			host = one
		}
		if !isLoopbackHost(host) {
			return &PlaintextError{Action: "connect to", Target: target}
		}
	}
	return nil
}

// LoopbackOnly refuses every address but this machine's loopback, for [DialConfig.Plaintext].
func LoopbackOnly(addr netip.Addr) error {
	if addr.Unmap().IsLoopback() {
		return nil
	}
	return &PlaintextError{Action: "connect to", Target: addr.String()}
}

// PrivateOnly accepts loopback and the private ranges (RFC 1918, fc00::/7) and refuses all others,
// link-local ones (where clouds answer for machine credentials) included. For services of the user,
// which may have no certificates.
func PrivateOnly(addr netip.Addr) error {
	a := addr.Unmap()
	if a.IsLoopback() || a.IsPrivate() {
		return nil
	}
	return &PlaintextError{Action: "connect to", Target: addr.String()}
}

// isLoopbackHost knows loopback by name or number. Other names are not resolved: what they mean may
// change after the check.
func isLoopbackHost(host string) bool {
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// guardedDialer connects like gRPC's own dialer and, before any byte is sent, checks the address
// that was really reached. Checking the connection and not the name leaves no gap between the check
// and the use of a name.
func guardedDialer(check func(netip.Addr) error) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, target string) (net.Conn, error) {
		var d net.Dialer
		if path, ok := strings.CutPrefix(target, "unix:"); ok {
			return d.DialContext(ctx, "unix", strings.TrimPrefix(path, "//"))
		}
		if strings.HasPrefix(target, "\x00") {
			return d.DialContext(ctx, "unix", target)
		}
		d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("check address %s: %w", address, err)
			}
			return check(ap.Addr())
		}
		conn, err := d.DialContext(ctx, "tcp", target)
		if refused := (*PlaintextError)(nil); errors.As(err, &refused) {
			return nil, refused
		}
		return conn, err
	}
}
