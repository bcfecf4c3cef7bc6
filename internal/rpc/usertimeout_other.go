//go:build !linux

package rpc

import (
	"net"
	"time"
)

// setUserTimeout does nothing: keepalive finds out whose other side is gone.
func setUserTimeout(net.Conn, time.Duration) {}
